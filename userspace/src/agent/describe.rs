//! How the agent is, for those who ask.

use std::{collections::BTreeMap, sync::Arc};

use ebpf::rules::{Enforcement, Identity};
use tracing::{error, info, warn};

use super::{
    pass::Agent,
    status::{self, Count, Lost, State, Status},
    translate::{self, Sender, Who},
};
use crate::{
    facts::PodNetwork,
    node::{Role, View},
    problem::{Problem, Severity},
    project::internal,
};

impl Agent {
    pub(super) fn tell_who(&self, view: Option<&View>) {
        let devices = view.into_iter().flat_map(|view| &view.links);
        let who = Who {
            pods: self.senders(),
            devices: devices.map(|link| (link.index.0, link.name.clone())).collect(),
            policies: self.policy_numbers(),
        };
        self.who.send_replace(Arc::new(who));
    }

    /// How the kernel tells the pods of this node.
    fn senders(&self) -> BTreeMap<Identity, Arc<Sender>> {
        let mut senders = BTreeMap::new();
        for (pod, network) in &self.facts.pods {
            let Some(stored) = self.stores.pods.get(pod) else {
                continue;
            };
            let sender = Arc::new(Sender::new(stored));
            match network {
                Ok(PodNetwork::Own { netns, devices, .. }) => {
                    let devices = devices.iter().map(|device| Identity::Device(device.index.0));
                    let identities = devices.chain([Identity::Netns(netns.0)]);
                    senders.extend(identities.map(|identity| (identity, Arc::clone(&sender))));
                }
                Ok(PodNetwork::Host { cgroup, .. }) => {
                    senders.insert(Identity::Cgroup(cgroup.id), sender);
                }
                Err(_) => {}
            }
        }
        senders
    }

    /// The policies that count behind each number that endpoints carry.
    fn policy_numbers(&self) -> BTreeMap<u32, Vec<String>> {
        let mut numbers = BTreeMap::new();
        for endpoint in &self.projection.report.endpoints {
            if let Some(number) = endpoint.policy_id {
                let policies = endpoint.policies.iter().filter(|held| held.effective);
                numbers
                    .entry(number)
                    .or_insert_with(|| policies.map(|held| held.policy.clone()).collect());
            }
        }
        numbers
    }

    pub(super) fn update_status(&mut self, view: Option<&View>, applied: bool, mut problems: Vec<Problem>) {
        problems.sort();
        problems.dedup();
        let known = std::mem::take(&mut self.status.problems);
        for problem in problems.iter().filter(|problem| !known.contains(problem)) {
            match problem.severity {
                Severity::Error => error!("{problem}"),
                Severity::Warning => warn!("{problem}"),
                Severity::Info => info!("{problem}"),
            }
        }
        let broken = !applied || problems.iter().any(|problem| problem.severity == Severity::Error);
        let desired = &self.projection.desired;
        let generation = self.dataplane.generation().0;
        self.status.state = match desired.enforcement {
            _ if generation == 0 => State::Starting,
            _ if broken => State::Degraded,
            Enforcement::Off => State::Idle,
            Enforcement::Audit => State::Auditing,
            Enforcement::Enforce => State::Enforcing,
        };
        self.status.ready = applied && !broken;
        self.status.generation = generation;
        self.status.endpoints = self
            .projection
            .report
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.pending.is_none())
            .count();
        self.status.destinations = desired.destinations.len();
        self.status.rules = desired.rules.len();
        self.status.policies = self.stores.policies.keys().cloned().collect();
        self.status.ignored = self
            .stores
            .ignored
            .iter()
            .map(|(kind, &count)| (format!("{} {}", kind.api_version, kind.kind), count))
            .collect();
        self.status.devices = view
            .into_iter()
            .flat_map(|view| &view.links)
            .map(|link| status::Device {
                index: link.index.0,
                name: link.name.clone(),
                role: match link.role {
                    Role::Pod => "pod",
                    Role::Uplink => "uplink",
                    Role::Passage => "passage",
                }
                .to_owned(),
            })
            .collect();
        self.status.cni = self
            .installation
            .as_ref()
            .map(|installation| installation.state().clone());
        self.status.announced = self.announcements.len();
        self.status.problems = problems;
    }

    /// Says once what is taken for the inside of the cluster, as soon as all of it is known.
    pub(super) fn say_internal(&mut self) {
        /// How many ranges of one sort are named.
        const NAMED: usize = 8;
        if self.said_internal || !self.stores.is_complete() || self.source.is_nothing() {
            return;
        }
        self.said_internal = true;
        let mut by_source: BTreeMap<_, Vec<String>> = BTreeMap::new();
        for range in self.with_input(internal) {
            by_source
                .entry(range.source)
                .or_default()
                .push(range.range.to_string());
        }
        for (source, ranges) in by_source {
            let named = ranges[..ranges.len().min(NAMED)].join(", ");
            let more = ranges.len().saturating_sub(NAMED);
            info!(%source, ranges = named, more, "inside the cluster");
        }
    }

    /// The ranges inside the cluster that are more than one address, by where they come from; there may be thousands of
    /// single addresses, which `explain` knows.
    fn internal(&self) -> BTreeMap<String, String> {
        let ranges = self.with_input(internal);
        let networks = ranges
            .iter()
            .filter(|range| range.range.prefix_len() < range.range.max_prefix_len());
        networks
            .map(|range| (range.range.to_string(), range.source.to_string()))
            .collect()
    }

    /// How the agent is, with the counters as they are now.
    pub(super) fn status(&self) -> Status {
        let mut status = self.status.clone();
        status.internal = self.internal();
        match self.dataplane.counters() {
            Ok(counters) => {
                status.lost = Lost {
                    events: counters.lost_events,
                    flows: counters.lost_flows,
                };
                status.counters = counters
                    .packets
                    .into_iter()
                    .map(|(hook, outcome, packets)| {
                        let (verdict, reason) = translate::words(outcome);
                        Count {
                            hook: hook.word().to_owned(),
                            verdict: verdict.to_string(),
                            reason: reason.to_owned(),
                            packets,
                        }
                    })
                    .collect();
            }
            Err(error) => status
                .problems
                .push(Problem::new(Severity::Warning, error.to_string())),
        }
        status.source = self.source.status();
        status.source.age_seconds = self.state_age().map(|age| age.as_secs());
        status.repairs = self.dataplane.repairs() + self.capturing.repairs();
        status
    }
}
