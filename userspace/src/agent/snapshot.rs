//! The agent as it is, for its metrics and its page.

use std::{collections::BTreeMap, fs, time::Duration};

use super::pass::Agent;
use crate::{
    dataplane,
    metrics::{ProgramRuns, Snapshot},
    page::Overview,
    project::ConditionName,
    source::Source,
};

impl Agent {
    /// How old what is known of the cluster is.
    pub(super) fn state_age(&self) -> Option<Duration> {
        match &self.source {
            Source::Kubernetes(kubernetes) => kubernetes.age(),
            Source::Nothing | Source::Directory(_) => self.confirmed.map(|confirmed| confirmed.elapsed()),
        }
    }

    /// How the agent is, as of the last pass, with the kernel's counters as they are now.
    pub(super) fn snapshot(&self) -> Result<Snapshot, dataplane::Error> {
        let status = &self.status;
        let known = self.projection.report.endpoints.len();
        let captured = self.projection.captured.values().map(|captured| captured.mode);
        let programs = self.dataplane.programs()?;
        Ok(Snapshot {
            state: status.state,
            ready: status.ready,
            state_age: self.state_age(),
            generation: self.dataplane.generation().0,
            enforced: status.endpoints,
            pending: known - status.endpoints,
            captured: count(captured),
            policies: status.policies.len(),
            conditions: self.conditions(),
            destinations: status.destinations,
            rules: status.rules,
            problems: count(status.problems.iter().map(|problem| problem.severity)),
            counters: self.dataplane.counters()?,
            repairs: self.dataplane.repairs() + self.capturing.repairs(),
            maps: self.dataplane.maps(),
            programs: programs
                .iter()
                .map(|program| ProgramRuns {
                    name: program.name,
                    runs: program.runs,
                    time: program.run_time,
                })
                .collect(),
            counts_runs: fs::read_to_string("/proc/sys/kernel/bpf_stats_enabled")
                .is_ok_and(|value| value.trim() == "1"),
        })
    }

    fn conditions(&self) -> Vec<(String, ConditionName, bool)> {
        let policies = self.projection.report.policies.iter();
        let conditions = policies.flat_map(|policy| {
            let conditions = policy.conditions.iter();
            conditions.map(|condition| (policy.name.clone(), condition.name, condition.ok))
        });
        conditions.collect()
    }
}

impl Agent {
    /// How the agent is, as of the last pass.
    pub(super) fn overview(&self) -> Overview {
        let report = &self.projection.report;
        Overview {
            status: self.status(),
            endpoints: report.endpoints.clone(),
            policies: report.policies.clone(),
            programs: self.dataplane.programs().map_err(|error| error.to_string()),
            maps: self.dataplane.maps(),
        }
    }
}

/// How many there are of each.
fn count<T: Ord>(things: impl Iterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    for thing in things {
        *counts.entry(thing).or_default() += 1;
    }
    counts
}
