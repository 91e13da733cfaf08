//! The agent in numbers, as it is at one moment.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    agent::status::State,
    dataplane::{Counters, MapInfo},
    problem::Severity,
    project::{CaptureMode, ConditionName},
};

/// The agent in numbers.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// In a word.
    pub state: State,
    /// The kernel holds what the source says.
    pub ready: bool,
    /// How long ago the source was last complete; `None` without a source, or before the first time.
    pub state_age: Option<Duration>,
    /// Number of the rules in the kernel.
    pub generation: u64,
    /// Pods of this node that the kernel knows.
    pub enforced: usize,
    /// Pods of this node that it does not know yet.
    pub pending: usize,
    /// Captured network namespaces.
    pub captured: BTreeMap<CaptureMode, usize>,
    /// How many policies there are.
    pub policies: usize,
    /// What must be true of each, and whether it is.
    pub conditions: Vec<(String, ConditionName, bool)>,
    /// How many prefixes.
    pub destinations: usize,
    /// How many permissions.
    pub rules: usize,
    /// How many problems.
    pub problems: BTreeMap<Severity, usize>,
    /// What the programs counted.
    pub counters: Counters,
    /// How often something had to be put back in its place.
    pub repairs: u64,
    /// The maps.
    pub maps: Vec<MapInfo>,
    /// The programs.
    pub programs: Vec<ProgramRuns>,
    /// Whether the kernel counts the runs of programs.
    pub counts_runs: bool,
}

/// What the kernel counted of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramRuns {
    /// Its name.
    pub name: &'static str,
    /// How often it ran.
    pub runs: u64,
    /// How long that took.
    pub time: Duration,
}
