//! Ethernet, VLAN tags and ARP.

use network_types::{arp::ArpHdr, eth::EthHdr, vlan::VlanHdr};

use super::{Bytes, ETH_ARP, Kind, Link, Packet};
use crate::{Addr, DropReason};

const ETH_VLAN: u16 = 0x8100;
const ETH_QINQ: u16 = 0x88a8;
/// Two tags (802.1ad) are read through; a third is an unknown ethertype.
const MAX_TAGS: usize = 2;

const ARP_ETHERNET: u16 = 1;
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;

/// Whether a VLAN tag follows.
#[inline(always)]
pub const fn is_tagged(ether_type: u16) -> bool {
    matches!(ether_type, ETH_VLAN | ETH_QINQ)
}

/// Reads the link header. Returns where the next header starts.
#[inline(always)]
pub(super) fn parse<B: Bytes>(bytes: &B, link: Link, packet: &mut Packet) -> Result<usize, DropReason> {
    packet.vlan = bytes.has_vlan_tag();
    match link {
        Link::Ip(ether_type) => {
            packet.ether_type = ether_type;
            Ok(0)
        }
        Link::Ethernet => {
            let eth: EthHdr = bytes.load(0).ok_or(DropReason::Truncated)?;
            packet.src_mac = eth.src_addr;
            packet.ether_type = u16::from_be(eth.ether_type);
            skip_tags(bytes, packet, size_of::<EthHdr>())
        }
    }
}

#[inline(always)]
fn skip_tags<B: Bytes>(bytes: &B, packet: &mut Packet, mut offset: usize) -> Result<usize, DropReason> {
    for _ in 0..MAX_TAGS {
        if !is_tagged(packet.ether_type) {
            break;
        }
        let tag: VlanHdr = bytes.load(offset).ok_or(DropReason::Truncated)?;
        packet.vlan = true;
        packet.ether_type = u16::from_be(tag.ether_type);
        offset += size_of::<VlanHdr>();
    }
    Ok(offset)
}

/// Reads ARP for IPv4 over Ethernet; any other is malformed to us.
#[inline(always)]
pub(super) fn parse_arp<B: Bytes>(bytes: &B, offset: usize, packet: &mut Packet) -> Result<(), DropReason> {
    let arp: ArpHdr = bytes.load(offset).ok_or(DropReason::Truncated)?;
    let ethernet = u16::from_be_bytes(arp.htype) == ARP_ETHERNET && arp.hlen == 6;
    let ipv4 = u16::from_be_bytes(arp.ptype) == super::ETH_IPV4 && arp.plen == 4;
    let known = matches!(u16::from_be_bytes(arp.oper), ARP_REQUEST | ARP_REPLY);
    if !(ethernet && ipv4 && known) {
        return Err(DropReason::Malformed);
    }
    debug_assert_eq!(packet.ether_type, ETH_ARP);
    packet.tuple.src = Addr::v4(arp.spa);
    packet.tuple.dst = Addr::v4(arp.tpa);
    packet.kind = Kind::Arp { claimed: arp.sha };
    Ok(())
}
