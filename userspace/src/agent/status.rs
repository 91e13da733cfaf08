//! How the agent is: what `sluice status` shows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{cni, problem::Problem, source::SourceStatus};

/// In a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing has been loaded yet.
    #[default]
    Starting,
    /// No `EgressPolicy` exists: nothing is enforced.
    Idle,
    /// Only policies in audit mode exist: nothing is dropped.
    Auditing,
    /// On.
    Enforcing,
    /// The rules that are in the kernel stay, but they are not those that the source says, or not all of them:
    /// see the problems.
    Degraded,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Starting,
        Self::Idle,
        Self::Auditing,
        Self::Enforcing,
        Self::Degraded,
    ];
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Idle => "idle",
            Self::Auditing => "auditing",
            Self::Enforcing => "enforcing",
            Self::Degraded => "degraded",
        })
    }
}

/// A device with programs on it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Device {
    /// Its index on the node.
    pub index: u32,
    /// Its name on the node.
    pub name: String,
    /// `pod` or `uplink`.
    pub role: String,
}

/// Packets with one outcome at one hook.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Count {
    /// Where.
    pub hook: String,
    /// `allow`, `deny` or `audit`.
    pub verdict: String,
    /// Why.
    pub reason: String,
    /// How many since the programs' maps were made.
    pub packets: u64,
}

/// How the agent is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node's name.
    pub node: String,
    /// The agent's version.
    pub version: String,
    /// In a word.
    pub state: State,
    /// The kernel holds what the source says: all of it, without errors.
    pub ready: bool,
    /// Number of the rules in the kernel; 0 before the first.
    pub generation: u64,
    /// When they were loaded, in seconds since 1970; absent before the first of this process.
    pub loaded_at: Option<u64>,
    /// How many pods of this node the kernel knows.
    pub endpoints: usize,
    /// How many destinations, networks and single addresses together.
    pub destinations: usize,
    /// How many rules.
    pub rules: usize,
    /// Names of the policies.
    pub policies: Vec<String>,
    /// What is taken for internal, and where each range comes from.
    pub internal: BTreeMap<String, String>,
    /// Where the objects come from, and how old what is known of them is.
    pub source: SourceStatus,
    /// Objects of kinds that mean nothing to sluice, by kind.
    pub ignored: BTreeMap<String, usize>,
    /// What somebody should know.
    pub problems: Vec<Problem>,
    /// What our programs are on.
    pub devices: Vec<Device>,
    /// Programs that were displaced or removed by somebody and put back.
    pub repairs: u64,
    /// Events that found the ring full, and flows that found their table full.
    pub lost: Lost,
    /// How things stand with the CNI plugin; absent if the agent does not install it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cni: Option<cni::State>,
    /// How many pods container runtimes have announced.
    #[serde(default)]
    pub announced: usize,
    /// Packets, by hook and outcome; what is zero is left out.
    pub counters: Vec<Count>,
}

/// What could not be recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Events.
    pub events: u64,
    /// Flows.
    pub flows: u64,
}
