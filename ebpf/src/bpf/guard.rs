//! `bind()`: the proxy's ports are the proxy's.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use ebpf::{
    Addr, DropReason, Hook, RedirectReason,
    capture::{Capture, Mode, port},
    event::{Outcome, Subject},
    packet::Tuple,
    rules::{Identity, PolicyId},
};

use super::{
    call::{self, Call, Family, PROCEED, REFUSE},
    report::Report,
    rules::Generation,
};

/// `EADDRINUSE`: what an application would see if the proxy were there first.
const IN_USE: i32 = 98;

#[cgroup_sock_addr(bind4)]
pub fn bind4(ctx: SockAddrContext) -> i32 {
    guard(&Call::new(&ctx, Family::V4), Hook::Bind4)
}

#[cgroup_sock_addr(bind6)]
pub fn bind6(ctx: SockAddrContext) -> i32 {
    guard(&Call::new(&ctx, Family::V6), Hook::Bind6)
}

#[inline(always)]
fn guard(call: &Call, hook: Hook) -> i32 {
    let port = call.port();
    let Some(rules) = Generation::active() else {
        return PROCEED;
    };
    let netns = call.netns_cookie();
    let Some(capture) = rules.capture(netns) else {
        return PROCEED;
    };
    if !is_kept(capture, port) || call::is_by_proxy(capture) {
        return PROCEED;
    }
    let subject = Subject {
        identity: Identity::Netns(netns),
        policy: PolicyId(0),
        generation: rules.header.generation(),
    };
    let tuple = Tuple {
        src: call.addr(),
        dst: Addr::UNSPECIFIED,
        sport: port,
        dport: 0,
        protocol: call.protocol(),
    };
    Report::of_call(hook, Outcome::Denied(DropReason::ProxyPort), subject).send(&tuple);
    call::fail_with(IN_USE);
    REFUSE
}

#[inline(always)]
fn is_kept(capture: &Capture, port: u16) -> bool {
    let is_kept = match capture.mode() {
        Mode::InPod | Mode::Sidecar => port::is_proxys(port),
        // The proxy listens on the node, not in the pod.
        Mode::Node => false,
        Mode::Guard => {
            port == capture.port_for(RedirectReason::Outbound)
                || (capture.has_dns() && port == capture.port_for(RedirectReason::Dns))
        }
    };
    is_kept && port != 0
}
