//! The packet that a question is about, as a pod would send it.

use std::net::IpAddr;

use ebpf::rules::Endpoint;
use etherparse::{IpNumber, PacketBuilder, PacketBuilderStep};

use crate::api::{Destination, Transport};

/// The first port of the range that clients use (IANA, RFC 6335 section 6).
const CLIENT_PORT: u16 = 49152;
const HOP_LIMIT: u8 = 64;
/// Any address will do: nobody looks at the destination's.
const ROUTER_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];

/// A frame from `endpoint` to `destination`: the first of a call. `None` if the pod has no address of that family.
pub(super) fn frame(endpoint: &Endpoint, destination: &Destination) -> Option<Vec<u8>> {
    let source = match destination.address {
        IpAddr::V4(_) => endpoint.v4(),
        IpAddr::V6(_) => endpoint.v6(),
    };
    let ethernet = PacketBuilder::ethernet2(endpoint.mac(), ROUTER_MAC);
    let ip = match (source.map(IpAddr::from)?, destination.address) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => ethernet.ipv4(src.octets(), dst.octets(), HOP_LIMIT),
        (IpAddr::V6(src), IpAddr::V6(dst)) => ethernet.ipv6(src.octets(), dst.octets(), HOP_LIMIT),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    };
    write(ip, destination)
}

fn write(ip: PacketBuilderStep<etherparse::IpHeaders>, destination: &Destination) -> Option<Vec<u8>> {
    let mut frame = Vec::with_capacity(128);
    let port = destination.port;
    let written = match (destination.protocol, destination.address) {
        (Transport::Tcp, _) => ip
            .tcp(CLIENT_PORT, port, 0, u16::MAX)
            .syn()
            .write(&mut frame, &[]),
        (Transport::Udp, _) => ip.udp(CLIENT_PORT, port).write(&mut frame, &[0; 8]),
        (Transport::Icmp, IpAddr::V4(_)) => ip.icmpv4_echo_request(1, 1).write(&mut frame, &[0; 8]),
        (Transport::Icmp, IpAddr::V6(_)) => ip.icmpv6_echo_request(1, 1).write(&mut frame, &[0; 8]),
        (Transport::Sctp, _) => {
            // Ports, then tag, checksum and the beginning of an INIT chunk, which nobody looks at.
            let [s0, s1] = CLIENT_PORT.to_be_bytes();
            let [d0, d1] = port.to_be_bytes();
            let sctp = [s0, s1, d0, d1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 4];
            ip.write(&mut frame, IpNumber::SCTP, &sctp)
        }
    };
    written.ok().map(|()| frame)
}

#[cfg(test)]
mod tests {
    use ebpf::{
        Addr,
        packet::{Link, Packet, Slice, parse},
    };

    use super::*;

    #[test]
    fn the_frame_is_what_was_asked_for() {
        let (v4, v6) = (
            Addr::v4([10, 0, 0, 1]),
            Addr::from("fd00::1".parse::<IpAddr>().expect("an address")),
        );
        let endpoint = Endpoint::new(7, [2, 0, 0, 0, 0, 9], Some(v4), Some(v6));
        for text in [
            "203.0.113.5:443",
            "203.0.113.5:53/udp",
            "203.0.113.5/icmp",
            "203.0.113.5:9/sctp",
            "[2001:db8::5]:443",
            "[2001:db8::5]:9/sctp",
            "2001:db8::5/icmp",
        ] {
            let destination: Destination = text.parse().expect(text);
            let frame = frame(&endpoint, &destination).expect(text);
            let mut packet = Packet::EMPTY;
            parse(&Slice(&frame), Link::Ethernet, &mut packet).expect(text);
            assert_eq!(IpAddr::from(packet.tuple.dst), destination.address, "{text}");
            assert_eq!(
                packet.tuple.protocol,
                destination.protocol.protocol(destination.address),
                "{text}"
            );
            assert!(endpoint.owns(packet.tuple.src), "{text}");
            if destination.protocol != Transport::Icmp {
                assert_eq!(packet.tuple.dport, destination.port, "{text}");
            }
        }
    }
}
