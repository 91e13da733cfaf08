//! Calls of sockets: those that belong to the proxy are sent there, and what is not permitted is refused early, so that an
//! application fails at once instead of timing out.
//!
//! Never the enforcement point: raw sockets, packet sockets and forwarded packets do not come by here. `pod_out` sees
//! what does not, and refuses what should have.

use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
use ebpf::{
    DropReason, Hook, RedirectReason, Verdict,
    capture::{self, Capture, Fate, Mode, Original},
    decide,
    event::{Outcome, Subject},
    packet::{Protocol, Tuple},
    rules::{Enforcement, Identity, PolicyId},
};

use super::{
    call::{Call, Family, PROCEED, REFUSE, caller_at, is_by_proxy},
    originals,
    report::Report,
    rules::Generation,
};

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    judge(&Call::new(&ctx, Family::V4), Hook::Connect4)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    judge(&Call::new(&ctx, Family::V6), Hook::Connect6)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    judge(&Call::new(&ctx, Family::V4), Hook::Sendmsg4)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    judge(&Call::new(&ctx, Family::V6), Hook::Sendmsg6)
}

#[inline(always)]
fn judge(call: &Call, hook: Hook) -> i32 {
    let Some(rules) = Generation::active() else {
        return PROCEED;
    };
    let cookie = call.netns_cookie();
    match rules.capture(cookie) {
        None => enforce(&rules, call, hook, cookie),
        Some(capture) => match redirect(&rules, capture, call) {
            Fate::Leave(_) => enforce(&rules, call, hook, cookie),
            Fate::Redirect(reason) => send_to_proxy(&rules, capture, call, hook, reason),
            Fate::Refuse(reason) => {
                report(&rules, call, hook, cookie, Outcome::Denied(reason));
                REFUSE
            }
        },
    }
}

#[inline(always)]
fn redirect(rules: &Generation, capture: &Capture, call: &Call) -> Fate {
    let dst = call.addr();
    let by_proxy = is_by_proxy(capture);
    let asked = capture::Call {
        src: call.local_addr(dst),
        dst,
        dport: call.port(),
        protocol: call.protocol(),
        by_proxy,
    };
    capture::call(rules, capture, &asked)
}

/// Sends the call to the proxy and keeps where it wanted to go.
#[inline(always)]
fn send_to_proxy(
    rules: &Generation,
    capture: &Capture,
    call: &Call,
    hook: Hook,
    reason: RedirectReason,
) -> i32 {
    let dst = call.addr();
    let port = capture.port_for(reason);
    let on_node = matches!(capture.mode(), Mode::Guard | Mode::Node);
    let to = match reason {
        RedirectReason::Dns if !matches!(call.protocol(), Protocol::TCP) => capture.dns_for(dst),
        _ if on_node && capture::redirects_at_call(rules, capture, dst) => capture.node_for(dst),
        _ if on_node => return PROCEED,
        RedirectReason::Dns => capture.dns_for(dst),
        RedirectReason::Outbound | RedirectReason::Inbound | RedirectReason::VirtualInterface => {
            capture.own_for(dst)
        }
    };
    if to.is_unspecified() {
        // The node has no address of this family: the pod's device hands the call over as it is.
        return PROCEED;
    }
    let original = Original::new(dst, call.port(), to, port).crossing(on_node);
    let outcome = if originals::keep(call.sk(), &original) {
        Outcome::Redirected(reason)
    } else {
        Outcome::Denied(DropReason::NoMemory)
    };
    report(rules, call, hook, capture.netns(), outcome);
    match outcome {
        Outcome::Redirected(_) => {
            call.rewrite(to, port);
            PROCEED
        }
        Outcome::Allowed(_) | Outcome::Audited(_) | Outcome::Denied(_) => REFUSE,
    }
}

#[inline(always)]
fn report(rules: &Generation, call: &Call, hook: Hook, cookie: u64, outcome: Outcome) {
    let subject = Subject {
        identity: Identity::Netns(cookie),
        policy: PolicyId(0),
        generation: rules.header.generation(),
    };
    let dst = call.addr();
    let tuple = Tuple {
        src: call.local_addr(dst),
        dst,
        sport: call.local_port(),
        dport: call.port(),
        protocol: call.protocol(),
    };
    Report::of_call(hook, outcome, subject).send(&tuple);
}

/// The rules' word on a call that goes where it wants to.
#[inline(always)]
fn enforce(rules: &Generation, call: &Call, hook: Hook, cookie: u64) -> i32 {
    if rules.header.enforcement() == Enforcement::Off {
        return PROCEED;
    }
    let netns = Identity::Netns(cookie);
    let known = match rules.endpoint(netns) {
        Some(endpoint) => Some((netns, endpoint)),
        None => rules.endpoint_by_cgroup(caller_at),
    };
    let Some((identity, endpoint)) = known else {
        return PROCEED;
    };
    // Who is audited or met with silence learns nothing here: his packets are judged on the device.
    if endpoint.is_audited() || !endpoint.rejects() || !call.protocol().is_known() {
        return PROCEED;
    }
    let (sport, protocol) = (call.local_port(), call.protocol());
    // A server in the node's network namespace may be answering; by which address is not known before the packet.
    if endpoint.is_host() && sport != 0 && !matches!(protocol, Protocol::TCP) {
        return PROCEED;
    }
    let dst = call.addr();
    let tuple = Tuple {
        src: endpoint.own_for(dst),
        dst,
        sport,
        dport: call.port(),
        protocol,
    };
    match decide::call(rules, endpoint, &tuple) {
        Verdict::Allow(_) | Verdict::Redirect(_) => PROCEED,
        Verdict::Deny(reason) => {
            let subject = Subject {
                identity,
                policy: endpoint.policy(),
                generation: rules.header.generation(),
            };
            Report::of_call(hook, Outcome::Denied(reason), subject).send(&tuple);
            REFUSE
        }
    }
}
