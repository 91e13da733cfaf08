//! A call of a socket, as the cgroup hooks for addresses see it.

use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

use aya_ebpf::{
    EbpfContext,
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_uid_gid, bpf_get_netns_cookie,
        generated::bpf_set_retval,
    },
    programs::SockAddrContext,
};
use ebpf::{Addr, capture::Capture, packet::Protocol};

/// What a hook returns to let a call go on.
pub(super) const PROCEED: i32 = 1;
/// What it returns to have the call fail, with EPERM unless [`fail_with`] says something else.
pub(super) const REFUSE: i32 = 0;
/// `IPPROTO_MPTCP`: TCP on the wire.
const MPTCP: u32 = 262;

/// Which half of the context counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// The context of a hook.
pub(super) struct Call {
    ctx: *mut bpf_sock_addr,
    family: Family,
}

impl Call {
    #[inline(always)]
    pub(super) fn new(ctx: &SockAddrContext, family: Family) -> Self {
        Self {
            ctx: ctx.as_ptr().cast(),
            family,
        }
    }

    /// The other side's address.
    #[inline(always)]
    pub(super) fn addr(&self) -> Addr {
        // SAFETY: the kernel hands a valid context to the program for as long as it runs. Volatile, because the
        // verifier wants loads of the fields' own width.
        unsafe {
            match self.family {
                Family::V4 => Addr::v4(read_volatile(addr_of!((*self.ctx).user_ip4)).to_ne_bytes()),
                Family::V6 => Addr::from_words([
                    read_volatile(addr_of!((*self.ctx).user_ip6[0])),
                    read_volatile(addr_of!((*self.ctx).user_ip6[1])),
                    read_volatile(addr_of!((*self.ctx).user_ip6[2])),
                    read_volatile(addr_of!((*self.ctx).user_ip6[3])),
                ]),
            }
        }
    }

    /// The other side's port.
    #[inline(always)]
    pub(super) fn port(&self) -> u16 {
        // SAFETY: as in `addr`.
        u16::from_be(unsafe { read_volatile(addr_of!((*self.ctx).user_port)) } as u16)
    }

    /// Puts another address in the place of the other side's. In an IPv6 context an IPv4 address is a mapped one.
    #[inline(always)]
    pub(super) fn rewrite(&self, addr: Addr, port: u16) {
        let [a, b, c, d] = addr.words();
        // SAFETY: as in `addr`; these fields may be written.
        unsafe {
            match self.family {
                Family::V4 => write_volatile(addr_of_mut!((*self.ctx).user_ip4), d),
                Family::V6 => {
                    write_volatile(addr_of_mut!((*self.ctx).user_ip6[0]), a);
                    write_volatile(addr_of_mut!((*self.ctx).user_ip6[1]), b);
                    write_volatile(addr_of_mut!((*self.ctx).user_ip6[2]), c);
                    write_volatile(addr_of_mut!((*self.ctx).user_ip6[3]), d);
                }
            }
            write_volatile(addr_of_mut!((*self.ctx).user_port), u32::from(port.to_be()));
        }
    }

    /// The socket. It may be absent, which the callers' checks tell the verifier.
    #[inline(always)]
    pub(super) fn sk(&self) -> *mut bpf_sock {
        // SAFETY: as in `addr`.
        unsafe { (*self.ctx).__bindgen_anon_1.sk }
    }

    /// The port that the socket is bound to, 0 for none.
    #[inline(always)]
    pub(super) fn local_port(&self) -> u16 {
        let sk = self.sk();
        if sk.is_null() {
            return 0;
        }
        // SAFETY: a socket that is there.
        unsafe { read_volatile(addr_of!((*sk).src_port)) as u16 }
    }

    /// The address that the socket is bound to, of the family of `peer`; unspecified for none.
    #[inline(always)]
    pub(super) fn local_addr(&self, peer: Addr) -> Addr {
        let sk = self.sk();
        if sk.is_null() {
            return Addr::UNSPECIFIED;
        }
        // SAFETY: a socket that is there.
        unsafe {
            if peer.is_v4() {
                match read_volatile(addr_of!((*sk).src_ip4)) {
                    0 => Addr::UNSPECIFIED,
                    addr => Addr::v4(addr.to_ne_bytes()),
                }
            } else {
                Addr::from_words([
                    read_volatile(addr_of!((*sk).src_ip6[0])),
                    read_volatile(addr_of!((*sk).src_ip6[1])),
                    read_volatile(addr_of!((*sk).src_ip6[2])),
                    read_volatile(addr_of!((*sk).src_ip6[3])),
                ])
            }
        }
    }

    #[inline(always)]
    pub(super) fn protocol(&self) -> Protocol {
        // SAFETY: as in `addr`.
        match unsafe { read_volatile(addr_of!((*self.ctx).protocol)) } {
            MPTCP => Protocol::TCP,
            number => Protocol(number as u8),
        }
    }

    /// The network namespace of the socket, which need not be the caller's.
    #[inline(always)]
    pub(super) fn netns_cookie(&self) -> u64 {
        // SAFETY: as in `addr`.
        unsafe { bpf_get_netns_cookie(self.ctx.cast()) }
    }
}

/// Whether the proxy calls.
#[inline(always)]
pub(super) fn is_by_proxy(capture: &Capture) -> bool {
    if capture.is_proxy(caller_at) {
        return true;
    }
    let ids = bpf_get_current_uid_gid();
    capture.has_proxy_user() && capture.is_proxy_user(ids as u32, (ids >> 32) as u32)
}

/// Has a call that is refused fail with this error instead of EPERM.
#[inline(always)]
pub(super) fn fail_with(errno: i32) {
    // SAFETY: the helper has no requirements.
    unsafe { bpf_set_retval(-errno) };
}

/// The number of the caller's cgroup at a level.
#[inline(always)]
pub(super) fn caller_at(level: u32) -> u64 {
    // SAFETY: the helper has no requirements.
    unsafe { bpf_get_current_ancestor_cgroup_id(level.cast_signed()) }
}
