//! Handing a packet to a socket of the proxy.

use core::ptr::{addr_of, from_mut};

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_tuple},
    helpers::generated::{bpf_sk_assign, bpf_sk_release, bpf_skc_lookup_tcp},
};
use ebpf::{
    Addr,
    capture::Capture,
    packet::{Kind, Packet, Tuple},
};

use super::skb::Skb;

/// `BPF_F_CURRENT_NETNS`: that of the packet's device.
const CURRENT_NETNS: u64 = u64::MAX;
/// `BPF_TCP_TIME_WAIT`.
const TIME_WAIT: u32 = 6;
/// `BPF_TCP_LISTEN`.
const LISTEN: u32 = 10;

/// The IPv4 half of `struct bpf_sock_tuple`.
#[repr(C)]
struct V4 {
    addresses: [u32; 2],
    ports: [u16; 2],
}

/// The IPv6 half of it.
#[repr(C)]
struct V6 {
    addresses: [[u32; 4]; 2],
    ports: [u16; 2],
}

/// What came of handing a packet over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum HandOver {
    Done,
    NoProxy,
    /// Somebody else listens there. The packet is tied to his socket now and may not go anywhere.
    Impostor,
}

/// Whether the connection of a packet has a socket in the network namespace of its device. One that only waits for the end
/// of its time has the rest of its connection, but not a new call. A word, as functions of the kernel's machine return a
/// register.
#[inline(never)]
pub(super) fn has_connection(skb: &Skb, packet: &Packet) -> u32 {
    let tuple = &packet.tuple;
    let is_connection = |sk| is_connection(sk, packet.kind);
    u32::from(look_up(skb, tuple, tuple.dst, tuple.dport, is_connection))
}

/// Gives the packet to the socket of its connection. Whether there is one.
#[inline(never)]
pub(super) fn deliver(skb: &Skb, packet: &Packet) -> u32 {
    let tuple = &packet.tuple;
    let assign = |sk| is_connection(sk, packet.kind) && assign(skb, sk);
    u32::from(look_up(skb, tuple, tuple.dst, tuple.dport, assign))
}

/// Gives the packet to the proxy, which listens on `port` of `addr`.
#[inline(always)]
pub(super) fn hand_over(
    skb: &Skb,
    tuple: &Tuple,
    addr: &Addr,
    port: u16,
    capture: Option<&Capture>,
) -> HandOver {
    if assign_listener(skb, tuple, addr, port) == 0 {
        return HandOver::NoProxy;
    }
    // Whoever was there before the ports were kept for the proxy, or came by `listen()` without `bind()`. A listener's
    // cgroup can be asked for only through the packet.
    match capture {
        Some(capture) if capture.knows_proxy() && !skb.is_of_proxy(capture) => HandOver::Impostor,
        Some(_) | None => HandOver::Done,
    }
}

#[inline(never)]
fn assign_listener(skb: &Skb, tuple: &Tuple, addr: &Addr, port: u16) -> u32 {
    let assign = |sk| state(sk) == LISTEN && assign(skb, sk);
    u32::from(look_up(skb, tuple, *addr, port, assign))
}

/// Asks `then` of the socket of a connection from the source of `tuple` to `addr`, or else of the listener there.
#[inline(always)]
fn look_up(
    skb: &Skb,
    tuple: &Tuple,
    addr: Addr,
    port: u16,
    then: impl FnOnce(*mut bpf_sock) -> bool,
) -> bool {
    let ports = [tuple.sport.to_be(), port.to_be()];
    let sk = if addr.is_v4() {
        let addresses = [tuple.src.words()[3], addr.words()[3]];
        skc_lookup(skb, &mut V4 { addresses, ports })
    } else {
        let addresses = [tuple.src.words(), addr.words()];
        skc_lookup(skb, &mut V6 { addresses, ports })
    };
    if sk.is_null() {
        return false;
    }
    let answer = then(sk);
    // SAFETY: a socket that the look-up has taken hold of, and that is not used after this.
    unsafe { bpf_sk_release(sk.cast()) };
    answer
}

#[inline(always)]
fn skc_lookup<T>(skb: &Skb, tuple: &mut T) -> *mut bpf_sock {
    let tuple: *mut bpf_sock_tuple = from_mut(tuple).cast();
    // SAFETY: the tuple is one of the two that the helper tells apart by their length, and it only reads it.
    unsafe {
        bpf_skc_lookup_tcp(
            skb.as_ptr().cast(),
            tuple,
            size_of::<T>() as u32,
            CURRENT_NETNS,
            0,
        )
    }
}

#[inline(always)]
fn state(sk: *mut bpf_sock) -> u32 {
    // SAFETY: a socket that the look-up holds.
    unsafe { addr_of!((*sk).state).read_volatile() }
}

#[inline(always)]
fn is_connection(sk: *mut bpf_sock, kind: Kind) -> bool {
    match state(sk) {
        LISTEN => false,
        TIME_WAIT => !matches!(kind, Kind::Tcp(flags) if flags.opens()),
        _ => true,
    }
}

#[inline(always)]
fn assign(skb: &Skb, sk: *mut bpf_sock) -> bool {
    // SAFETY: a packet that is coming in and a socket that the look-up holds. Fails for a listener with SO_REUSEPORT
    // before Linux 6.6.
    unsafe { bpf_sk_assign(skb.as_ptr().cast(), sk.cast(), 0) == 0 }
}
