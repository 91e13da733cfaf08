//! The proxy's question where a captured call wanted to go: `SO_ORIGINAL_DST`.

use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{bpf_sock, bpf_sockopt},
    helpers::bpf_get_netns_cookie,
    macros::cgroup_sockopt,
    programs::SockoptContext,
};
use ebpf::{Addr, capture::port};

use super::{originals, rules::Generation};

/// `SOL_IP`.
const IP: i32 = 0;
/// `SOL_IPV6`.
const IPV6: i32 = 41;
/// `SO_ORIGINAL_DST` and `IP6T_SO_ORIGINAL_DST` (`include/uapi/linux/netfilter_ipv4.h`, `…/netfilter_ipv6/ip6_tables.h`).
const ORIGINAL_DST: i32 = 80;
/// `AF_INET`.
const INET: u16 = 2;
/// `AF_INET6`.
const INET6: u16 = 10;
/// What the hook returns to have the answer stand, the kernel's or ours.
const DONE: i32 = 1;

/// `struct sockaddr_in`.
#[repr(C)]
struct SockaddrIn {
    family: u16,
    port: u16,
    addr: u32,
    zero: [u32; 2],
}

/// `struct sockaddr_in6`.
#[repr(C)]
struct SockaddrIn6 {
    family: u16,
    port: u16,
    flow: u32,
    addr: [u32; 4],
    scope: u32,
}

/// `getsockopt()` of the proxy. Whatever else it asks is the kernel's to answer.
#[cgroup_sockopt(getsockopt)]
pub fn original_dst(ctx: SockoptContext) -> i32 {
    let question = Question(ctx.as_ptr().cast());
    if let (level @ (IP | IPV6), ORIGINAL_DST) = question.asked()
        && let Some((addr, port)) = question.original()
    {
        question.answer(level, addr, port);
    }
    DONE
}

struct Question(*mut bpf_sockopt);

impl Question {
    #[inline(always)]
    fn asked(&self) -> (i32, i32) {
        // SAFETY: the kernel hands a valid context to the program for as long as it runs. Volatile, here and below,
        // because the verifier wants every field to be read and written for itself.
        unsafe {
            (
                read_volatile(addr_of!((*self.0).level)),
                read_volatile(addr_of!((*self.0).optname)),
            )
        }
    }

    #[inline(always)]
    fn original(&self) -> Option<(Addr, u16)> {
        // SAFETY: as in `asked`.
        let sk = unsafe { (*self.0).__bindgen_anon_1.sk };
        if let Some(original) = originals::kept(sk) {
            return Some((original.addr(), original.port()));
        }
        self.handed_over(sk)
    }

    /// A call that was handed to the proxy as it came has its original destination for its local address.
    #[inline(always)]
    fn handed_over(&self, sk: *mut bpf_sock) -> Option<(Addr, u16)> {
        if sk.is_null() {
            return None;
        }
        // SAFETY: as in `asked`.
        let netns = unsafe { bpf_get_netns_cookie(self.0.cast()) };
        let captured = Generation::active()?.capture(netns)?.is_inside();
        // SAFETY: a socket that is there. All that may be wanted is read, as the verifier refuses addresses inside it that
        // are kept for later.
        let (family, port, v4, v6) = unsafe {
            (
                read_volatile(addr_of!((*sk).family)),
                read_volatile(addr_of!((*sk).src_port)) as u16,
                read_volatile(addr_of!((*sk).src_ip4)),
                [
                    read_volatile(addr_of!((*sk).src_ip6[0])),
                    read_volatile(addr_of!((*sk).src_ip6[1])),
                    read_volatile(addr_of!((*sk).src_ip6[2])),
                    read_volatile(addr_of!((*sk).src_ip6[3])),
                ],
            )
        };
        if !captured || port == 0 || port::is_proxys(port) {
            return None;
        }
        let addr = if family == u32::from(INET) {
            Addr::v4(v4.to_ne_bytes())
        } else {
            Addr::from_words(v6)
        };
        Some((addr, port))
    }

    /// Answers in the family of the level; an IPv4 address in the IPv6 one is a mapped one.
    #[inline(always)]
    fn answer(&self, level: i32, addr: Addr, port: u16) {
        match level {
            IP if addr.is_v4() => self.write(&SockaddrIn {
                family: INET,
                port: port.to_be(),
                addr: addr.words()[3],
                zero: [0; 2],
            }),
            IPV6 => self.write(&SockaddrIn6 {
                family: INET6,
                port: port.to_be(),
                flow: 0,
                addr: addr.words(),
                scope: 0,
            }),
            _ => {}
        }
    }

    #[inline(always)]
    fn write<T>(&self, answer: &T) {
        // SAFETY: as in `asked`; the place for the answer is as long as the comparison says.
        unsafe {
            let place = (*self.0).__bindgen_anon_2.optval.cast::<T>();
            let end = (*self.0).__bindgen_anon_3.optval_end;
            if place.add(1).cast() > end {
                return;
            }
            place.copy_from_nonoverlapping(answer, 1);
            write_volatile(
                addr_of_mut!((*self.0).optlen),
                (size_of::<T>() as u32).cast_signed(),
            );
            write_volatile(addr_of_mut!((*self.0).retval), 0);
        }
    }
}
