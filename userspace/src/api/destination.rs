//! Where a packet goes, as people write it.

use std::{fmt, net::IpAddr, str::FromStr};

use ebpf::packet::Protocol;
use serde::{Deserialize, Serialize};

/// `IP[:PORT][/PROTO]`: an address, a port if the protocol has any, and the protocol (TCP if not said).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// The address.
    pub address: IpAddr,
    /// The port, 0 for ICMP.
    pub port: u16,
    /// The protocol.
    pub protocol: Transport,
}

/// A protocol that verdicts are given on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
    /// ICMP or `ICMPv6`, after the address.
    Icmp,
}

impl Transport {
    /// The protocol number to an address of this family.
    pub const fn protocol(self, to: IpAddr) -> Protocol {
        match self {
            Self::Tcp => Protocol::TCP,
            Self::Udp => Protocol::UDP,
            Self::Sctp => Protocol::SCTP,
            Self::Icmp if to.is_ipv4() => Protocol::ICMP,
            Self::Icmp => Protocol::ICMPV6,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
            Self::Icmp => "ICMP",
        })
    }
}

/// Why a destination could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DestinationError {
    /// Neither an address nor an address with a port.
    #[error(
        "`{0}` is no IP address; expected IP[:PORT][/PROTO], as 203.0.113.5:443, [2001:db8::5]:53/udp or 203.0.113.5/icmp"
    )]
    Address(String),
    /// A protocol that verdicts are not given on.
    #[error("`{0}` is none of tcp, udp, sctp, icmp")]
    Protocol(String),
    /// TCP, UDP and SCTP have ports.
    #[error("{0} needs a port: {1}")]
    NoPort(Transport, String),
}

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (place, protocol) = match text.rsplit_once('/') {
            None => (text, None),
            Some((place, word)) => (place, Some(word)),
        };
        let protocol = match protocol.map(str::to_ascii_lowercase).as_deref() {
            None => None,
            Some("tcp") => Some(Transport::Tcp),
            Some("udp") => Some(Transport::Udp),
            Some("sctp") => Some(Transport::Sctp),
            Some("icmp" | "icmpv6") => Some(Transport::Icmp),
            Some(word) => return Err(DestinationError::Protocol(word.to_owned())),
        };
        let (address, port) = if let Ok(address) = place.parse::<IpAddr>() {
            (address, None)
        } else if let Ok(socket) = place.parse::<std::net::SocketAddr>() {
            (socket.ip(), Some(socket.port()))
        } else {
            return Err(DestinationError::Address(place.to_owned()));
        };
        match (protocol.unwrap_or(Transport::Tcp), port) {
            (Transport::Icmp, _) => Ok(Self {
                address,
                port: 0,
                protocol: Transport::Icmp,
            }),
            (protocol, Some(port)) => Ok(Self {
                address,
                port,
                protocol,
            }),
            (protocol, None) => Err(DestinationError::NoPort(protocol, format!("{address}:443"))),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.protocol, self.address) {
            (Transport::Icmp, address) => write!(f, "{address}/ICMP"),
            (protocol, IpAddr::V4(v4)) => write!(f, "{v4}:{}/{protocol}", self.port),
            (protocol, IpAddr::V6(v6)) => write!(f, "[{v6}]:{}/{protocol}", self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_read_back_as_they_are_written() {
        for text in [
            "203.0.113.5:443/TCP",
            "[2001:db8::5]:53/UDP",
            "203.0.113.5/ICMP",
            "2001:db8::5/ICMP",
            "1.2.3.4:0/SCTP",
        ] {
            let destination: Destination = text.parse().expect(text);
            assert_eq!(destination.to_string(), text);
        }
        assert_eq!(
            "203.0.113.5:443".parse::<Destination>().expect("TCP").protocol,
            Transport::Tcp
        );
    }

    #[test]
    fn a_destination_that_cannot_be_is_refused_with_what_was_expected() {
        assert!(matches!(
            "example.org:443".parse::<Destination>(),
            Err(DestinationError::Address(_))
        ));
        assert!(matches!(
            "1.2.3.4:1/gre".parse::<Destination>(),
            Err(DestinationError::Protocol(_))
        ));
        assert!(matches!(
            "1.2.3.4".parse::<Destination>(),
            Err(DestinationError::NoPort(Transport::Tcp, _))
        ));
    }
}
