//! What the agent answers over its Unix socket: one JSON request per connection, then one JSON document per line.
//!
//! The shapes here are what `-o json` prints. They are stable: a field may be added, none is renamed or dropped.

pub mod client;
mod cni;
mod destination;
mod event;
pub mod server;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use ebpf::capture::Fate;
use serde::{Deserialize, Serialize};

pub use self::{
    cni::{Admission, Announcement, Attachment, CniRequest},
    destination::{Destination, DestinationError, Transport},
    event::{Filter, VerdictEvent},
};
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
    /// What the CNI plugin wants.
    Cni(CniRequest),
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
    /// The programs: where they are, what the verifier looked at, how often they ran if the kernel counts that.
    Programs,
    /// The maps, and how full those are whose content the agent knows.
    Maps,
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

/// A kind of verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
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
