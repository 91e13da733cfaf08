//! Who talks to what, out of the last verdicts.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc};

use crate::api::{Kind, VerdictEvent};

/// How many lines the picture and the list of refusals have at the most.
const FLOWS: usize = 24;
const REFUSALS: usize = 40;
/// What passes for these reasons stays in the cluster.
const INSIDE: [&str; 3] = ["internal", "neighbour", "own"];

/// Somebody, something outside, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Flow {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) verdict: Kind,
}

/// What has happened lately.
#[derive(Clone, Debug, Default)]
pub(super) struct Traffic {
    /// The flows with most packets, each with how many.
    pub(super) flows: Vec<(Flow, u64)>,
    /// The last refusals, the newest first: of those that differ in nothing but time and source port the last, with how
    /// many they were.
    pub(super) refusals: Vec<(Arc<VerdictEvent>, u64)>,
}

impl Traffic {
    pub(super) fn of(recent: &[Arc<VerdictEvent>]) -> Self {
        let mut sums: BTreeMap<Flow, u64> = BTreeMap::new();
        for event in recent.iter().filter(|event| is_picture(event)) {
            *sums.entry(flow(event)).or_default() += event.count;
        }
        let mut flows: Vec<(Flow, u64)> = sums.into_iter().collect();
        flows.sort_by_key(|(_, packets)| Reverse(*packets));
        flows.truncate(FLOWS);
        Self {
            flows,
            refusals: refusals(recent),
        }
    }
}

fn refusals(recent: &[Arc<VerdictEvent>]) -> Vec<(Arc<VerdictEvent>, u64)> {
    let is_refusal = |event: &&Arc<VerdictEvent>| matches!(event.verdict, Kind::Deny | Kind::Audit);
    let mut refusals: Vec<(Arc<VerdictEvent>, u64)> = Vec::new();
    for event in recent.iter().rev().filter(is_refusal) {
        let known = refusals.iter_mut().find(|(known, _)| is_same(known, event));
        if let Some((_, times)) = known {
            *times += event.count;
        } else if refusals.len() < REFUSALS {
            refusals.push((Arc::clone(event), event.count));
        }
    }
    refusals
}

fn is_same(one: &VerdictEvent, other: &VerdictEvent) -> bool {
    let is_same_sender = one.pod == other.pod && one.device == other.device && one.process == other.process;
    let is_same_place = one.dst == other.dst && one.dport == other.dport && one.protocol == other.protocol;
    is_same_sender && is_same_place && one.verdict == other.verdict && one.reason == other.reason
}

/// What has two ends and is not the cluster's own.
fn is_picture(event: &VerdictEvent) -> bool {
    let is_passing_on = event.hook == "node_out" && event.verdict == Kind::Allow;
    !INSIDE.contains(&event.reason.as_str()) && !event.dst.is_unspecified() && !is_passing_on
}

fn flow(event: &VerdictEvent) -> Flow {
    let from = match (&event.pod, &event.device) {
        (Some(pod), _) => pod.to_string(),
        (None, Some(device)) => format!("device {device}"),
        (None, None) => "?".to_owned(),
    };
    let place = event.destination.clone().unwrap_or_else(|| event.dst.to_string());
    let to = match event.dport {
        0 => format!("{place} {}", event.protocol),
        port => format!("{place} {port}/{}", event.protocol),
    };
    Flow {
        from,
        to,
        verdict: event.verdict,
    }
}
