//! What a pod sends: the enforcement point.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};
use ebpf::{
    AllowReason, DropReason, Hook, LeaveReason, RedirectReason,
    capture::{self, Capture, Fate, Lookup as _},
    decide,
    event::{Outcome, Subject},
    packet::{Bytes as _, Link, Packet},
    reason::Approval,
    rules::{Endpoint, Enforcement, Identity, PolicyId},
};

use super::{
    flows, reject,
    report::Report,
    rules::Generation,
    skb::{Desk, Skb, word},
    sockets::{self, HandOver},
};

/// What the node's routing hands to local sockets: redirected packets, which have no other mark.
const NODE_MARK: u32 = 0x1111;

/// tc ingress of a pod device.
#[classifier]
pub fn pod_out(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let (Some(rules), Some(desk)) = (Generation::active(), skb.parse(Link::Ethernet)) else {
        return TC_ACT_SHOT;
    };
    let identity = Identity::Device(skb.device());
    let endpoint = rules.endpoint_on(skb.device());
    let (verdict, audited, policy) = if let Some(endpoint) = endpoint.filter(|e| !e.is_stranger()) {
        let verdict = desk.judge(|packet, parsed| judge(&rules, endpoint, packet, parsed));
        (verdict, endpoint.is_audited(), endpoint.policy())
    } else {
        let enforcement = rules.header.enforcement();
        (
            decide::unknown_sender(enforcement),
            enforcement == Enforcement::Audit,
            PolicyId(0),
        )
    };
    let outcome = match endpoint {
        Some(endpoint) if endpoint.captured() != 0 => {
            let by_rules = Outcome::of(verdict, audited).to_word();
            desk.conclude(|desk| redirect(&rules, endpoint, &skb, desk, by_rules))
        }
        Some(_) | None => Outcome::of(verdict, audited),
    };
    let packet = desk.packet();
    let generation = rules.header.generation();
    if skb.is_replay() {
        skb.answer_replay(outcome, generation);
    } else {
        let subject = Subject {
            identity,
            policy,
            generation,
        };
        let (ether_type, len) = (packet.ether_type, skb.len() as u32);
        Report::of_packet(Hook::PodOut, outcome, subject, ether_type, len).send(&packet.tuple);
        note(outcome, &skb, packet);
    }
    match outcome {
        Outcome::Allowed(reason) => {
            skb.approve(reason.approval());
            TC_ACT_UNSPEC
        }
        Outcome::Audited(_) => {
            skb.approve(Approval::External);
            TC_ACT_UNSPEC
        }
        Outcome::Redirected(_) => {
            skb.set_mark(NODE_MARK, u32::MAX);
            TC_ACT_UNSPEC
        }
        Outcome::Denied(reason) => refuse(&skb, endpoint, packet, reason),
    }
}

#[inline(never)]
fn judge(rules: &Generation, endpoint: &Endpoint, packet: &Packet, parsed: Result<(), DropReason>) -> u16 {
    word(decide::pod_out(rules, endpoint, packet, parsed))
}

/// What capture makes of the verdict. Whether the proxy is there is found out here: what it does not take is refused.
#[inline(never)]
fn redirect(rules: &Generation, endpoint: &Endpoint, skb: &Skb, desk: &Desk, by_rules: u16) -> u16 {
    let Some(capture) = rules.capture(endpoint.captured()) else {
        return by_rules;
    };
    let by_rules = Outcome::from_word(by_rules).unwrap_or(Outcome::Denied(DropReason::NoRules));
    let packet = desk.packet();
    // A replayed packet has no socket: with a proxy inside it stands for one of the proxy's.
    let by_proxy = || {
        let sent_to_node = !capture.is_inside() && skb.is_redirected(&packet.tuple);
        sent_to_node || (skb.is_replay() && capture.is_inside()) || skb.is_of_proxy(capture)
    };
    let fate = capture::sent(rules, capture, packet, desk.parsed(), by_proxy);
    let overruled = capture::overrule(by_rules, fate);
    if capture.is_inside() {
        return overruled.to_word();
    }
    // The proxy takes the source for the pod, with rules that ask for it or without.
    let is_own = endpoint.owns(packet.tuple.src);
    if matches!(overruled, Outcome::Redirected(_)) && !is_own {
        return Outcome::Denied(DropReason::ForgedSource).to_word();
    }
    if skb.is_replay() {
        return overruled.to_word();
    }
    match fate {
        // What goes to the node itself gets there without our help.
        Fate::Leave(LeaveReason::Established) if rules.owner(packet.tuple.dst) == 0 => {
            let taken = capture::overrule(by_rules, Fate::Redirect(RedirectReason::Outbound));
            if is_own && matches!(taken, Outcome::Redirected(_)) && sockets::deliver(skb, packet) != 0 {
                return taken.to_word();
            }
        }
        Fate::Redirect(reason) if matches!(overruled, Outcome::Redirected(_)) => {
            return call(capture, skb, packet, reason).to_word();
        }
        Fate::Leave(_) | Fate::Redirect(_) | Fate::Refuse(_) => {}
    }
    overruled.to_word()
}

/// Hands a call to the proxy on the node.
#[inline(always)]
fn call(capture: &Capture, skb: &Skb, packet: &Packet, reason: RedirectReason) -> Outcome {
    // The connection may be there already: a segment that got lost is sent again.
    if sockets::deliver(skb, packet) != 0 {
        return Outcome::Redirected(reason);
    }
    let tuple = &packet.tuple;
    // A bridge passes it on without asking the node's sockets.
    if capture.is_at_call() {
        return Outcome::Denied(DropReason::Uncaptured);
    }
    match sockets::hand_over(skb, tuple, &tuple.dst, capture.port_for(reason), Some(capture)) {
        HandOver::Done => Outcome::Redirected(reason),
        HandOver::NoProxy => Outcome::Denied(DropReason::NoProxy),
        HandOver::Impostor => Outcome::Denied(DropReason::Impostor),
    }
}

/// Keeps the tables of flows and fragments.
#[inline(always)]
fn note(outcome: Outcome, skb: &Skb, packet: &Packet) {
    let Outcome::Allowed(reason) = outcome else {
        return;
    };
    match reason {
        AllowReason::Rule => {
            flows::note_ours(skb.device(), packet);
            flows::note_first_fragment(skb.device(), packet);
        }
        AllowReason::Reply => {
            flows::note_answer(skb.device(), packet);
            flows::note_first_fragment(skb.device(), packet);
        }
        AllowReason::NotEnforced
        | AllowReason::NotSubject
        | AllowReason::Neighbour
        | AllowReason::Internal
        | AllowReason::RelatedError
        | AllowReason::Fragment
        | AllowReason::Approved
        | AllowReason::Own => {}
    }
}

/// Drops, and answers if the policy wants it and the source is known to be the pod's own.
#[inline(always)]
fn refuse(skb: &Skb, endpoint: Option<&Endpoint>, packet: &Packet, reason: DropReason) -> i32 {
    match reason {
        DropReason::NotGateway | DropReason::NotRegistered | DropReason::Port => {
            if endpoint.is_some_and(Endpoint::rejects) && !skb.is_replay() {
                return reject::answer(skb, packet);
            }
            TC_ACT_SHOT
        }
        // Answered as a port that nobody listens on.
        DropReason::NoProxy | DropReason::ProxyPort | DropReason::Uncaptured if !skb.is_replay() => {
            reject::answer(skb, packet)
        }
        DropReason::NoProxy
        | DropReason::ProxyPort
        | DropReason::Uncaptured
        | DropReason::TcpFragment
        | DropReason::Impostor
        | DropReason::NoMemory
        | DropReason::UnknownEthertype
        | DropReason::VlanTag
        | DropReason::Truncated
        | DropReason::Malformed
        | DropReason::UnknownProtocol
        | DropReason::HeaderChain
        | DropReason::SourceRoute
        | DropReason::FragmentWithoutFirst
        | DropReason::ForgedMac
        | DropReason::ForgedSource
        | DropReason::ForgedNeighbour
        | DropReason::Multicast
        | DropReason::Martian
        | DropReason::UnknownEndpoint
        | DropReason::UnrelatedError
        | DropReason::NotApproved
        | DropReason::NoRules
        | DropReason::Tunnel => TC_ACT_SHOT,
    }
}
