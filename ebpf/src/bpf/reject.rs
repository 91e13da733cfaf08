//! Answers to what is dropped: a TCP segment is answered with RST, the rest with ICMP "administratively
//! prohibited". The dropped packet itself becomes the answer and goes back through the pod's device.

use aya_ebpf::{
    bindings::{__sk_buff, TC_ACT_SHOT},
    helpers::{bpf_csum_diff, bpf_redirect, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes},
    macros::map,
    maps::PerCpuArray,
};
use ebpf::packet::{Bytes as _, ETH_IPV4, Fragment, Kind, Packet, Protocol, TcpFlags};

use super::skb::Skb;

const ETH_LEN: usize = 14;
const V4_LEN: usize = 20;
const V6_LEN: usize = 40;
const TCP_LEN: usize = 20;
const ICMP_LEN: usize = 8;
/// Octets of the dropped packet that an ICMP error quotes: all headers of any packet that is judged by its
/// content and not for its headers, and less than any MTU.
const QUOTE_LEN: usize = 128;
/// The smallest packet that can be quoted: an IPv4 header and eight octets.
const MIN_QUOTE_LEN: usize = 28;
const FRAME_LEN: usize = 200;
const TTL: u8 = 64;

/// ICMP destination unreachable, communication administratively prohibited (RFC 1812 section 5.2.7.1).
const V4_PROHIBITED: [u8; 2] = [3, 13];
/// `ICMPv6` destination unreachable, administratively prohibited (RFC 4443 section 3.1).
const V6_PROHIBITED: [u8; 2] = [1, 1];

/// Room for one answer, for the pseudo header in front of its transport, and for the TCP header it answers.
#[repr(C, align(8))]
struct Scratch {
    pseudo: [u8; 40],
    frame: [u8; FRAME_LEN],
    tcp: [u8; TCP_LEN],
    padding: [u8; 4],
}

/// tc programs of one CPU do not interrupt each other, so one place per CPU is enough.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Turns the packet into its refusal and sends that back; drops it if there is no answer to it.
///
/// A function of its own for the sake of the stack: a caller and its callee share 512 octets.
#[inline(never)]
pub(super) fn answer(skb: &Skb, packet: &Packet) -> i32 {
    try_answer(skb, packet).unwrap_or(TC_ACT_SHOT)
}

#[inline(always)]
fn try_answer(skb: &Skb, packet: &Packet) -> Option<i32> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: a valid pointer to this CPU's place, see `SCRATCH`.
    let scratch = unsafe { &mut *scratch };
    if packet.l3 as usize != ETH_LEN || matches!(packet.fragment, Fragment::Later(_)) {
        return None;
    }
    let len = match packet.kind {
        Kind::Tcp(flags) if flags.resets() => return None,
        Kind::Tcp(flags) => reset(skb, packet, flags, scratch),
        Kind::Datagram | Kind::Query | Kind::EchoReply => prohibit(skb, packet, scratch),
        Kind::Arp { .. } | Kind::Neighbour { .. } | Kind::Error(_) => return None,
    };
    if len == 0 || len > FRAME_LEN {
        return None;
    }
    let frame: *const [u8; FRAME_LEN] = &raw const scratch.frame;
    // SAFETY: `len` octets of `frame` are written, and `len` is at most that; the helpers check the packet's bounds.
    unsafe {
        let ptr: *mut __sk_buff = skb.as_ptr();
        if bpf_skb_change_tail(ptr, len as u32, 0) != 0 {
            return None;
        }
        if bpf_skb_store_bytes(ptr, 0, frame.cast(), len as u32, 0) != 0 {
            return None;
        }
        Some(bpf_redirect(skb.device(), 0) as i32)
    }
}

/// Writes the link header and the IP header of an answer with `payload` octets. Returns where they end; 0 if they
/// could not be written.
#[inline(never)]
fn write_headers(
    skb: &Skb,
    packet: &Packet,
    scratch: &mut Scratch,
    protocol: Protocol,
    payload: usize,
) -> usize {
    let frame = &mut scratch.frame;
    let Some(macs) = skb.load::<[u8; 12]>(0) else {
        return 0;
    };
    let (dst, src) = (packet.tuple.src.octets(), packet.tuple.dst.octets());
    let mut i = 0;
    while i < 6 {
        frame[i] = macs[6 + i];
        frame[6 + i] = macs[i];
        i += 1;
    }
    let ether_type = packet.ether_type.to_be_bytes();
    frame[12] = ether_type[0];
    frame[13] = ether_type[1];
    if packet.ether_type == ETH_IPV4 {
        let total = ((V4_LEN + payload) as u16).to_be_bytes();
        // Version and length; no fragments (DF); time to live; the checksum comes last.
        let header = [0x45, 0, total[0], total[1], 0, 0, 0x40, 0, TTL, protocol.0, 0, 0];
        let mut i = 0;
        while i < header.len() {
            frame[ETH_LEN + i] = header[i];
            i += 1;
        }
        let mut i = 0;
        while i < 4 {
            frame[ETH_LEN + 12 + i] = src[12 + i];
            frame[ETH_LEN + 16 + i] = dst[12 + i];
            i += 1;
        }
        let sum = fold(checksum(&frame[ETH_LEN..], V4_LEN, 0));
        frame[ETH_LEN + 10] = sum[0];
        frame[ETH_LEN + 11] = sum[1];
        return ETH_LEN + V4_LEN;
    }
    let length = (payload as u16).to_be_bytes();
    let header = [0x60, 0, 0, 0, length[0], length[1], protocol.0, TTL];
    let mut i = 0;
    while i < header.len() {
        frame[ETH_LEN + i] = header[i];
        i += 1;
    }
    let mut i = 0;
    while i < 16 {
        frame[ETH_LEN + 8 + i] = src[i];
        frame[ETH_LEN + 24 + i] = dst[i];
        i += 1;
    }
    ETH_LEN + V6_LEN
}

/// Fills in the pseudo header (RFC 9293 section 3.1, RFC 8200 section 8.1). Its sum starts the transport's.
#[inline(never)]
fn pseudo_sum(packet: &Packet, scratch: &mut Scratch, protocol: Protocol, payload: usize) -> u32 {
    let (dst, src) = (packet.tuple.src.octets(), packet.tuple.dst.octets());
    let pseudo = &mut scratch.pseudo;
    let length = (payload as u32).to_be_bytes();
    let mut i = 0;
    while i < 16 {
        // The first twelve octets of a mapped IPv4 address stand for none.
        let skip = packet.ether_type == ETH_IPV4 && i < 12;
        pseudo[i] = if skip { 0 } else { src[i] };
        pseudo[16 + i] = if skip { 0 } else { dst[i] };
        i += 1;
    }
    let mut i = 0;
    while i < 4 {
        pseudo[32 + i] = length[i];
        pseudo[36 + i] = 0;
        i += 1;
    }
    pseudo[39] = protocol.0;
    checksum(pseudo, 40, 0)
}

/// Writes a RST. Returns the length of the frame, 0 if there is none.
#[inline(never)]
fn reset(skb: &Skb, packet: &Packet, flags: TcpFlags, scratch: &mut Scratch) -> usize {
    let tcp: *mut [u8; TCP_LEN] = &raw mut scratch.tcp;
    // SAFETY: the helper checks the bounds of the packet and fills all of `tcp` or fails.
    let failed = unsafe {
        bpf_skb_load_bytes(
            skb.as_ptr().cast(),
            u32::from(packet.l4),
            tcp.cast(),
            TCP_LEN as u32,
        )
    };
    if failed != 0 {
        return 0;
    }
    let at = write_headers(skb, packet, scratch, Protocol::TCP, TCP_LEN);
    if at == 0 {
        return 0;
    }
    let sum = pseudo_sum(packet, scratch, Protocol::TCP, TCP_LEN);
    let Scratch { frame, tcp, .. } = scratch;
    let segment = if at == ETH_LEN + V4_LEN {
        &mut frame[ETH_LEN + V4_LEN..ETH_LEN + V4_LEN + TCP_LEN]
    } else {
        &mut frame[ETH_LEN + V6_LEN..ETH_LEN + V6_LEN + TCP_LEN]
    };
    let mut i = 0;
    while i < TCP_LEN {
        segment[i] = 0;
        i += 1;
    }
    [segment[0], segment[1], segment[2], segment[3]] = [tcp[2], tcp[3], tcp[0], tcp[1]];
    // RFC 9293 section 3.10.7.1: with an ACK the answer takes its number, without one it acknowledges.
    if flags.0 & TcpFlags::ACK != 0 {
        [segment[4], segment[5], segment[6], segment[7]] = [tcp[8], tcp[9], tcp[10], tcp[11]];
        segment[13] = TcpFlags::RST;
    } else {
        let header_len = u32::from(tcp[12] >> 4) * 4;
        let data = (skb.len() as u32)
            .wrapping_sub(u32::from(packet.l4))
            .wrapping_sub(header_len);
        let opens = u32::from(flags.0 & TcpFlags::SYN != 0);
        let ends = u32::from(flags.0 & TcpFlags::FIN != 0);
        let seq = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        let ack = seq.wrapping_add(data).wrapping_add(opens).wrapping_add(ends);
        [segment[8], segment[9], segment[10], segment[11]] = ack.to_be_bytes();
        segment[13] = TcpFlags::RST | TcpFlags::ACK;
    }
    segment[12] = (TCP_LEN as u8 / 4) << 4;
    let sum = fold(checksum(segment, TCP_LEN, sum));
    segment[16] = sum[0];
    segment[17] = sum[1];
    at + TCP_LEN
}

/// Writes an ICMP error. Returns the length of the frame, 0 if there is none.
#[inline(never)]
fn prohibit(skb: &Skb, packet: &Packet, scratch: &mut Scratch) -> usize {
    let available = skb.len().saturating_sub(ETH_LEN);
    let quote = if available > QUOTE_LEN {
        QUOTE_LEN
    } else {
        available
    };
    if quote < MIN_QUOTE_LEN {
        return 0;
    }
    let v4 = packet.ether_type == ETH_IPV4;
    let (protocol, kind) = if v4 {
        (Protocol::ICMP, V4_PROHIBITED)
    } else {
        (Protocol::ICMPV6, V6_PROHIBITED)
    };
    let at = write_headers(skb, packet, scratch, protocol, ICMP_LEN + quote);
    if at == 0 {
        return 0;
    }
    let sum = if v4 {
        0
    } else {
        pseudo_sum(packet, scratch, protocol, ICMP_LEN + quote)
    };
    let message = if v4 {
        &mut scratch.frame[ETH_LEN + V4_LEN..ETH_LEN + V4_LEN + ICMP_LEN + QUOTE_LEN]
    } else {
        &mut scratch.frame[ETH_LEN + V6_LEN..ETH_LEN + V6_LEN + ICMP_LEN + QUOTE_LEN]
    };
    let mut i = 0;
    while i < ICMP_LEN + QUOTE_LEN {
        message[i] = 0;
        i += 1;
    }
    message[0] = kind[0];
    message[1] = kind[1];
    // SAFETY: `quote` is at most `QUOTE_LEN`, for which there is room behind the ICMP header.
    let failed = unsafe {
        bpf_skb_load_bytes(
            skb.as_ptr().cast(),
            ETH_LEN as u32,
            message.as_mut_ptr().add(ICMP_LEN).cast(),
            quote as u32,
        )
    };
    if failed != 0 {
        return 0;
    }
    // What is behind the quotation is zero and adds nothing.
    let sum = fold(checksum(message, ICMP_LEN + QUOTE_LEN, sum));
    message[2] = sum[0];
    message[3] = sum[1];
    at + ICMP_LEN + quote
}

/// The sum of `len` octets, a multiple of four, on top of `seed` (RFC 1071).
#[inline(always)]
#[expect(
    clippy::cast_sign_loss,
    reason = "only a length that is too large or no multiple of four makes the helper fail"
)]
fn checksum(octets: &[u8], len: usize, seed: u32) -> u32 {
    // SAFETY: every caller passes at least `len` octets.
    unsafe {
        bpf_csum_diff(
            core::ptr::null_mut(),
            0,
            octets.as_ptr().cast_mut().cast(),
            len as u32,
            seed,
        ) as u32
    }
}

/// The checksum of a sum, as it goes into the header.
#[inline(always)]
const fn fold(sum: u32) -> [u8; 2] {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    // The helper sums words in memory order.
    (!(sum as u16)).to_ne_bytes()
}
