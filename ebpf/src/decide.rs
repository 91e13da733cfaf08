//! The decision: endpoint, parsed packet and rules in, verdict with a reason out.
//!
//! Pure: no maps, no clock, no pointers. The hooks, `sluice explain` and the tests call these same functions.

use crate::{
    Addr, AllowReason, DropReason, RedirectReason,
    flow::{Flow, FlowKey, FragmentKey},
    packet::{Fragment, Kind, Packet, Protocol, Tuple},
    reason::Approval,
    rules::{Endpoint, Enforcement, GroupSet, PolicyId},
};

/// What shall become of a packet or a call, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Let it through.
    Allow(AllowReason),
    /// Hand it to the node proxy.
    Redirect(RedirectReason),
    /// Refuse it.
    Deny(DropReason),
}

/// The rules and the flows, as one generation has them.
pub trait Lookup {
    /// The address groups that cover `addr`, by the longest prefix.
    fn groups(&self, addr: Addr) -> GroupSet;
    /// Whether `policy` permits this protocol and port to destinations of `groups`; with [`Protocol::MARKER`],
    /// whether it permits any.
    fn permits(&self, policy: PolicyId, groups: GroupSet, protocol: Protocol, port: u16) -> bool;
    /// The established flow, or else the half-open one, or else [`Flow::ABSENT`].
    fn flow(&self, key: &FlowKey) -> Flow;
    /// When the first fragment of this packet was let through, on the clock of [`Lookup::now_ns`].
    fn first_fragment(&self, key: &FragmentKey) -> Option<u64>;
    /// The monotonic clock.
    fn now_ns(&self) -> u64;
}

/// Judges a frame that a pod sends. `parsed` says whether all of `packet` could be read.
#[inline(always)]
pub fn pod_out<L: Lookup>(
    lookup: &L,
    endpoint: &Endpoint,
    packet: &Packet,
    parsed: Result<(), DropReason>,
) -> Verdict {
    if !endpoint.is_subject() {
        return Verdict::Allow(AllowReason::NotSubject);
    }
    match check_frame(lookup, endpoint, packet, parsed) {
        Err(reason) => Verdict::Deny(reason),
        Ok(Some(reason)) => Verdict::Allow(reason),
        Ok(None) => destination(lookup, endpoint, packet),
    }
}

/// Judges a frame that nothing is known about but its device.
#[inline(always)]
pub const fn unknown_sender(enforcement: Enforcement) -> Verdict {
    match enforcement {
        Enforcement::Off => Verdict::Allow(AllowReason::NotEnforced),
        Enforcement::Audit | Enforcement::Enforce => Verdict::Deny(DropReason::UnknownEndpoint),
    }
}

/// Everything that can be said without the rules: is the frame whole, is it the pod's own?
#[inline(always)]
fn check_frame<L: Lookup>(
    lookup: &L,
    endpoint: &Endpoint,
    packet: &Packet,
    parsed: Result<(), DropReason>,
) -> Result<Option<AllowReason>, DropReason> {
    if packet.vlan {
        return Err(DropReason::VlanTag);
    }
    parsed?;
    if packet.src_mac != endpoint.mac() {
        return Err(DropReason::ForgedMac);
    }
    let Tuple { src, dst, .. } = packet.tuple;
    match packet.kind {
        Kind::Arp { claimed } => {
            // An address probe (RFC 5227) has no sender yet.
            let own = endpoint.owns(src) || src.is_unspecified();
            return if own && claimed == endpoint.mac() {
                Ok(Some(AllowReason::Neighbour))
            } else {
                Err(DropReason::ForgedNeighbour)
            };
        }
        Kind::Neighbour { target, advertises } => {
            let from_link = src.is_v6_link_local();
            if (advertises && !may_claim(lookup, endpoint, target))
                || (from_link && !may_claim(lookup, endpoint, src))
            {
                return Err(DropReason::ForgedNeighbour);
            }
            // Who looks for an address that is free for him has none yet (RFC 4862 section 5.4).
            let own = endpoint.owns(src) || from_link || (src.is_unspecified() && stays_on_link(dst));
            if !own {
                return Err(DropReason::ForgedSource);
            }
            if stays_on_link(dst) {
                return Ok(Some(AllowReason::Neighbour));
            }
            // Whether a neighbour with a global address is still there is asked from a link-local one, too.
            return check_destination(dst).map(|()| None);
        }
        Kind::Error(_) | Kind::Query | Kind::EchoReply | Kind::Tcp(_) | Kind::Datagram => {}
    }
    // A link-local source is good for this link only.
    if !(endpoint.owns(src) || (src.is_v6_link_local() && dst.is_v6_link_local())) {
        return Err(DropReason::ForgedSource);
    }
    check_destination(dst)?;
    Ok(None)
}

/// Whether a pod may say in neighbour discovery that an address is its own. Its link-local addresses are not known; those
/// of the node are.
#[inline(always)]
fn may_claim<L: Lookup>(lookup: &L, endpoint: &Endpoint, addr: Addr) -> bool {
    endpoint.owns(addr) || (addr.is_v6_link_local() && !lookup.groups(addr).is_internal())
}

/// `fe80::/10` and `ff02::/16`: no router passes them on.
#[inline(always)]
const fn stays_on_link(addr: Addr) -> bool {
    let [first, second] = addr.v6_first();
    addr.is_v6_link_local() || (first == 0xff && second & 0x0f == 2)
}

/// Destinations that are refused whatever the rules say.
#[inline(always)]
const fn check_destination(dst: Addr) -> Result<(), DropReason> {
    if dst.is_multicast() || dst.is_broadcast() {
        return Err(DropReason::Multicast);
    }
    if dst.is_loopback() || dst.is_unspecified() || dst.is_reserved() {
        return Err(DropReason::Martian);
    }
    Ok(())
}

/// The rules' word on a sound packet to a possible destination.
#[inline(always)]
fn destination<L: Lookup>(lookup: &L, endpoint: &Endpoint, packet: &Packet) -> Verdict {
    let tuple = &packet.tuple;
    let groups = lookup.groups(tuple.dst);
    if groups.is_internal() {
        return if enters_tunnel(tuple) {
            Verdict::Deny(DropReason::Tunnel)
        } else {
            Verdict::Allow(AllowReason::Internal)
        };
    }
    if let Fragment::Later(id) = packet.fragment {
        return later_fragment(lookup, endpoint.device(), tuple, id);
    }
    if lookup.permits(endpoint.policy(), groups, tuple.protocol, port(tuple)) {
        return Verdict::Allow(AllowReason::Rule);
    }
    if let Kind::Error(quoted) = packet.kind {
        return error(lookup, endpoint, tuple, &quoted, groups);
    }
    if !opens(packet.kind) && answers(lookup, &FlowKey::outward(endpoint.device(), tuple)) {
        return Verdict::Allow(AllowReason::Reply);
    }
    Verdict::Deny(refusal(lookup, endpoint, groups))
}

/// Whether a node may take this for a packet of its overlay network, unwrap it and send what is inside on as if it came
/// from another node: VXLAN (RFC 7348), VXLAN on the port that Linux had before, Geneve (RFC 8926).
#[inline(always)]
const fn enters_tunnel(tuple: &Tuple) -> bool {
    tuple.protocol.0 == Protocol::UDP.0 && matches!(tuple.dport, 4789 | 8472 | 6081)
}

/// Whether this is a call, which is never the answer to one.
#[inline(always)]
const fn opens(kind: Kind) -> bool {
    matches!(kind, Kind::Tcp(flags) if flags.opens())
}

/// The port that a rule is about. An ICMP identifier is not one.
#[inline(always)]
const fn port(tuple: &Tuple) -> u16 {
    if tuple.protocol.has_ports() {
        tuple.dport
    } else {
        0
    }
}

#[inline(always)]
fn later_fragment<L: Lookup>(lookup: &L, scope: u32, tuple: &Tuple, id: u32) -> Verdict {
    match lookup.first_fragment(&FragmentKey::new(scope, tuple, id)) {
        Some(since) if lookup.now_ns().wrapping_sub(since) < FragmentKey::LIFETIME_NS => {
            Verdict::Allow(AllowReason::Fragment)
        }
        Some(_) | None => Verdict::Deny(DropReason::FragmentWithoutFirst),
    }
}

/// An ICMP error may leave when it answers a packet that the pod got of a flow that may be.
#[inline(always)]
fn error<L: Lookup>(
    lookup: &L,
    endpoint: &Endpoint,
    outer: &Tuple,
    quoted: &Tuple,
    groups: GroupSet,
) -> Verdict {
    let ours = quoted.dst == outer.src && quoted.src == outer.dst;
    if ours {
        if answers(lookup, &FlowKey::inward(endpoint.device(), quoted)) {
            return Verdict::Allow(AllowReason::RelatedError);
        }
        let port = if quoted.protocol.has_ports() {
            quoted.sport
        } else {
            0
        };
        if lookup.permits(endpoint.policy(), groups, quoted.protocol, port) {
            return Verdict::Allow(AllowReason::RelatedError);
        }
    }
    Verdict::Deny(DropReason::UnrelatedError)
}

#[inline(always)]
fn answers<L: Lookup>(lookup: &L, key: &FlowKey) -> bool {
    lookup.flow(key).permits_answers(lookup.now_ns())
}

#[inline(always)]
fn refusal<L: Lookup>(lookup: &L, endpoint: &Endpoint, groups: GroupSet) -> DropReason {
    if lookup.permits(endpoint.policy(), groups, Protocol::MARKER, 0) {
        DropReason::Port
    } else if endpoint.is_gateway() {
        DropReason::NotRegistered
    } else {
        DropReason::NotGateway
    }
}

/// Judges a packet that leaves the node and was not sent by one of the node's own sockets.
#[inline(always)]
pub fn forwarded<L: Lookup>(
    lookup: &L,
    enforcement: Enforcement,
    approval: Approval,
    packet: &Packet,
    parsed: Result<(), DropReason>,
) -> Verdict {
    if enforcement == Enforcement::Off {
        return Verdict::Allow(AllowReason::NotEnforced);
    }
    if approval == Approval::External {
        return Verdict::Allow(AllowReason::Approved);
    }
    if let Err(reason) = parsed {
        return Verdict::Deny(reason);
    }
    let tuple = &packet.tuple;
    match packet.kind {
        Kind::Arp { .. } => return Verdict::Allow(AllowReason::Neighbour),
        Kind::Neighbour { .. } if stays_on_link(tuple.dst) => return Verdict::Allow(AllowReason::Neighbour),
        Kind::Neighbour { .. }
        | Kind::Error(_)
        | Kind::Query
        | Kind::EchoReply
        | Kind::Tcp(_)
        | Kind::Datagram => {}
    }
    if lookup.groups(tuple.dst).is_internal() {
        return Verdict::Allow(AllowReason::Internal);
    }
    if let Fragment::Later(id) = packet.fragment {
        return later_fragment(lookup, FlowKey::NODE, tuple, id);
    }
    // A call from outside to a Service: the answer passes here with the Service's address.
    if let Kind::Error(quoted) = packet.kind {
        let ours = quoted.src == tuple.dst;
        if ours && answers(lookup, &FlowKey::inward(FlowKey::NODE, &quoted)) {
            return Verdict::Allow(AllowReason::RelatedError);
        }
    } else if !opens(packet.kind) && answers(lookup, &FlowKey::outward(FlowKey::NODE, tuple)) {
        return Verdict::Allow(AllowReason::Reply);
    }
    Verdict::Deny(DropReason::NotApproved)
}

/// Judges a packet that a pod in the node's own network namespace sends: the kernel has made it, so there is no
/// frame to check.
#[inline(always)]
pub fn host_out<L: Lookup>(
    lookup: &L,
    endpoint: &Endpoint,
    packet: &Packet,
    parsed: Result<(), DropReason>,
) -> Verdict {
    if !endpoint.is_subject() {
        return Verdict::Allow(AllowReason::NotSubject);
    }
    if stays_on_link(packet.tuple.dst) {
        return Verdict::Allow(AllowReason::Internal);
    }
    match parsed.and_then(|()| check_destination(packet.tuple.dst)) {
        Err(reason) => Verdict::Deny(reason),
        Ok(()) => destination(lookup, endpoint, packet),
    }
}

/// Judges a call (`connect()`, `sendto()`) by what the socket says; a port or an address that it does not have
/// yet is zero.
#[inline(always)]
pub fn call<L: Lookup>(lookup: &L, endpoint: &Endpoint, tuple: &Tuple) -> Verdict {
    if !endpoint.is_subject() {
        return Verdict::Allow(AllowReason::NotSubject);
    }
    let dst = tuple.dst;
    if dst.is_loopback() || dst.is_unspecified() || endpoint.owns(dst) {
        return Verdict::Allow(AllowReason::Own);
    }
    if stays_on_link(dst) {
        return Verdict::Allow(AllowReason::Internal);
    }
    if let Err(reason) = check_destination(dst) {
        return Verdict::Deny(reason);
    }
    let packet = Packet {
        tuple: *tuple,
        ..Packet::EMPTY
    };
    destination(lookup, endpoint, &packet)
}
