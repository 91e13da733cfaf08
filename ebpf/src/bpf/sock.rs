//! Calls of sockets: refused early, so that an application fails at once instead of timing out.
//!
//! Never the enforcement point: raw sockets, packet sockets and forwarded packets do not come by here.

use core::ptr::{addr_of, read_volatile};

use aya_ebpf::{
    EbpfContext,
    bindings::bpf_sock_addr,
    helpers::{bpf_get_current_ancestor_cgroup_id, bpf_get_netns_cookie},
    macros::cgroup_sock_addr,
    programs::SockAddrContext,
};
use ebpf::{
    Addr, Hook, Verdict, decide,
    event::{Outcome, Subject},
    packet::{Protocol, Tuple},
    rules::{Enforcement, Identity},
};

use super::{report::Report, rules::Generation};

/// What the hook returns to let a call go on.
const PROCEED: i32 = 1;
/// What it returns to have the call fail with EPERM.
const REFUSE: i32 = 0;
/// `IPPROTO_MPTCP`: TCP on the wire.
const MPTCP: u32 = 262;

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    judge(&Call(ctx.as_ptr().cast()), Hook::Connect4)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    judge(&Call(ctx.as_ptr().cast()), Hook::Connect6)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    judge(&Call(ctx.as_ptr().cast()), Hook::Sendmsg4)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    judge(&Call(ctx.as_ptr().cast()), Hook::Sendmsg6)
}

struct Call(*mut bpf_sock_addr);

impl Call {
    #[inline(always)]
    fn destination(&self, hook: Hook) -> Addr {
        // SAFETY: the kernel hands a valid context to the program for as long as it runs. Volatile, because the
        // verifier wants loads of the fields' own width.
        unsafe {
            if matches!(hook, Hook::Connect4 | Hook::Sendmsg4) {
                return Addr::v4(read_volatile(addr_of!((*self.0).user_ip4)).to_ne_bytes());
            }
            let words = [
                read_volatile(addr_of!((*self.0).user_ip6[0])).to_ne_bytes(),
                read_volatile(addr_of!((*self.0).user_ip6[1])).to_ne_bytes(),
                read_volatile(addr_of!((*self.0).user_ip6[2])).to_ne_bytes(),
                read_volatile(addr_of!((*self.0).user_ip6[3])).to_ne_bytes(),
            ];
            let [a, b, c, d] = words;
            Addr::v6([
                a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2],
                d[3],
            ])
        }
    }

    #[inline(always)]
    fn ports(&self) -> (u16, u16) {
        // SAFETY: as in `destination`. The socket may be absent, which the check tells the verifier.
        unsafe {
            let remote = u16::from_be(read_volatile(addr_of!((*self.0).user_port)) as u16);
            let sk = (*self.0).__bindgen_anon_1.sk;
            let local = if sk.is_null() {
                0
            } else {
                read_volatile(addr_of!((*sk).src_port)) as u16
            };
            (local, remote)
        }
    }

    #[inline(always)]
    fn protocol(&self) -> Protocol {
        // SAFETY: as in `destination`.
        match unsafe { read_volatile(addr_of!((*self.0).protocol)) } {
            MPTCP => Protocol::TCP,
            number => Protocol(number as u8),
        }
    }

    #[inline(always)]
    fn netns_cookie(&self) -> u64 {
        // SAFETY: as in `destination`.
        unsafe { bpf_get_netns_cookie(self.0.cast()) }
    }
}

#[inline(always)]
fn judge(call: &Call, hook: Hook) -> i32 {
    let Some(rules) = Generation::active() else {
        return PROCEED;
    };
    if rules.header.enforcement() == Enforcement::Off {
        return PROCEED;
    }
    let netns = Identity::Netns(call.netns_cookie());
    let known = match rules.endpoint(netns) {
        Some(endpoint) => Some((netns, endpoint)),
        // SAFETY: the helper has no requirements.
        None => rules
            .endpoint_by_cgroup(|level| unsafe { bpf_get_current_ancestor_cgroup_id(level.cast_signed()) }),
    };
    let Some((identity, endpoint)) = known else {
        return PROCEED;
    };
    // Who is audited or met with silence learns nothing here: his packets are judged on the device.
    if endpoint.is_audited() || !endpoint.rejects() || !call.protocol().is_known() {
        return PROCEED;
    }
    let dst = call.destination(hook);
    let (sport, dport) = call.ports();
    // A server in the node's network namespace may be answering; by which address is not known before the packet.
    if endpoint.is_host() && sport != 0 && !matches!(call.protocol(), Protocol::TCP) {
        return PROCEED;
    }
    let tuple = Tuple {
        src: endpoint.own_for(dst),
        dst,
        sport,
        dport,
        protocol: call.protocol(),
    };
    match decide::call(&rules, endpoint, &tuple) {
        Verdict::Allow(_) => PROCEED,
        Verdict::Deny(reason) => {
            let subject = Subject {
                identity,
                policy: endpoint.policy(),
                generation: rules.header.generation(),
            };
            Report {
                hook,
                outcome: Outcome::Denied(reason),
                subject,
                ether_type: 0,
                len: 0,
            }
            .send(&tuple);
            REFUSE
        }
    }
}
