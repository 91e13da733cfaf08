//! TCP, UDP and SCTP, as far as ports and the life of a flow are concerned.

use network_types::udp::UdpHdr;

use super::{Bytes, Fragment, Kind, Packet, Protocol, icmp, load_inside};
use crate::DropReason;

/// The flags of a TCP segment.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Ends a connection at once.
    pub const RST: u8 = 0x04;
    /// Acknowledges.
    pub const ACK: u8 = 0x10;

    /// A call: SYN without ACK.
    #[inline(always)]
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST) == Self::SYN
    }

    /// The answer to a call: SYN with ACK.
    #[inline(always)]
    pub const fn answers(self) -> bool {
        self.0 & (Self::SYN | Self::ACK) == Self::SYN | Self::ACK
    }

    /// FIN or RST.
    #[inline(always)]
    pub const fn closes(self) -> bool {
        self.0 & (Self::FIN | Self::RST) != 0
    }

    /// RST.
    #[inline(always)]
    pub const fn resets(self) -> bool {
        self.0 & Self::RST != 0
    }
}

/// Octets of a TCP header without options (RFC 9293 section 3.1).
const TCP_HEADER_LEN: usize = 20;
/// Octets of the fixed SCTP header (RFC 9260 section 3).
const SCTP_HEADER_LEN: usize = 12;

/// Reads the transport header at `offset`, unless this is a later fragment, which has none.
#[inline(always)]
pub(super) fn parse<B: Bytes>(bytes: &B, offset: usize, packet: &mut Packet) -> Result<(), DropReason> {
    let protocol = packet.tuple.protocol;
    if !protocol.is_known() {
        return Err(DropReason::UnknownProtocol);
    }
    if protocol.is_icmp() {
        return icmp::parse(bytes, offset, packet);
    }
    if let Fragment::Later(_) = packet.fragment {
        return Ok(());
    }
    match protocol {
        Protocol::TCP => {
            let [s0, s1, d0, d1, _, _, _, _, _, _, _, _, data_offset, flags, ..] =
                load_inside::<_, [u8; TCP_HEADER_LEN]>(bytes, packet, offset)?;
            if usize::from(data_offset >> 4) * 4 < TCP_HEADER_LEN {
                return Err(DropReason::Malformed);
            }
            packet.tuple.sport = u16::from_be_bytes([s0, s1]);
            packet.tuple.dport = u16::from_be_bytes([d0, d1]);
            packet.kind = Kind::Tcp(TcpFlags(flags));
        }
        Protocol::UDP => {
            let udp: UdpHdr = load_inside(bytes, packet, offset)?;
            packet.tuple.sport = u16::from_be_bytes(udp.src);
            packet.tuple.dport = u16::from_be_bytes(udp.dst);
        }
        _ => {
            let [s0, s1, d0, d1, ..] = load_inside::<_, [u8; SCTP_HEADER_LEN]>(bytes, packet, offset)?;
            packet.tuple.sport = u16::from_be_bytes([s0, s1]);
            packet.tuple.dport = u16::from_be_bytes([d0, d1]);
        }
    }
    Ok(())
}
