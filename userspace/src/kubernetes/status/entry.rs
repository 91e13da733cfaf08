//! What an agent says of a policy on its node.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};

use crate::{
    agent::{
        published::{Policy, Published},
        status::State,
    },
    objects::{
        Kind,
        policy_status::{LISTED_NODES, NodeState, NodeStatus},
    },
    problem::Severity,
};

/// How long a message may be.
const MAX_MESSAGE: usize = 512;

/// How an entry differs from what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Not at all.
    None,
    /// In what is counted.
    Counts,
    /// In what it says.
    State,
}

/// What is to be said of a policy, or nothing: healthy nodes of large clusters are not listed.
pub(super) fn wanted(published: &Published, name: &str, policy: &Policy, denied: u64) -> Option<NodeStatus> {
    let state = state(published, policy);
    let trouble = matches!(state, NodeState::Degraded | NodeState::Starting);
    (trouble || published.nodes.len() <= LISTED_NODES).then(|| NodeStatus {
        node: published.node.clone(),
        state,
        observed_generation: policy.generation,
        rules: number(published.generation),
        subjects: number(policy.subjects as u64),
        gateways: number(policy.gateways as u64),
        denied: number(denied),
        since: Time(Timestamp::now()),
        message: (state == NodeState::Degraded).then(|| message(published, name)),
    })
}

fn state(published: &Published, policy: &Policy) -> NodeState {
    match published.state {
        State::Starting => NodeState::Starting,
        State::Degraded => NodeState::Degraded,
        State::Idle | State::Auditing | State::Enforcing if policy.audit => NodeState::Auditing,
        State::Idle | State::Auditing | State::Enforcing => NodeState::Enforcing,
    }
}

/// What is wrong: with the policy itself, or else with anything.
fn message(published: &Published, name: &str) -> String {
    let errors = || {
        published
            .problems
            .iter()
            .filter(|problem| problem.severity == Severity::Error)
    };
    let own = |problem: &&crate::problem::Problem| {
        let mut object = problem.object.iter();
        object.any(|object| object.kind == Kind::EgressPolicy && object.name == name)
    };
    let problem = errors().find(own).or_else(|| errors().next());
    let text = problem.map_or_else(
        || "the kernel does not hold what the cluster says".to_owned(),
        ToString::to_string,
    );
    super::shortened(text, MAX_MESSAGE)
}

/// How an entry differs from the one that is written.
pub(super) fn change(written: Option<&NodeStatus>, wanted: Option<&NodeStatus>) -> Change {
    let (Some(written), Some(wanted)) = (written, wanted) else {
        return if written.is_some() || wanted.is_some() {
            Change::State
        } else {
            Change::None
        };
    };
    let NodeStatus {
        node,
        state,
        observed_generation,
        rules: _,
        subjects,
        gateways,
        denied,
        since: _,
        message,
    } = written;
    if (node, state, observed_generation, message)
        != (
            &wanted.node,
            &wanted.state,
            &wanted.observed_generation,
            &wanted.message,
        )
    {
        return Change::State;
    }
    if (subjects, gateways, denied) == (&wanted.subjects, &wanted.gateways, &wanted.denied) {
        Change::None
    } else {
        Change::Counts
    }
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_no_change_of_state() {
        let published = Published {
            node: "one".to_owned(),
            state: State::Enforcing,
            ..Published::default()
        };
        let mut policy = Policy::default();
        let first = wanted(&published, "p", &policy, 0);
        assert_eq!(change(None, first.as_ref()), Change::State);
        assert_eq!(
            change(first.as_ref(), wanted(&published, "p", &policy, 0).as_ref()),
            Change::None
        );
        assert_eq!(
            change(first.as_ref(), wanted(&published, "p", &policy, 7).as_ref()),
            Change::Counts
        );
        policy.subjects = 1;
        assert_eq!(
            change(first.as_ref(), wanted(&published, "p", &policy, 0).as_ref()),
            Change::Counts
        );
        policy.generation = Some(2);
        assert_eq!(
            change(first.as_ref(), wanted(&published, "p", &policy, 0).as_ref()),
            Change::State
        );
        assert_eq!(change(first.as_ref(), None), Change::State);
    }
}
