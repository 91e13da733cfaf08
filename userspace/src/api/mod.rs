//! What the agent answers over its Unix socket: one JSON request per connection, then one JSON document per line.
//!
//! The shapes here are what `-o json` prints. They are stable: a field may be added, none is renamed or dropped.

pub mod client;
pub mod server;

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use ebpf::{capture::Fate, packet::Protocol};
use serde::{Deserialize, Serialize};

use crate::{enrolled::Enrolled, facts::PodName, project::CaptureMode};

/// Name of the socket in the run directory.
pub const SOCKET: &str = "agent.sock";

/// The path of the socket for a run directory.
pub fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join(SOCKET)
}

/// A question.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Request {
    /// How the agent is. It looks at its source again first, and waits until it is ready.
    Status {
        /// For how long to wait at the most, in milliseconds; absent: answer at once.
        wait_ms: Option<u64>,
    },
    /// What is known, as one kind of thing.
    List(What),
    /// What would become of a packet.
    Explain(Question),
    /// Verdicts as they are given.
    Observe(Filter),
    /// Capture a network namespace; answered when it is.
    Enroll(Enrolled),
    /// Undo that.
    Unenroll {
        /// The namespace, by the path that it was enrolled with.
        netns: PathBuf,
    },
}

/// What was enrolled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// The request, completed by what was found out.
    #[serde(flatten)]
    pub enrolled: Enrolled,
    /// The rules since which it is.
    pub generation: u64,
}

/// What can be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// Pods of this node: addresses, devices, policies.
    Endpoints,
    /// Network namespaces whose connections go to a proxy, and how far that is.
    Captures,
    /// Gateways of every policy and the pods that they are.
    Gateways,
    /// External destinations that ServiceEntries declare.
    Registry,
    /// Permissions as they are in the kernel.
    Rules,
}

/// A packet to be explained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Who sends it.
    pub pod: PodName,
    /// Whereto.
    pub destination: Destination,
    /// Replay it through the live program, too.
    pub live: bool,
}

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

/// Which verdicts to show.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    /// Only verdicts of this kind.
    pub verdict: Option<Kind>,
    /// Only this pod's.
    pub pod: Option<PodName>,
    /// Go on with those that are still to come.
    pub follow: bool,
}

impl Filter {
    /// Whether `verdict` passes the filter.
    pub fn admits(&self, verdict: &VerdictEvent) -> bool {
        self.verdict.is_none_or(|kind| kind == verdict.verdict)
            && self
                .pod
                .as_ref()
                .is_none_or(|pod| Some(pod) == verdict.pod.as_ref())
    }

    /// Whether it could admit a packet that was allowed or redirected: those are reported only while somebody asks.
    pub fn wants_allowed(&self) -> bool {
        self.follow
            && self
                .verdict
                .is_none_or(|kind| matches!(kind, Kind::Allow | Kind::Redirect))
    }
}

/// A kind of verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Let through.
    Allow,
    /// Refused.
    Deny,
    /// Let through by a policy in audit mode that would refuse it.
    Audit,
    /// Handed to the node proxy.
    Redirect,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Audit => "audit",
            Self::Redirect => "redirect",
        })
    }
}

/// One verdict, as `observe` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictEvent {
    /// When, in seconds since 1970 with nanoseconds.
    pub time: String,
    /// Which way it went.
    pub verdict: Kind,
    /// Why, in a word; `sluice explain` and the documents have the sentence.
    pub reason: String,
    /// Where it was given.
    pub hook: String,
    /// Who, if it is a pod that the agent knows.
    pub pod: Option<PodName>,
    /// The device that it came in by, where it is told by one.
    pub device: Option<String>,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port, or the ICMP identifier; 0 if there is none.
    pub sport: u16,
    /// Destination port; 0 if there is none.
    pub dport: u16,
    /// Protocol by name, or by number.
    pub protocol: String,
    /// Length of the frame, 0 for a call.
    pub len: u32,
    /// The rules that decided.
    pub generation: u64,
}

/// What would become of a packet, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Which way.
    pub verdict: Kind,
    /// Why, in a word.
    pub reason: String,
    /// Why, in a sentence.
    pub explanation: String,
    /// Who.
    pub pod: PodName,
    /// Whereto.
    pub destination: Destination,
    /// The objects that this comes from: policy, exception, `ServiceEntry`, source of an internal range.
    pub because: Vec<Cause>,
    /// The rules that decided.
    pub generation: u64,
    /// What capture does to the call, if the pod is captured. The verdict is on what then leaves the pod: with the proxy
    /// inside it that is the proxy's own call there.
    #[serde(default)]
    pub capture: Option<CaptureExplanation>,
    /// What the live program said to the same packet, if it was asked.
    pub live: Option<Live>,
}

/// What becomes of a call of a captured pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureExplanation {
    /// How the pod is captured.
    pub mode: CaptureMode,
    /// What becomes of the call.
    pub fate: CallFate,
    /// Why, in a word.
    pub reason: String,
    /// Why, in a sentence.
    pub explanation: String,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallFate {
    /// It goes to the proxy.
    Redirect,
    /// It goes where it wants to.
    Leave,
    /// It is refused.
    Refuse,
}

impl CaptureExplanation {
    /// Of a fate as the programs have it.
    pub fn new(mode: CaptureMode, fate: Fate) -> Self {
        let (fate, reason, explanation) = match fate {
            Fate::Redirect(reason) => (CallFate::Redirect, reason.word(), reason.explanation()),
            Fate::Leave(reason) => (CallFate::Leave, reason.word(), reason.explanation()),
            Fate::Refuse(reason) => (CallFate::Refuse, reason.word(), reason.explanation()),
        };
        Self {
            mode,
            fate,
            reason: reason.to_owned(),
            explanation: explanation.to_owned(),
        }
    }
}

/// An object that a verdict comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// Kind, namespace and name, as `EgressPolicy one-way-out`.
    pub object: String,
    /// Where it stands: file and line.
    pub origin: Option<String>,
    /// What it says of this packet.
    pub says: String,
}

/// The live program's answer to a replayed packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// Which way.
    pub verdict: Kind,
    /// Why, in a word.
    pub reason: String,
    /// The rules that it used.
    pub generation: u64,
}

/// An answer that is a failure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// What went wrong, for people.
    pub error: String,
}

/// One line of an answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// A document.
    Item(serde_json::Value),
    /// The end of it.
    Failed(Failure),
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
