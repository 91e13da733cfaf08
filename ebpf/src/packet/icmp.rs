//! ICMP and `ICMPv6`: neighbour discovery, echo, and errors with the packet that they quote.

use network_types::{
    icmp::Icmpv4Hdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
};

use super::{Bytes, ETH_IPV4, ETH_IPV6, Fragment, Kind, Packet, Protocol, Tuple, load_inside};
use crate::{Addr, DropReason};

const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const SOURCE_QUENCH: u8 = 4;
const REDIRECT: u8 = 5;
const ECHO: u8 = 8;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER: u8 = 12;

const V6_LAST_ERROR: u8 = 127;
const V6_ECHO: u8 = 128;
const V6_ECHO_REPLY: u8 = 129;
const V6_MLD_QUERY: u8 = 130;
const V6_MLD_DONE: u8 = 132;
const V6_ROUTER_SOLICITATION: u8 = 133;
const V6_ROUTER_ADVERTISEMENT: u8 = 134;
const V6_NEIGHBOUR_SOLICITATION: u8 = 135;
const V6_NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const V6_REDIRECT: u8 = 137;
const V6_MLD2_REPORT: u8 = 143;

/// Only a packet that no router has touched has this hop limit (RFC 4861 section 3.1).
const NEVER_FORWARDED: u8 = 255;
/// MLD is sent with a hop limit of one (RFC 3810 section 5).
const LINK_ONLY: u8 = 1;

/// Reads ICMP of the packet's family at `offset`.
#[inline(always)]
pub(super) fn parse<B: Bytes>(bytes: &B, offset: usize, packet: &mut Packet) -> Result<(), DropReason> {
    let matches_family = (packet.tuple.protocol.0 == Protocol::ICMP.0) == (packet.ether_type == ETH_IPV4);
    if !matches_family {
        return Err(DropReason::Malformed);
    }
    if let Fragment::Later(_) = packet.fragment {
        return Ok(());
    }
    // Both families share the layout of the first eight octets.
    let icmp: Icmpv4Hdr = load_inside(bytes, packet, offset)?;
    let [i0, i1, _, _] = icmp.data;
    let id = u16::from_be_bytes([i0, i1]);
    let body = offset + size_of::<Icmpv4Hdr>();
    if packet.ether_type == ETH_IPV6 {
        read_v6(bytes, icmp.type_, body, packet)?;
    } else {
        read_v4(bytes, icmp.type_, body, packet)?;
    }
    let echo = match packet.ether_type {
        ETH_IPV6 => matches!(icmp.type_, V6_ECHO | V6_ECHO_REPLY),
        _ => matches!(icmp.type_, ECHO | ECHO_REPLY),
    };
    if echo {
        packet.tuple.sport = id;
        packet.tuple.dport = id;
    }
    Ok(())
}

// Every arm writes the kind itself: a value that several arms share is merged with its unused parts undefined, and
// the kernel's verifier refuses to store what was never set.

#[inline(always)]
fn read_v6<B: Bytes>(bytes: &B, icmp_type: u8, body: usize, packet: &mut Packet) -> Result<(), DropReason> {
    match icmp_type {
        0..=V6_LAST_ERROR => packet.kind = Kind::Error(quoted_v6(bytes, packet, body)?),
        V6_ECHO_REPLY => packet.kind = Kind::EchoReply,
        V6_ROUTER_ADVERTISEMENT | V6_REDIRECT => return Err(DropReason::ForgedNeighbour),
        V6_MLD_QUERY..=V6_MLD_DONE | V6_MLD2_REPORT if packet.hop_limit == LINK_ONLY => {
            packet.kind = Kind::Neighbour {
                target: Addr::UNSPECIFIED,
                advertises: false,
            };
        }
        V6_ROUTER_SOLICITATION if packet.hop_limit == NEVER_FORWARDED => {
            packet.kind = Kind::Neighbour {
                target: Addr::UNSPECIFIED,
                advertises: false,
            };
        }
        V6_NEIGHBOUR_SOLICITATION | V6_NEIGHBOUR_ADVERTISEMENT if packet.hop_limit == NEVER_FORWARDED => {
            let target = load_inside(bytes, packet, body)?;
            let advertises = icmp_type == V6_NEIGHBOUR_ADVERTISEMENT;
            packet.kind = Kind::Neighbour {
                target: Addr::v6(target),
                advertises,
            };
        }
        _ => packet.kind = Kind::Query,
    }
    Ok(())
}

#[inline(always)]
fn read_v4<B: Bytes>(bytes: &B, icmp_type: u8, body: usize, packet: &mut Packet) -> Result<(), DropReason> {
    match icmp_type {
        UNREACHABLE | SOURCE_QUENCH | TIME_EXCEEDED | PARAMETER => {
            packet.kind = Kind::Error(quoted_v4(bytes, packet, body)?);
        }
        // A pod is nobody's router.
        REDIRECT => return Err(DropReason::ForgedNeighbour),
        ECHO_REPLY => packet.kind = Kind::EchoReply,
        _ => packet.kind = Kind::Query,
    }
    Ok(())
}

/// The packet that an ICMP error answers: its header and eight octets more (RFC 792).
#[inline(always)]
fn quoted_v4<B: Bytes>(bytes: &B, packet: &Packet, offset: usize) -> Result<Tuple, DropReason> {
    let ip: Ipv4Hdr = load_inside(bytes, packet, offset)?;
    let protocol = Protocol(ip.proto);
    let (sport, dport) = quoted_ports(bytes, packet, offset + usize::from(ip.vihl & 0x0f) * 4, protocol)?;
    Ok(Tuple {
        src: Addr::v4(ip.src_addr),
        dst: Addr::v4(ip.dst_addr),
        sport,
        dport,
        protocol,
    })
}

/// The same for `ICMPv6` (RFC 4443 section 3). A quoted packet with extension headers matches no flow.
#[inline(always)]
fn quoted_v6<B: Bytes>(bytes: &B, packet: &Packet, offset: usize) -> Result<Tuple, DropReason> {
    let ip: Ipv6Hdr = load_inside(bytes, packet, offset)?;
    let protocol = Protocol(ip.next_hdr);
    let (sport, dport) = quoted_ports(bytes, packet, offset + size_of::<Ipv6Hdr>(), protocol)?;
    Ok(Tuple {
        src: Addr::v6(ip.src_addr),
        dst: Addr::v6(ip.dst_addr),
        sport,
        dport,
        protocol,
    })
}

#[inline(always)]
fn quoted_ports<B: Bytes>(
    bytes: &B,
    packet: &Packet,
    offset: usize,
    protocol: Protocol,
) -> Result<(u16, u16), DropReason> {
    let [a0, a1, b0, b1, i0, i1, _, _] = load_inside::<_, [u8; 8]>(bytes, packet, offset)?;
    Ok(if protocol.is_icmp() {
        let id = u16::from_be_bytes([i0, i1]);
        (id, id)
    } else if protocol.has_ports() {
        (u16::from_be_bytes([a0, a1]), u16::from_be_bytes([b0, b1]))
    } else {
        (0, 0)
    })
}
