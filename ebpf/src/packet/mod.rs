//! What a frame says, as far as a verdict needs it: one module per layer.
//!
//! [`parse`] fills a [`Packet`] step by step, so that even a refusal half-way leaves behind what was read, for
//! the event that tells of it.

mod bytes;
mod icmp;
mod ipv4;
mod ipv6;
mod link;
mod transport;

pub use bytes::{Bytes, Header, Slice};
pub use link::is_tagged;
pub use transport::TcpFlags;

use crate::{Addr, DropReason};

/// An IP protocol number.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Protocol(pub u8);

impl Protocol {
    /// The protocol of no packet: with IPv6 the number is that of the hop-by-hop header, and an IPv4 packet that has
    /// it is refused. A rule for it says that *something* is permitted to a destination.
    pub const MARKER: Self = Self(0);
    /// ICMP for IPv4.
    pub const ICMP: Self = Self(1);
    /// TCP.
    pub const TCP: Self = Self(6);
    /// UDP.
    pub const UDP: Self = Self(17);
    /// ICMP for IPv6.
    pub const ICMPV6: Self = Self(58);
    /// SCTP.
    pub const SCTP: Self = Self(132);

    /// Whether there are ports behind the IP header.
    #[inline(always)]
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::TCP | Self::UDP | Self::SCTP)
    }

    /// Whether it is ICMP of either family.
    #[inline(always)]
    pub const fn is_icmp(self) -> bool {
        matches!(self, Self::ICMP | Self::ICMPV6)
    }

    /// Whether a verdict can be given on it at all.
    #[inline(always)]
    pub const fn is_known(self) -> bool {
        self.has_ports() || self.is_icmp()
    }
}

impl core::fmt::Display for Protocol {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match *self {
            Self::ICMP => f.write_str("ICMP"),
            Self::TCP => f.write_str("TCP"),
            Self::UDP => f.write_str("UDP"),
            Self::ICMPV6 => f.write_str("ICMPv6"),
            Self::SCTP => f.write_str("SCTP"),
            Self(number) => write!(f, "protocol {number}"),
        }
    }
}

/// Who speaks to whom. Ports are numbers; an ICMP echo has its identifier in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Source address; the sender's address of ARP.
    pub src: Addr,
    /// Destination address; the target's address of ARP.
    pub dst: Addr,
    /// Source port, 0 where there is none.
    pub sport: u16,
    /// Destination port, 0 where there is none.
    pub dport: u16,
    /// The transport protocol.
    pub protocol: Protocol,
}

impl Tuple {
    /// Nothing known yet.
    pub const EMPTY: Self = Self {
        src: Addr::UNSPECIFIED,
        dst: Addr::UNSPECIFIED,
        sport: 0,
        dport: 0,
        protocol: Protocol(0),
    };
}

/// What part of an IP packet a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// The first part, with the transport header. The identification in network order.
    First(u32),
    /// A later part, without ports.
    Later(u32),
}

/// What a frame is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An ARP request or reply for IPv4 over Ethernet. `claimed` is the sender's hardware address in it.
    Arp {
        /// Sender hardware address.
        claimed: [u8; 6],
    },
    /// Neighbour or router discovery (RFC 4861), checked to come from this link, or MLD.
    Neighbour {
        /// The address that a neighbour solicitation or advertisement is about.
        target: Addr,
        /// A neighbour advertisement: it claims `target`.
        advertises: bool,
    },
    /// An ICMP error, with the packet that it answers.
    Error(Tuple),
    /// An ICMP echo request or another query.
    Query,
    /// An ICMP echo reply.
    EchoReply,
    /// TCP with these flags.
    Tcp(TcpFlags),
    /// Any other transport, and later fragments.
    Datagram,
}

/// What was read of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Ethernet source address, zero on a device without link headers.
    pub src_mac: [u8; 6],
    /// The ethertype behind VLAN tags.
    pub ether_type: u16,
    /// There was a VLAN tag.
    pub vlan: bool,
    /// Addresses, ports, protocol.
    pub tuple: Tuple,
    /// Whole or part.
    pub fragment: Fragment,
    /// What it is about.
    pub kind: Kind,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Where the IP packet ends, as its header says: what is behind that in the frame the kernel cuts off.
    pub end: u32,
    /// Where the IP (or ARP) header starts, in octets.
    pub l3: u16,
    /// Where the transport header starts, in octets; 0 if it was not reached.
    pub l4: u16,
}

impl Packet {
    /// Nothing read yet.
    pub const EMPTY: Self = Self {
        src_mac: [0; 6],
        ether_type: 0,
        vlan: false,
        tuple: Tuple::EMPTY,
        fragment: Fragment::Whole,
        kind: Kind::Datagram,
        hop_limit: 0,
        end: 0,
        l3: 0,
        l4: 0,
    };
}

/// How frames of a device begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// With an Ethernet header.
    Ethernet,
    /// With the IP header (tun, WireGuard, IPIP); the ethertype is known from outside, in host order.
    Ip(u16),
}

/// IPv4 over Ethernet.
pub const ETH_IPV4: u16 = 0x0800;
/// ARP.
pub const ETH_ARP: u16 = 0x0806;
/// IPv6 over Ethernet.
pub const ETH_IPV6: u16 = 0x86dd;

/// Reads a frame into `packet`.
///
/// # Errors
///
/// The reason why the frame cannot be judged by its content; what was read before that stands in `packet`.
#[inline(always)]
pub fn parse<B: Bytes>(bytes: &B, link: Link, packet: &mut Packet) -> Result<(), DropReason> {
    let l3 = link::parse(bytes, link, packet)?;
    let l3 = settle_offset(&mut packet.l3, l3);
    let l4 = match packet.ether_type {
        ETH_IPV4 => ipv4::parse(bytes, l3, packet)?,
        ETH_IPV6 => ipv6::parse(bytes, l3, packet)?,
        ETH_ARP => return link::parse_arp(bytes, l3, packet),
        _ => return Err(DropReason::UnknownEthertype),
    };
    let l4 = settle_offset(&mut packet.l4, l4);
    transport::parse(bytes, l4, packet)
}

/// Reads a header that has to lie inside the IP packet, not only inside the frame (RFC 7112 section 5).
#[inline(always)]
fn load_inside<B: Bytes, T: Header>(bytes: &B, packet: &Packet, offset: usize) -> Result<T, DropReason> {
    if offset + size_of::<T>() > packet.end as usize {
        return Err(DropReason::Truncated);
    }
    bytes.load(offset).ok_or(DropReason::Truncated)
}

/// Writes down a number and reads it back.
///
/// The kernel's verifier then takes it for any number. If it remembered what leads to it, it would look at all that
/// follows once for every way to get there.
#[inline(always)]
pub fn settle(place: &mut u16, number: u16) -> u16 {
    let place: *mut u16 = place;
    // SAFETY: a valid place for a number, as it comes from a reference.
    unsafe {
        place.write_volatile(number);
        place.read_volatile()
    }
}

/// The same for an offset. No header lies beyond 64 KiB: the chains that are followed are shorter.
#[inline(always)]
fn settle_offset(place: &mut u16, offset: usize) -> usize {
    usize::from(settle(place, offset as u16))
}
