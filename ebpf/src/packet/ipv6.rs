//! IPv6 (RFC 8200) and its extension headers.

use network_types::ip::Ipv6Hdr;

use super::{Bytes, Fragment, Packet, Protocol, load_inside, settle_offset};
use crate::{Addr, DropReason};

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const ESP: u8 = 50;
const AUTHENTICATION: u8 = 51;
const NO_NEXT_HEADER: u8 = 59;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

/// Extension headers that are followed; RFC 8200 section 4.1 knows six and one repetition.
const MAX_HEADERS: usize = 7;
const FRAGMENT_HEADER_LEN: usize = 8;

/// Reads an IPv6 header at `offset` and those that extend it. Returns where the transport header starts.
#[inline(always)]
pub(super) fn parse<B: Bytes>(bytes: &B, offset: usize, packet: &mut Packet) -> Result<usize, DropReason> {
    let ip: Ipv6Hdr = bytes.load(offset).ok_or(DropReason::Truncated)?;
    packet.tuple.src = Addr::v6(ip.src_addr);
    packet.tuple.dst = Addr::v6(ip.dst_addr);
    packet.tuple.protocol = Protocol(ip.next_hdr);
    packet.hop_limit = ip.hop_limit;

    if ip.vcf[0] >> 4 != 6 {
        return Err(DropReason::Malformed);
    }
    // An IPv4-mapped address on a wire (RFC 4942 section 2.2) would be taken for IPv4 by everything here.
    if packet.tuple.src.is_v4() || packet.tuple.dst.is_v4() {
        return Err(DropReason::Martian);
    }
    // A GSO packet beyond 64 KiB ("BIG TCP") is a jumbogram (RFC 2675), whose length is in an option and in the buffer.
    let payload_len = usize::from(u16::from_be_bytes(ip.payload_len));
    let big = payload_len == 0 && bytes.len() > usize::from(u16::MAX);
    let end = if big {
        bytes.len()
    } else {
        offset + size_of::<Ipv6Hdr>() + payload_len
    };
    if end > bytes.len() {
        return Err(DropReason::Truncated);
    }
    packet.end = end as u32;
    skip_headers(bytes, offset + size_of::<Ipv6Hdr>(), packet)
}

/// Follows the chain to the transport header. Returns where that starts.
#[inline(always)]
fn skip_headers<B: Bytes>(bytes: &B, mut offset: usize, packet: &mut Packet) -> Result<usize, DropReason> {
    for _ in 0..MAX_HEADERS {
        offset = settle_offset(&mut packet.l4, offset);
        match packet.tuple.protocol.0 {
            HOP_BY_HOP | DESTINATION => {
                let [next, len] = load_inside::<_, [u8; 2]>(bytes, packet, offset)?;
                packet.tuple.protocol = Protocol(next);
                offset += (usize::from(len) + 1) * 8;
            }
            FRAGMENT => {
                let [next, _, high, low, i0, i1, i2, i3] =
                    load_inside::<_, [u8; FRAGMENT_HEADER_LEN]>(bytes, packet, offset)?;
                packet.tuple.protocol = Protocol(next);
                offset += FRAGMENT_HEADER_LEN;
                let field = u16::from_be_bytes([high, low]);
                let id = u32::from_ne_bytes([i0, i1, i2, i3]);
                packet.fragment = match (field >> 3, field & 1) {
                    // An "atomic fragment" (RFC 6946) is whole.
                    (0, 0) => Fragment::Whole,
                    (0, _) => Fragment::First(id),
                    // What follows is payload: there is no header to read on.
                    (_, _) => {
                        packet.fragment = Fragment::Later(id);
                        return Ok(offset);
                    }
                };
            }
            ROUTING => return Err(DropReason::SourceRoute),
            ESP | AUTHENTICATION | NO_NEXT_HEADER => return Err(DropReason::UnknownProtocol),
            MOBILITY | HIP | SHIM6 => return Err(DropReason::HeaderChain),
            _ => return Ok(offset),
        }
    }
    Err(DropReason::HeaderChain)
}
