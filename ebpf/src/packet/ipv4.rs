//! IPv4 (RFC 791).

use network_types::ip::Ipv4Hdr;

use super::{Bytes, Fragment, Packet, Protocol, settle_offset};
use crate::{Addr, DropReason};

const MORE_FRAGMENTS: u16 = 0x2000;
const FRAGMENT_OFFSET: u16 = 0x1fff;

const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_LOOSE_ROUTE: u8 = 131;
const OPTION_STRICT_ROUTE: u8 = 137;
/// A header holds 40 octets of options at the most.
const MAX_OPTIONS: usize = 40;

/// Reads an IPv4 header at `offset`. Returns where the next one starts.
#[inline(always)]
pub(super) fn parse<B: Bytes>(bytes: &B, offset: usize, packet: &mut Packet) -> Result<usize, DropReason> {
    let ip: Ipv4Hdr = bytes.load(offset).ok_or(DropReason::Truncated)?;
    packet.tuple.src = Addr::v4(ip.src_addr);
    packet.tuple.dst = Addr::v4(ip.dst_addr);
    packet.tuple.protocol = Protocol(ip.proto);
    packet.hop_limit = ip.ttl;

    let header_len = usize::from(ip.vihl & 0x0f) * 4;
    if ip.vihl >> 4 != 4 || header_len < size_of::<Ipv4Hdr>() {
        return Err(DropReason::Malformed);
    }
    // A GSO packet beyond 64 KiB ("BIG TCP") has 0 here and its length in the buffer alone. No other may.
    let total_len = usize::from(u16::from_be_bytes(ip.tot_len));
    let big = total_len == 0 && bytes.len() > usize::from(u16::MAX);
    if total_len < header_len && !big {
        return Err(DropReason::Malformed);
    }
    let end = if big { bytes.len() } else { offset + total_len };
    if end > bytes.len() {
        return Err(DropReason::Truncated);
    }
    packet.end = end as u32;
    if header_len > size_of::<Ipv4Hdr>() {
        check_options(bytes, offset + size_of::<Ipv4Hdr>(), offset + header_len, packet)?;
    }

    let frags = u16::from_be_bytes(ip.frags);
    // The identification counts per source, destination and protocol (RFC 791 section 3.2).
    let id = u32::from(u16::from_ne_bytes(ip.id));
    packet.fragment = match (frags & FRAGMENT_OFFSET, frags & MORE_FRAGMENTS) {
        (0, 0) => Fragment::Whole,
        (0, _) => Fragment::First(id),
        (_, _) => Fragment::Later(id),
    };
    Ok(offset + header_len)
}

/// Looks for a source route; every other option is for the sender's own account.
#[inline(always)]
fn check_options<B: Bytes>(
    bytes: &B,
    start: usize,
    end: usize,
    packet: &mut Packet,
) -> Result<(), DropReason> {
    let mut at = start;
    for _ in 0..MAX_OPTIONS {
        at = settle_offset(&mut packet.l4, at);
        if at >= end {
            break;
        }
        let [kind] = bytes.load::<[u8; 1]>(at).ok_or(DropReason::Truncated)?;
        match kind {
            OPTION_END => break,
            OPTION_NOP => at += 1,
            OPTION_LOOSE_ROUTE | OPTION_STRICT_ROUTE => return Err(DropReason::SourceRoute),
            _ => {
                let [option_len] = bytes.load::<[u8; 1]>(at + 1).ok_or(DropReason::Truncated)?;
                if option_len < 2 || at + usize::from(option_len) > end {
                    return Err(DropReason::Malformed);
                }
                at += usize::from(option_len);
            }
        }
    }
    Ok(())
}
