//! The decision: does this call go to the proxy?

use super::{Capture, Mode, Scope, port};
use crate::{
    Addr, DropReason,
    event::Outcome,
    packet::{ETH_ARP, Fragment, Kind, Packet, Protocol, is_tagged},
    reason::{LeaveReason, RedirectReason},
};

/// What one generation says of captures.
pub trait Lookup {
    /// What is said of a range.
    fn range(&self, netns: u64, addr: Addr) -> Scope;
    /// What is said of a port.
    fn port(&self, netns: u64, port: u16) -> Scope;
    /// The cookie of the captured network namespace that has this address; 0 if none has.
    fn owner(&self, addr: Addr) -> u64;
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is none of ours.
    Leave(LeaveReason),
    /// It goes to the proxy.
    Redirect(RedirectReason),
    /// It is refused.
    Refuse(DropReason),
}

/// A call of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Address that the socket is bound to; unspecified if it is not.
    pub src: Addr,
    /// Whereto.
    pub dst: Addr,
    /// On which port.
    pub dport: u16,
    /// By which protocol.
    pub protocol: Protocol,
    /// The proxy calls.
    pub by_proxy: bool,
}

/// Where a sidecar's own calls to the application come from (`InboundPassthroughBindIpv4` in istio/istio).
pub(super) const SIDECAR_SOURCES: [Addr; 2] = [
    Addr::v4([127, 0, 0, 6]),
    Addr::v6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6]),
];

/// Judges a call of a pod.
#[inline(always)]
pub fn call<L: Lookup>(lookup: &L, capture: &Capture, call: &Call) -> Fate {
    let Call {
        src,
        dst,
        dport,
        protocol,
        by_proxy,
    } = *call;
    if matches!(capture.mode(), Mode::Guard) {
        // A proxy that does not know where a call wanted to go would call itself, and that call itself again.
        let itself = by_proxy && dport == capture.port_for(RedirectReason::Outbound);
        return if itself && is_own(lookup, capture, dst) {
            Fate::Refuse(DropReason::ProxyPort)
        } else {
            Fate::Leave(LeaveReason::NotIncluded)
        };
    }
    let own = is_own(lookup, capture, dst);
    if own && capture.is_inside() && protocol.0 == Protocol::TCP.0 {
        if matches!(dport, port::OUTBOUND | port::INBOUND) || (!by_proxy && port::is_way_round(dport)) {
            return Fate::Refuse(DropReason::ProxyPort);
        }
        // A sidecar that calls its own pod by a Service is to be answered by its own inbound listener; not one that passes a
        // call on to the application, in its caller's name or in its own.
        let passes_on = src == SIDECAR_SOURCES[0]
            || src == SIDECAR_SOURCES[1]
            || !(src.is_unspecified() || is_own(lookup, capture, src));
        let calls_itself = by_proxy
            && matches!(capture.mode(), Mode::Sidecar)
            && capture.has_inbound()
            && !dst.is_loopback()
            && !dst.is_unspecified()
            && dport != port::HBONE
            && !passes_on;
        if calls_itself {
            return Fate::Redirect(RedirectReason::Inbound);
        }
    }
    if by_proxy {
        return Fate::Leave(LeaveReason::Proxy);
    }
    if own {
        return Fate::Leave(LeaveReason::Own);
    }
    outbound(lookup, capture, dst, dport, protocol)
}

/// Whether an address is the pod's own, or stands for it.
#[inline(always)]
fn is_own<L: Lookup>(lookup: &L, capture: &Capture, addr: Addr) -> bool {
    addr.is_loopback() || addr.is_unspecified() || lookup.owner(addr) == capture.netns()
}

/// Istio's order: what excludes comes first, ports before ranges (`tools/istio-iptables/pkg/capture/run.go`).
#[inline(always)]
fn outbound<L: Lookup>(lookup: &L, capture: &Capture, dst: Addr, dport: u16, protocol: Protocol) -> Fate {
    let is_dns = dport == port::ASKED_DNS && capture.has_dns();
    match protocol {
        Protocol::TCP => {}
        Protocol::UDP if is_dns => {}
        Protocol(_) => return Fate::Leave(LeaveReason::Protocol),
    }
    let port = if capture.has_ports() {
        lookup.port(capture.netns(), dport)
    } else {
        Scope::NONE
    };
    if port.says(Scope::EXCLUDED) {
        return Fate::Leave(LeaveReason::ExcludedPort);
    }
    if is_dns {
        return Fate::Redirect(RedirectReason::Dns);
    }
    let range = if capture.has_ranges() {
        lookup.range(capture.netns(), dst)
    } else {
        Scope::NONE
    };
    if range.says(Scope::EXCLUDED) {
        return Fate::Leave(LeaveReason::ExcludedRange);
    }
    if port.says(Scope::INCLUDED) || capture.has_every_range() || range.says(Scope::INCLUDED) {
        return Fate::Redirect(RedirectReason::Outbound);
    }
    Fate::Leave(LeaveReason::NotIncluded)
}

/// Whether a call for the proxy on the node is to be redirected at the call, and not when its packets come by the pod's
/// device. There the proxy gets it as it is, with its destination for a local address. But what the node translates into
/// something else (Services, its own addresses) would be that before it got to the proxy, and what a bridge passes on does
/// not get to it at all.
#[inline(always)]
pub fn redirects_at_call<L: Lookup>(lookup: &L, capture: &Capture, dst: Addr) -> bool {
    capture.is_at_call()
        || lookup.owner(dst) != 0
        || lookup
            .range(super::RangeKey::EVERYBODY, dst)
            .says(Scope::TRANSLATED)
}

/// Judges a call to a pod whose proxy listens inside, by its port.
#[inline(always)]
pub fn inbound<L: Lookup>(lookup: &L, capture: &Capture, dport: u16) -> Fate {
    let by_port = inbound_of_unknown(dport);
    if matches!(by_port, Fate::Refuse(_)) {
        return by_port;
    }
    if !capture.has_inbound() {
        return Fate::Leave(LeaveReason::Bypass);
    }
    if !matches!(by_port, Fate::Redirect(_)) {
        return by_port;
    }
    let scope = if capture.has_ports() {
        lookup.port(capture.netns(), dport)
    } else {
        Scope::NONE
    };
    if scope.says(Scope::INBOUND_EXCLUDED) {
        Fate::Leave(LeaveReason::ExcludedPort)
    } else if capture.has_every_port() || scope.says(Scope::INBOUND_INCLUDED) {
        Fate::Redirect(RedirectReason::Inbound)
    } else {
        Fate::Leave(LeaveReason::NotIncluded)
    }
}

/// The same for a pod of which nothing else is known.
#[inline(always)]
pub const fn inbound_of_unknown(dport: u16) -> Fate {
    match dport {
        port::OUTBOUND | port::INBOUND => Fate::Refuse(DropReason::ProxyPort),
        port::HBONE => Fate::Leave(LeaveReason::Hbone),
        _ => Fate::Redirect(RedirectReason::Inbound),
    }
}

/// Why a packet that could not be read to its end has to be refused: a call may be in it. Whoever gets it reads on where
/// nobody does here: he takes off any number of priority tags (802.1Q) and follows any chain of headers (RFC 8200).
#[inline(always)]
pub const fn unreadable(packet: &Packet, parsed: Result<(), DropReason>) -> Option<DropReason> {
    if is_tagged(packet.ether_type) {
        return Some(DropReason::VlanTag);
    }
    match parsed {
        Err(DropReason::UnknownEthertype | DropReason::UnknownProtocol) | Ok(()) => None,
        Err(reason) => match packet.tuple.protocol {
            Protocol::ICMP | Protocol::ICMPV6 | Protocol::SCTP => None,
            Protocol(_) => Some(reason),
        },
    }
}

/// Judges a packet that a captured pod sends, on its device: with a proxy inside, a call that comes by here and should
/// have been redirected at its socket has dodged that, and so has a question to a DNS server with any proxy; with a proxy
/// on the node, here is where a call is redirected.
#[inline(always)]
pub fn sent<L: Lookup>(
    lookup: &L,
    capture: &Capture,
    packet: &Packet,
    parsed: Result<(), DropReason>,
    by_proxy: impl FnOnce() -> bool,
) -> Fate {
    let tuple = &packet.tuple;
    if matches!(packet.ether_type, ETH_ARP) {
        return Fate::Leave(LeaveReason::Protocol);
    }
    if let Some(reason) = unreadable(packet, parsed) {
        return Fate::Refuse(reason);
    }
    let asks = tuple.protocol.0 == Protocol::UDP.0 && tuple.dport == port::ASKED_DNS && capture.has_dns();
    if tuple.protocol.0 != Protocol::TCP.0 && !asks {
        return Fate::Leave(LeaveReason::Protocol);
    }
    let whole = matches!(packet.fragment, Fragment::Whole);
    if whole && !asks && !matches!(packet.kind, Kind::Tcp(flags) if flags.opens()) {
        return Fate::Leave(LeaveReason::Established);
    }
    if by_proxy() {
        return Fate::Leave(LeaveReason::Proxy);
    }
    if !whole && !asks {
        return Fate::Refuse(DropReason::TcpFragment);
    }
    // The node's own addresses have an owner, too: the proxy would be asked to call itself.
    let way_round =
        port::is_way_round(tuple.dport) || tuple.dport == capture.port_for(RedirectReason::Outbound);
    if !capture.is_inside() && way_round && lookup.owner(tuple.dst) != 0 {
        return Fate::Refuse(DropReason::ProxyPort);
    }
    match outbound(lookup, capture, tuple.dst, tuple.dport, tuple.protocol) {
        Fate::Redirect(_) if capture.is_inside() || asks => Fate::Refuse(DropReason::Uncaptured),
        fate @ (Fate::Redirect(_) | Fate::Leave(_) | Fate::Refuse(_)) => fate,
    }
}

/// What capture makes of the verdict on a packet: the proxy is held to the rules itself, so what goes to it need not be
/// permitted to the pod; but a packet that is not the pod's, or not sound, stays refused. Capture is never on trial: what
/// belongs to the proxy does not pass it because the rules are.
#[inline(always)]
pub const fn overrule(by_rules: Outcome, fate: Fate) -> Outcome {
    let (may_go, reason) = match by_rules {
        Outcome::Allowed(_) | Outcome::Redirected(_) => (true, DropReason::NoRules),
        Outcome::Denied(reason) | Outcome::Audited(reason) => (
            matches!(
                reason,
                DropReason::NotGateway | DropReason::NotRegistered | DropReason::Port
            ),
            reason,
        ),
    };
    match fate {
        Fate::Leave(_) => by_rules,
        Fate::Redirect(reason) if may_go => Outcome::Redirected(reason),
        Fate::Refuse(reason) if may_go => Outcome::Denied(reason),
        Fate::Redirect(_) | Fate::Refuse(_) => Outcome::Denied(reason),
    }
}
