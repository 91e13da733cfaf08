//! Inside a captured pod: calls to it are handed to its proxy, and the answers to the proxy find back to it.
//!
//! These programs are on the pod's own devices, in its network namespace. Which pod that is they tell by the address that
//! a packet is for: nothing else gets to the pod's processes.

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC},
    macros::classifier,
    programs::TcContext,
};
use ebpf::{
    Addr, DropReason, Hook, LeaveReason, RedirectReason,
    capture::{self, Capture, Fate, Lookup as _, port},
    event::{Outcome, Subject},
    packet::{Bytes as _, ETH_IPV4, ETH_IPV6, Fragment, Kind, Link, Packet, Protocol, is_tagged},
    rules::{Identity, PolicyId},
};
use network_types::{
    eth::EthHdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use super::{
    probes, reject,
    report::Report,
    rules::Generation,
    skb::Skb,
    sockets::{self, HandOver},
};

/// What the pod's routing sends back to `lo`, as in Istio (`cni/pkg/iptables` in istio/istio).
const RETURN_MARK: u32 = 0x111;
/// What the pod's routing delivers here when it comes in by a virtual interface, and only then. The answers of a listener
/// without a mark of its own inherit it (`net.ipv4.tcp_fwmark_accept`) and have to get out again: [`RETURN_MARK`] would
/// keep them here.
const VIRTUAL_MARK: u32 = 0x112;
/// The bits of the mark that are theirs.
const MARK_MASK: u32 = 0xfff;

/// tc ingress of a pod's own device with Ethernet frames.
#[classifier]
pub fn capture_in(ctx: TcContext) -> i32 {
    capture_in_of(&Skb::new(&ctx), Link::Ethernet)
}

/// tc ingress of a pod's own device without link headers, as a tunnel's.
#[classifier]
pub fn capture_in_ip(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let link = Link::Ip(skb.ether_type());
    capture_in_of(&skb, link)
}

#[inline(always)]
fn capture_in_of(skb: &Skb, link: Link) -> i32 {
    each(skb, link, Hook::CaptureIn, |rules, packet, parsed| {
        let capture = rules.capture_at(packet.tuple.dst);
        let netns = capture.map_or(0, Capture::netns);
        (netns, get(rules, capture, skb, packet, parsed))
    })
}

/// Reads a packet that may be IP, asks for the network namespace that it is for and its fate, and does it.
#[inline(always)]
fn each(
    skb: &Skb,
    link: Link,
    hook: Hook,
    judge: impl FnOnce(&Generation, &Packet, Result<(), DropReason>) -> (u64, Fate),
) -> i32 {
    let Some(rules) = Generation::active() else {
        return TC_ACT_SHOT;
    };
    if !may_be_ip(skb) {
        return TC_ACT_UNSPEC;
    }
    let Some(desk) = skb.parse(link) else {
        return TC_ACT_SHOT;
    };
    let packet = desk.packet();
    let (netns, fate) = judge(&rules, packet, desk.parsed());
    act(&rules, skb, hook, netns, packet, fate)
}

/// The kernel takes off every tag of no VLAN, but all except the first after this.
#[inline(always)]
fn may_be_ip(skb: &Skb) -> bool {
    let ether_type = skb.ether_type();
    matches!(ether_type, ETH_IPV4 | ETH_IPV6) || is_tagged(ether_type)
}

/// What becomes of a packet that the pod gets. To an address that is not known to be the pod's, which may have more than
/// the agent was told of, nothing is excluded.
#[inline(always)]
fn get(
    rules: &Generation,
    capture: Option<&Capture>,
    skb: &Skb,
    packet: &Packet,
    parsed: Result<(), DropReason>,
) -> Fate {
    let tuple = &packet.tuple;
    if let Some(reason) = capture::unreadable(packet, parsed) {
        return Fate::Refuse(reason);
    }
    if tuple.protocol.0 != Protocol::TCP.0 {
        return Fate::Leave(LeaveReason::Protocol);
    }
    if let Some(capture) = capture
        && !capture.has_inbound()
    {
        return capture::inbound(rules, capture, tuple.dport);
    }
    if !matches!(packet.fragment, Fragment::Whole) {
        return Fate::Refuse(DropReason::TcpFragment);
    }
    if sockets::has_connection(skb, packet) != 0 {
        return Fate::Leave(LeaveReason::Established);
    }
    let (fate, addr) = match capture {
        Some(capture) => (
            capture::inbound(rules, capture, tuple.dport),
            capture.own_for(tuple.dst),
        ),
        None => (capture::inbound_of_unknown(tuple.dport), tuple.dst),
    };
    match fate {
        Fate::Redirect(_) if probes::is_one(packet) != 0 => Fate::Leave(LeaveReason::Probe),
        Fate::Redirect(reason) => hand_over(skb, packet, addr, port::INBOUND, reason, capture),
        Fate::Leave(_) | Fate::Refuse(_) => fate,
    }
}

#[inline(always)]
fn hand_over(
    skb: &Skb,
    packet: &Packet,
    addr: Addr,
    port: u16,
    reason: RedirectReason,
    capture: Option<&Capture>,
) -> Fate {
    match sockets::hand_over(skb, &packet.tuple, &addr, port, capture) {
        HandOver::Done => Fate::Redirect(reason),
        HandOver::NoProxy => Fate::Refuse(DropReason::NoProxy),
        HandOver::Impostor => Fate::Refuse(DropReason::Impostor),
    }
}

/// tc ingress of an interface inside a pod behind which others are, as a virtual machine: what comes from there is the
/// pod's, and has passed no hook of a socket.
#[classifier]
pub fn capture_virtual(ctx: TcContext) -> i32 {
    capture_virtual_of(&Skb::new(&ctx), Link::Ethernet)
}

/// The same of an interface without link headers.
#[classifier]
pub fn capture_virtual_ip(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let link = Link::Ip(skb.ether_type());
    capture_virtual_of(&skb, link)
}

#[inline(always)]
fn capture_virtual_of(skb: &Skb, link: Link) -> i32 {
    each(skb, link, Hook::CaptureVirtual, |_, packet, parsed| {
        let fate = come_by(skb, packet, parsed);
        if matches!(fate, Fate::Redirect(_)) {
            skb.set_mark(VIRTUAL_MARK, MARK_MASK);
        }
        (0, fate)
    })
}

/// What becomes of a packet that comes by a virtual interface.
#[inline(always)]
fn come_by(skb: &Skb, packet: &Packet, parsed: Result<(), DropReason>) -> Fate {
    let tuple = &packet.tuple;
    if let Some(reason) = capture::unreadable(packet, parsed) {
        return Fate::Refuse(reason);
    }
    if tuple.protocol.0 != Protocol::TCP.0 {
        return Fate::Leave(LeaveReason::Protocol);
    }
    if !matches!(packet.fragment, Fragment::Whole) {
        return Fate::Refuse(DropReason::TcpFragment);
    }
    if sockets::deliver(skb, packet) != 0 {
        return Fate::Redirect(RedirectReason::VirtualInterface);
    }
    if !matches!(packet.kind, Kind::Tcp(flags) if flags.opens()) {
        return Fate::Leave(LeaveReason::Established);
    }
    hand_over(
        skb,
        packet,
        tuple.dst,
        port::OUTBOUND,
        RedirectReason::VirtualInterface,
        None,
    )
}

/// Reports what became of a packet and has the kernel do it. What is left alone is not worth a word.
#[inline(always)]
fn act(rules: &Generation, skb: &Skb, hook: Hook, netns: u64, packet: &Packet, fate: Fate) -> i32 {
    let outcome = match fate {
        Fate::Leave(_) => return TC_ACT_UNSPEC,
        Fate::Redirect(reason) => Outcome::Redirected(reason),
        Fate::Refuse(reason) => Outcome::Denied(reason),
    };
    let subject = Subject {
        identity: Identity::Netns(netns),
        policy: PolicyId(0),
        generation: rules.header.generation(),
    };
    let (ether_type, len) = (packet.ether_type, skb.len() as u32);
    Report::of_packet(hook, outcome, subject, ether_type, len).send(&packet.tuple);
    match fate {
        Fate::Refuse(DropReason::Impostor) => TC_ACT_SHOT,
        Fate::Refuse(_) => reject::answer(skb, packet),
        Fate::Leave(_) | Fate::Redirect(_) => TC_ACT_UNSPEC,
    }
}

/// tc egress of a pod's `lo`: what the proxy sends to the application in somebody else's name gets a mark, and the
/// answers inherit it (`net.ipv4.tcp_fwmark_accept`, `fwmark_reflect`): it leads them back to the proxy instead of out.
#[classifier]
pub fn capture_lo(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    // All that the application sends by the proxy comes by here too, from the pod's address to the same: no table is asked.
    if let Some((src, dst)) = addresses(&skb)
        && src != dst
        && !src.is_loopback()
        && !dst.is_loopback()
    {
        let Some(rules) = Generation::active() else {
            return TC_ACT_SHOT;
        };
        if let Some(capture) = rules.capture_at(dst)
            && skb.is_of_proxy(capture)
            && rules.owner(src) != capture.netns()
        {
            skb.set_mark(RETURN_MARK, MARK_MASK);
        }
    }
    TC_ACT_UNSPEC
}

/// Source and destination, and nothing else: all that the application and the proxy say to each other comes by here.
#[inline(always)]
fn addresses(skb: &Skb) -> Option<(Addr, Addr)> {
    let l3 = size_of::<EthHdr>();
    match skb.ether_type() {
        ETH_IPV4 => {
            let ip = skb.peek::<Ipv4Hdr>(l3)?;
            Some((Addr::v4(ip.src_addr), Addr::v4(ip.dst_addr)))
        }
        ETH_IPV6 => {
            let ip = skb.peek::<Ipv6Hdr>(l3)?;
            Some((Addr::v6(ip.src_addr), Addr::v6(ip.dst_addr)))
        }
        _ => None,
    }
}
