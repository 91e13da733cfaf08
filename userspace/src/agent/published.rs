//! What the loop tells those who tell the cluster: how things stood after a pass.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{capturing::ENROLLED, pass::Agent, status::State};
use crate::{
    facts::PodName,
    objects,
    problem::Problem,
    project::{CaptureMode, Condition, EndpointReport, EnforcementMode, PolicyReport, Role},
};

pub use crate::objects::words::REDIRECTION_ANNOTATION;

/// How things stood after a pass. It is never changed, and published again only if something is different.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Published {
    /// This node.
    pub node: String,
    /// How the agent is, in a word.
    pub state: State,
    /// The number of the rules in the kernel.
    pub generation: u64,
    /// The kernel holds what the source says, as far as it could be loaded; and the source had everything.
    pub applied: bool,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// The nodes of the cluster.
    pub nodes: Arc<BTreeSet<String>>,
    /// The policies that the rules are made of.
    pub policies: BTreeMap<String, Policy>,
    /// The pods of this node.
    pub pods: BTreeMap<PodName, Pod>,
}

impl Published {
    /// Whether there was a pass at all.
    pub fn is_known(&self) -> bool {
        !self.node.is_empty()
    }
}

/// What became of a policy on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Its `metadata.uid`.
    pub uid: Option<String>,
    /// The version of its `spec`.
    pub generation: Option<i64>,
    /// It only reports.
    pub audit: bool,
    /// How many pods of this node are held to it.
    pub subjects: usize,
    /// How many pods of this node are its gateways.
    pub gateways: usize,
    /// How many gateways it names.
    pub named: usize,
    /// How many of those have a pod, on any node.
    pub found: usize,
    /// What must be true for it to do what one expects.
    pub conditions: Vec<Condition>,
}

/// A pod of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// Its `metadata.uid`.
    pub uid: Option<String>,
    /// The policies that it is held to.
    pub policies: Vec<String>,
    /// What [`REDIRECTION_ANNOTATION`] says.
    pub annotated: Option<String>,
    /// What it should say.
    pub redirection: Option<Redirection>,
}

/// How far the capture of a pod of Istio's ambient mode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirection {
    /// The rules are in place, and ztunnel serves it.
    Enabled,
    /// The rules are in place, and ztunnel has not said that it does.
    Pending,
}

impl Redirection {
    /// As the annotation has it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Pending => "pending",
        }
    }
}

impl Agent {
    /// Publishes how things are, unless that is known.
    pub(super) fn publish(&self, applied: bool) {
        self.published.send_if_modified(|last| {
            let now = self.to_publish(applied, last);
            let changed = now != **last;
            if changed {
                *last = Arc::new(now);
            }
            changed
        });
    }

    fn to_publish(&self, applied: bool, last: &Published) -> Published {
        let nodes = if last.nodes.iter().eq(self.stores.nodes.keys()) {
            Arc::clone(&last.nodes)
        } else {
            Arc::new(self.stores.nodes.keys().cloned().collect())
        };
        Published {
            node: self.settings.node.clone(),
            state: self.status.state,
            generation: self.status.generation,
            applied,
            problems: self.status.problems.clone(),
            nodes,
            policies: self.policies(),
            pods: self.pods(),
        }
    }

    fn policies(&self) -> BTreeMap<String, Policy> {
        let endpoints = &self.projection.report.endpoints;
        let is_gateway = |policy: &str, endpoint: &EndpointReport| {
            let mut held = endpoint.policies.iter();
            held.any(|held| held.policy == policy && held.role == Role::Gateway)
        };
        let of = |report: &PolicyReport| {
            let object = self.stores.policies.get(&report.name);
            Policy {
                uid: object.and_then(|object| object.uid.clone()),
                generation: object.and_then(|object| object.generation),
                audit: report.mode == EnforcementMode::Audit,
                subjects: report.subjects,
                gateways: endpoints
                    .iter()
                    .filter(|endpoint| is_gateway(&report.name, endpoint))
                    .count(),
                named: report.gateways.len(),
                found: report
                    .gateways
                    .iter()
                    .filter(|gateway| !gateway.pods.is_empty())
                    .count(),
                conditions: report.conditions.clone(),
            }
        };
        let reports = self.projection.report.policies.iter();
        reports.map(|report| (report.name.clone(), of(report))).collect()
    }

    fn pods(&self) -> BTreeMap<PodName, Pod> {
        let local = self
            .stores
            .pods
            .values()
            .filter(|pod| pod.is_local(&self.settings.node));
        let pod = |pod: &objects::Pod| Pod {
            uid: pod.uid.clone(),
            annotated: pod.mesh.annotation(REDIRECTION_ANNOTATION).map(str::to_owned),
            ..Pod::default()
        };
        let mut pods: BTreeMap<_, _> = local.map(|object| (object.name.clone(), pod(object))).collect();
        for endpoint in &self.projection.report.endpoints {
            let Some(pod) = pods.get_mut(&endpoint.pod) else {
                continue;
            };
            let held = endpoint.policies.iter().filter(|held| held.effective);
            pod.policies = held.map(|held| held.policy.clone()).collect();
        }
        for (netns, captured) in &self.projection.captured {
            let ambient = captured.mode == CaptureMode::InPod && captured.workload.is_some();
            let pod = captured.pod.as_ref().and_then(|name| pods.get_mut(name));
            let (true, Some(pod)) = (ambient, pod) else {
                continue;
            };
            pod.redirection = Some(match self.progress.get(netns) {
                Some(word) if word == ENROLLED => Redirection::Enabled,
                Some(_) | None => Redirection::Pending,
            });
        }
        pods
    }
}
