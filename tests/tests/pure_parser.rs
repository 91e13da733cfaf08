//! The parser on every kind of octets: it never panics, agrees with another parser on sound frames, and takes no
//! part of a frame for the whole.

use std::net::IpAddr;

use ebpf::{
    DropReason,
    packet::{ETH_IPV4, ETH_IPV6, Fragment, Kind, Link, Packet, Slice, parse},
};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use sluice_tests::frame::{Frame, Sender, Tcp, Transport};

const ROUTER_ALERT: [u8; 4] = [148, 4, 0, 0];
const HOP_BY_HOP: u8 = 0;
const DESTINATION_OPTIONS: u8 = 60;

fn read(bytes: &[u8], link: Link) -> (Packet, Result<(), DropReason>) {
    let mut packet = Packet::EMPTY;
    let parsed = parse(&Slice(bytes), link, &mut packet);
    (packet, parsed)
}

fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        (any::<[u8; 4]>(), any::<[u8; 4]>()).prop_map(|(src, dst)| (src.into(), dst.into())),
        (any::<[u8; 16]>(), any::<[u8; 16]>())
            .prop_filter("no mapped addresses", |(src, dst)| src[..10] != [0; 10]
                && dst[..10] != [0; 10])
            .prop_map(|(src, dst)| (src.into(), dst.into())),
    ]
}

fn transports() -> impl Strategy<Value = Transport> {
    prop_oneof![
        any::<u16>().prop_map(Transport::Udp),
        any::<u16>().prop_map(Transport::Sctp),
        any::<bool>().prop_map(|reply| Transport::Echo { reply }),
        (any::<u16>(), any::<u8>(), any::<u32>(), any::<u32>()).prop_map(|(port, flags, seq, ack)| {
            Transport::Tcp(Tcp {
                port,
                flags,
                seq,
                ack,
            })
        }),
    ]
}

/// Frames that nothing is wrong with. No fragments: the other parser reads no ports of them.
fn frames() -> impl Strategy<Value = Frame> {
    let mac = any::<[u8; 6]>();
    (
        addresses(),
        transports(),
        mac,
        any::<u16>(),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|((src, dst), transport, mac, sport, odd, tagged)| {
            let sender = Sender {
                mac,
                node_mac: [2; 6],
                v4: src,
                v6: src,
            };
            let mut frame = sender.frame(dst, transport).sport(sport);
            if odd && dst.is_ipv4() {
                frame = frame.options(&ROUTER_ALERT);
            } else if odd {
                frame = frame
                    .extension(HOP_BY_HOP, &[5, 2, 0, 0])
                    .extension(DESTINATION_OPTIONS, &[1, 12]);
            }
            if tagged { frame.tagged(0x8100, 5) } else { frame }
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_octets_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), link in 0..3_usize) {
        let link = [Link::Ethernet, Link::Ip(ETH_IPV4), Link::Ip(ETH_IPV6)][link];
        let (packet, parsed) = read(&bytes, link);
        if parsed.is_ok() {
            prop_assert!(usize::from(packet.l3) <= bytes.len());
            prop_assert!(usize::from(packet.l4) <= bytes.len());
        }
    }

    #[test]
    fn damaged_frames_are_read_without_panic(
        frame in frames(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = frame.bytes();
        for (place, octet) in damage {
            let place = place.index(bytes.len());
            bytes[place] = octet;
        }
        let (packet, parsed) = read(&bytes, Link::Ethernet);
        if parsed.is_ok() {
            prop_assert!(usize::from(packet.l4) <= bytes.len());
        }
    }

    #[test]
    fn sound_frames_are_read_as_etherparse_reads_them(frame in frames()) {
        let bytes = frame.bytes();
        let (packet, parsed) = read(&bytes, Link::Ethernet);
        let theirs = SlicedPacket::from_ethernet(&bytes).expect("a sound frame");
        prop_assert_eq!(parsed, Ok(()));
        let (src, dst, number): (IpAddr, IpAddr, u8) = match &theirs.net {
            Some(NetSlice::Ipv4(ip)) => {
                (ip.header().source_addr().into(), ip.header().destination_addr().into(), ip.payload().ip_number.0)
            }
            Some(NetSlice::Ipv6(ip)) => {
                (ip.header().source_addr().into(), ip.header().destination_addr().into(), ip.payload().ip_number.0)
            }
            Some(NetSlice::Arp(_)) | None => unreachable!("neither IPv4 nor IPv6"),
        };
        prop_assert_eq!((IpAddr::from(packet.tuple.src), IpAddr::from(packet.tuple.dst)), (src, dst));
        prop_assert_eq!(packet.tuple.protocol.0, number);
        prop_assert_eq!(packet.vlan, theirs.vlan().is_some());
        prop_assert_eq!(packet.fragment, Fragment::Whole);
        match &theirs.transport {
            Some(TransportSlice::Udp(udp)) => {
                prop_assert_eq!((packet.tuple.sport, packet.tuple.dport), (udp.source_port(), udp.destination_port()));
            }
            Some(TransportSlice::Tcp(tcp)) => {
                prop_assert_eq!((packet.tuple.sport, packet.tuple.dport), (tcp.source_port(), tcp.destination_port()));
                let Kind::Tcp(flags) = packet.kind else { unreachable!("TCP was read as {:?}", packet.kind) };
                prop_assert_eq!(flags.opens(), tcp.syn() && !tcp.ack() && !tcp.rst());
                prop_assert_eq!(flags.closes(), tcp.fin() || tcp.rst());
            }
            Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_)) => {
                prop_assert_eq!((packet.tuple.sport, packet.tuple.dport), (frame.source_port(), frame.source_port()));
            }
            // SCTP, which they do not read.
            Some(_) | None => prop_assert_eq!(packet.tuple.sport, frame.source_port()),
        }
    }

    #[test]
    fn no_part_of_a_frame_is_taken_for_the_whole(frame in frames(), cut in any::<prop::sample::Index>()) {
        let bytes = frame.bytes();
        let cut = cut.index(bytes.len());
        let (_, parsed) = read(&bytes[..cut], Link::Ethernet);
        prop_assert_eq!(parsed, Err(DropReason::Truncated));
    }
}
