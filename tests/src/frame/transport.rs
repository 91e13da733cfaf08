//! What stands behind the IP header.

use std::net::IpAddr;

use etherparse::checksum::Sum16BitWords;

use super::{octets, protocol};

/// A TCP segment.
#[derive(Clone, Copy, Debug)]
pub struct Tcp {
    /// Destination port.
    pub port: u16,
    /// Flags.
    pub flags: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
}

impl Tcp {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Ends a connection at once.
    pub const RST: u8 = 0x04;
    /// Acknowledges.
    pub const ACK: u8 = 0x10;
}

/// A transport header.
#[derive(Clone, Debug)]
pub enum Transport {
    /// UDP to this port.
    Udp(u16),
    /// TCP.
    Tcp(Tcp),
    /// An SCTP INIT to this port.
    Sctp(u16),
    /// An ICMP echo of the destination's family; the source port is its identifier.
    Echo {
        /// The reply, not the request.
        reply: bool,
    },
    /// ICMP of the destination's family: type, code, and what follows the checksum.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// What follows the checksum, before the data.
        body: Vec<u8>,
    },
    /// Anything else: the octets before the data.
    Other {
        /// IP protocol number.
        protocol: u8,
        /// Octets before the data.
        head: Vec<u8>,
    },
}

const ICMP_ECHO: u8 = 8;
const ICMP_ECHO_REPLY: u8 = 0;
const ICMPV6_ECHO: u8 = 128;
const ICMPV6_ECHO_REPLY: u8 = 129;
const SCTP_INIT: [u8; 20] = [1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 10, 0, 10, 0, 0, 0, 1];

impl Transport {
    /// The protocol number to an address of this family.
    pub(super) fn number(&self, v4: bool) -> u8 {
        match self {
            Self::Udp(_) => protocol::UDP,
            Self::Tcp(_) => protocol::TCP,
            Self::Sctp(_) => protocol::SCTP,
            Self::Echo { .. } | Self::Icmp { .. } if v4 => protocol::ICMP,
            Self::Echo { .. } | Self::Icmp { .. } => protocol::ICMPV6,
            Self::Other { protocol, .. } => *protocol,
        }
    }

    /// Octets before the data.
    pub(super) fn head_len(&self) -> usize {
        match self {
            Self::Udp(_) | Self::Echo { .. } => 8,
            Self::Tcp(_) => 20,
            Self::Sctp(_) => 12 + SCTP_INIT.len(),
            Self::Icmp { body, .. } => 4 + body.len(),
            Self::Other { head, .. } => head.len(),
        }
    }

    /// Header and data, summed up.
    pub(super) fn bytes(&self, src: IpAddr, dst: IpAddr, sport: u16, data: &[u8]) -> Vec<u8> {
        let v4 = dst.is_ipv4();
        let mut bytes = Vec::new();
        match self {
            Self::Udp(port) => {
                bytes.extend(sport.to_be_bytes());
                bytes.extend(port.to_be_bytes());
                bytes.extend(u16::try_from(8 + data.len()).unwrap_or(u16::MAX).to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(data);
                write_sum(&mut bytes, 6, &pseudo(src, dst, protocol::UDP));
            }
            Self::Tcp(Tcp {
                port,
                flags,
                seq,
                ack,
            }) => {
                bytes.extend(sport.to_be_bytes());
                bytes.extend(port.to_be_bytes());
                bytes.extend(seq.to_be_bytes());
                bytes.extend(ack.to_be_bytes());
                bytes.extend([5 << 4, *flags, 0xff, 0xff, 0, 0, 0, 0]);
                bytes.extend(data);
                write_sum(&mut bytes, 16, &pseudo(src, dst, protocol::TCP));
            }
            Self::Sctp(port) => {
                bytes.extend(sport.to_be_bytes());
                bytes.extend(port.to_be_bytes());
                // Verification tag and checksum (CRC32c), which no router looks at.
                bytes.extend([0; 8]);
                bytes.extend(SCTP_INIT);
                bytes.extend(data);
            }
            Self::Echo { reply } => {
                let kind = match (v4, reply) {
                    (true, false) => ICMP_ECHO,
                    (true, true) => ICMP_ECHO_REPLY,
                    (false, false) => ICMPV6_ECHO,
                    (false, true) => ICMPV6_ECHO_REPLY,
                };
                bytes.extend([kind, 0, 0, 0]);
                bytes.extend(sport.to_be_bytes());
                bytes.extend([0, 1]);
                bytes.extend(data);
                write_icmp_sum(&mut bytes, src, dst);
            }
            Self::Icmp { kind, code, body } => {
                bytes.extend([*kind, *code, 0, 0]);
                bytes.extend(body);
                bytes.extend(data);
                write_icmp_sum(&mut bytes, src, dst);
            }
            Self::Other { head, .. } => {
                bytes.extend(head);
                bytes.extend(data);
            }
        }
        bytes
    }
}

fn write_icmp_sum(bytes: &mut [u8], src: IpAddr, dst: IpAddr) {
    let seed = if dst.is_ipv4() {
        Vec::new()
    } else {
        pseudo(src, dst, protocol::ICMPV6)
    };
    write_sum(bytes, 2, &seed);
}

/// The pseudo header, without the length (RFC 9293 section 3.1, RFC 8200 section 8.1). Zeros add nothing.
fn pseudo(src: IpAddr, dst: IpAddr, protocol: u8) -> Vec<u8> {
    let addresses = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => [src.octets(), dst.octets()].concat(),
        (src, dst) => [octets(src), octets(dst)].concat(),
    };
    [&addresses[..], &[0, protocol]].concat()
}

fn write_sum(bytes: &mut [u8], at: usize, pseudo: &[u8]) {
    let mut sum = Sum16BitWords::new().add_slice(bytes);
    if !pseudo.is_empty() {
        let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        sum = sum.add_slice(pseudo).add_2bytes(len.to_be_bytes());
    }
    // The sum is of words in memory order.
    bytes[at..at + 2].copy_from_slice(&sum.ones_complement().to_ne_bytes());
}
