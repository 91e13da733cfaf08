//! What leaves the node: the backstop.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};
use ebpf::{
    Addr, AllowReason, DropReason, Hook,
    decide::{self, Lookup as _},
    event::{Outcome, Subject},
    flow::FlowKey,
    packet::{Bytes as _, ETH_IPV6, Link, Packet},
    reason::Approval,
    rules::{Endpoint, Enforcement, Identity, PolicyId},
};

use network_types::{eth::EthHdr, ip::Ipv6Hdr};

use super::{
    flows,
    report::Report,
    rules::Generation,
    skb::{Skb, word},
};

/// tc egress of an uplink with Ethernet frames.
#[classifier]
pub fn node_out(ctx: TcContext) -> i32 {
    node_out_of(&Skb::new(&ctx), Link::Ethernet)
}

/// tc egress of an uplink without link headers.
#[classifier]
pub fn node_out_ip(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let link = Link::Ip(skb.ether_type());
    node_out_of(&skb, link)
}

#[inline(always)]
fn node_out_of(skb: &Skb, link: Link) -> i32 {
    let Some(rules) = Generation::active() else {
        return TC_ACT_SHOT;
    };
    if rules.header.enforcement() == Enforcement::Off {
        return TC_ACT_UNSPEC;
    }
    if skb.came_in_by() == 0 && !made_anew(&rules, skb, link) {
        own(&rules, skb, link)
    } else {
        passing(&rules, skb, link)
    }
}

/// Whether this may be an IPv6 fragment that the node has made of a forwarded packet. Such a one forgets the device that
/// the packet came in by (`ip6_copy_metadata` in `net/ipv6/ip6_output.c`), but no socket made it either.
#[inline(never)]
fn made_anew(rules: &Generation, skb: &Skb, link: Link) -> bool {
    const HOP_BY_HOP: u8 = 0;
    const FRAGMENT: u8 = 44;
    const DESTINATION: u8 = 60;
    if skb.ether_type() != ETH_IPV6 || skb.has_socket() {
        return false;
    }
    let l3 = match link {
        Link::Ethernet => size_of::<EthHdr>(),
        Link::Ip(_) => 0,
    };
    let Some(ip) = skb.load::<Ipv6Hdr>(l3) else {
        return false;
    };
    matches!(ip.next_hdr, HOP_BY_HOP | FRAGMENT | DESTINATION)
        && !rules.groups(Addr::v6(ip.dst_addr)).is_internal()
}

/// A packet of one of the node's own sockets: of a pod in the node's network namespace, or of nobody's concern.
#[inline(always)]
fn own(rules: &Generation, skb: &Skb, link: Link) -> i32 {
    let Some((identity, endpoint)) = rules.endpoint_by_cgroup(|level| skb.cgroup_at(level)) else {
        return TC_ACT_UNSPEC;
    };
    let Some(desk) = skb.parse(link) else {
        return TC_ACT_SHOT;
    };
    let verdict = desk.judge(|packet, parsed| judge_host(rules, endpoint, packet, parsed));
    let subject = Subject {
        identity,
        policy: endpoint.policy(),
        generation: rules.header.generation(),
    };
    act(
        skb,
        desk.packet(),
        Outcome::of(verdict, endpoint.is_audited()),
        subject,
    )
}

/// A packet that came in by another device.
#[inline(always)]
fn passing(rules: &Generation, skb: &Skb, link: Link) -> i32 {
    let Some(desk) = skb.parse(link) else {
        return TC_ACT_SHOT;
    };
    let mark = skb.mark();
    let verdict = desk.judge(|packet, parsed| judge_forwarded(rules, mark, packet, parsed));
    let identity = Identity::Device(skb.came_in_by());
    let subject = Subject {
        identity,
        policy: PolicyId(0),
        generation: rules.header.generation(),
    };
    let audited = rules.header.enforcement() == Enforcement::Audit;
    act(skb, desk.packet(), Outcome::of(verdict, audited), subject)
}

#[inline(always)]
fn act(skb: &Skb, packet: &Packet, outcome: Outcome, subject: Subject) -> i32 {
    if let Outcome::Allowed(reason) = outcome {
        note(reason, packet);
    }
    let (ether_type, len) = (packet.ether_type, skb.len() as u32);
    Report::of_packet(Hook::NodeOut, outcome, subject, ether_type, len).send(&packet.tuple);
    match outcome {
        Outcome::Allowed(_) | Outcome::Audited(_) | Outcome::Redirected(_) => TC_ACT_UNSPEC,
        Outcome::Denied(_) => TC_ACT_SHOT,
    }
}

#[inline(never)]
fn judge_host(
    rules: &Generation,
    endpoint: &Endpoint,
    packet: &Packet,
    parsed: Result<(), DropReason>,
) -> u16 {
    word(decide::host_out(rules, endpoint, packet, parsed))
}

#[inline(never)]
fn judge_forwarded(rules: &Generation, mark: u32, packet: &Packet, parsed: Result<(), DropReason>) -> u16 {
    word(decide::forwarded(
        rules,
        rules.header.enforcement(),
        Approval::read(mark),
        packet,
        parsed,
    ))
}

#[inline(always)]
fn note(reason: AllowReason, packet: &Packet) {
    match reason {
        AllowReason::Reply => {
            flows::note_answer(FlowKey::NODE, packet);
            flows::note_first_fragment(FlowKey::NODE, packet);
        }
        AllowReason::Rule => flows::note_first_fragment(FlowKey::NODE, packet),
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
