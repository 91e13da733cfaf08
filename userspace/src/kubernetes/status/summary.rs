//! What is to be said of a policy in the cluster as a whole, by what all agents say.

use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};

use super::shortened;
use crate::{
    agent::published::{Policy, Published},
    objects::{
        Kind,
        crd::EgressPolicyResource,
        policy_status::{EgressPolicyStatus, LISTED_NODES, NodeState, NodeStatus, condition, reason},
    },
    problem::Severity,
    project::ConditionName,
};

/// How many nodes a message names.
const NAMED: usize = 5;
/// How long a message may be.
const MAX_MESSAGE: usize = 1024;

const TRUE: &str = "True";
const FALSE: &str = "False";
const UNKNOWN: &str = "Unknown";

/// Status, reason and message of a condition.
type Said = (&'static str, &'static str, String);

/// What is to be said of a policy, without the nodes' entries.
pub(super) fn summary(published: &Published, resource: &EgressPolicyResource) -> EgressPolicyStatus {
    let name = resource.metadata.name.as_deref().unwrap_or_default();
    let generation = resource.metadata.generation;
    let nothing = EgressPolicyStatus::default();
    let before = resource.status.as_ref().unwrap_or(&nothing);
    let known = published.policies.get(name);
    let current =
        known.filter(|policy| policy.uid == resource.metadata.uid && policy.generation == generation);
    let nodes: Vec<_> = before
        .nodes
        .iter()
        .filter(|entry| published.nodes.contains(&entry.node))
        .collect();
    let in_force =
        |entry: &&&NodeStatus| entry.state == NodeState::Enforcing && entry.observed_generation == generation;
    let all = published.nodes.len();
    let listed = all <= LISTED_NODES;
    let enforced_on = if listed {
        format!("{}/{all}", nodes.iter().filter(in_force).count())
    } else {
        format!("{} of {all} in trouble", nodes.len())
    };
    let accepted = accepted(published, name, current, known);
    let enforced = match (current, accepted.0) {
        (Some(policy), _) => enforced(published, policy, generation, &nodes),
        (None, FALSE) => (
            FALSE,
            reason::INVALID,
            "this version of the policy cannot be read".to_owned(),
        ),
        (None, _) => (
            UNKNOWN,
            reason::PENDING,
            "this version of the policy is new".to_owned(),
        ),
    };
    let degraded = degraded(known, &nodes);
    let conditions = [
        (condition::ACCEPTED, accepted),
        (condition::ENFORCED, enforced),
        (condition::DEGRADED, degraded),
    ];
    EgressPolicyStatus {
        conditions: conditions
            .into_iter()
            .map(|(kind, said)| make(kind, said, generation, &before.conditions))
            .collect(),
        gateways: known.map(|policy| format!("{}/{}", policy.found, policy.named)),
        enforced_on: (all > 0).then_some(enforced_on),
        denied: Some(
            nodes
                .iter()
                .fold(0_i64, |sum, entry| sum.saturating_add(entry.denied)),
        ),
        nodes: Vec::new(),
    }
}

fn accepted(published: &Published, name: &str, current: Option<&Policy>, known: Option<&Policy>) -> Said {
    if current.is_some() {
        return (TRUE, reason::ACCEPTED, "the agents can read it".to_owned());
    }
    let about = |problem: &&crate::problem::Problem| {
        let mut object = problem.object.iter();
        problem.severity == Severity::Error
            && object.any(|object| object.kind == Kind::EgressPolicy && object.name == name)
            // What it lacks while it can be read is no reason not to accept it.
            && !known.is_some_and(|policy| {
                let mut messages = policy.conditions.iter().filter_map(|condition| condition.message.as_ref());
                messages.any(|message| *message == problem.message)
            })
    };
    match published.problems.iter().find(about) {
        Some(problem) => {
            let stays = if known.is_some() {
                "; the last version that could be read stays in force"
            } else {
                ""
            };
            (FALSE, reason::INVALID, format!("{}{stays}", problem.message))
        }
        None => (
            UNKNOWN,
            reason::PENDING,
            "this version has not been read yet".to_owned(),
        ),
    }
}

fn enforced(published: &Published, policy: &Policy, generation: Option<i64>, nodes: &[&NodeStatus]) -> Said {
    if policy.audit {
        let message = "the policy is in audit mode: what it does not permit is only reported";
        return (FALSE, reason::AUDIT_MODE, message.to_owned());
    }
    let in_force =
        |entry: &NodeStatus| entry.state == NodeState::Enforcing && entry.observed_generation == generation;
    let all = published.nodes.len();
    if all == 0 {
        return (
            UNKNOWN,
            reason::PENDING,
            "the nodes of the cluster are not known yet".to_owned(),
        );
    }
    if all > LISTED_NODES {
        return if nodes.is_empty() {
            let message =
                format!("none of {all} nodes is in trouble; the metrics of the agents tell the rest");
            (UNKNOWN, reason::NOT_LISTED, message)
        } else {
            let names = nodes.iter().map(|entry| entry.node.as_str());
            (FALSE, reason::NODES_MISSING, missing(names, nodes.len(), all))
        };
    }
    let missing_nodes = || {
        published.nodes.iter().map(String::as_str).filter(|node| {
            let entry = nodes.iter().find(|entry| entry.node == *node);
            !entry.is_some_and(|entry| in_force(entry))
        })
    };
    match missing_nodes().count() {
        0 => (TRUE, reason::ALL_NODES, format!("on all nodes ({all})")),
        count => (FALSE, reason::NODES_MISSING, missing(missing_nodes(), count, all)),
    }
}

fn missing<'a>(nodes: impl Iterator<Item = &'a str>, count: usize, all: usize) -> String {
    let named: Vec<_> = nodes.take(NAMED).collect();
    let more = if count > NAMED { ", …" } else { "" };
    format!("not on {count} of {all} nodes: {}{more}", named.join(", "))
}

fn degraded(policy: Option<&Policy>, nodes: &[&NodeStatus]) -> Said {
    let unmet = policy
        .into_iter()
        .flat_map(|policy| &policy.conditions)
        .filter(|condition| !condition.ok);
    let mut found: Vec<(&'static str, String)> = unmet
        .map(|condition| {
            let reason = match condition.name {
                ConditionName::GatewaysFound => reason::GATEWAY_NOT_FOUND,
                ConditionName::ResolverReachable => reason::RESOLVER_CUT_OFF,
                ConditionName::InternalKnown => reason::INTERNAL_UNKNOWN,
            };
            (reason, condition.message.clone().unwrap_or_default())
        })
        .collect();
    let mut degraded = nodes.iter().filter(|entry| entry.state == NodeState::Degraded);
    if let Some(first) = degraded.next() {
        let others = match degraded.count() {
            0 => String::new(),
            count => format!(", and {count} more"),
        };
        let why = first.message.as_deref().unwrap_or_default();
        found.push((
            reason::NODES_DEGRADED,
            format!("node {}: {why}{others}", first.node),
        ));
    }
    match found.first() {
        Some((reason, _)) => {
            let messages: Vec<_> = found.iter().map(|(_, message)| message.as_str()).collect();
            (TRUE, reason, messages.join("; "))
        }
        None => (FALSE, reason::AS_EXPECTED, "nothing is wrong with it".to_owned()),
    }
}

/// A condition. One that had this status before has it since then.
fn make(
    kind: &str,
    (status, reason, message): Said,
    generation: Option<i64>,
    before: &[Condition],
) -> Condition {
    let last = before
        .iter()
        .find(|last| last.type_ == kind && last.status == status);
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        observed_generation: generation,
        last_transition_time: last.map_or_else(
            || Time(Timestamp::now()),
            |last| last.last_transition_time.clone(),
        ),
        reason: reason.to_owned(),
        message: shortened(message, MAX_MESSAGE),
    }
}
