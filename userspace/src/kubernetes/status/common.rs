//! What the status of a policy says of the cluster as a whole.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, Client, Resource as _,
    api::ListParams,
    runtime::events::{Event, EventType, Recorder},
};
use tokio::sync::watch;
use tracing::{debug, info};

use super::{apply, counts_interval, manager, summary::summary};
use crate::{
    agent::published::Published,
    kubernetes::{Failures, events, is_status, lease::Lease},
    objects::{
        Kind,
        crd::EgressPolicyResource,
        policy_status::{EgressPolicyStatus, condition, reason},
    },
    problem::{Problem, Severity},
};

/// The name of the Lease.
const LEASE: &str = "sluice-status";
/// How often the holder looks at what the agents have written.
const LOOK: Duration = Duration::from_secs(5);
/// How often it looks at the most.
const LOOK_AT_MOST: Duration = Duration::from_secs(1);

/// Keeps what is said of the cluster as a whole as it should be, while this agent holds the Lease.
pub async fn run(client: Client, mut published: watch::Receiver<Arc<Published>>) {
    if published
        .wait_for(|published| published.is_known())
        .await
        .is_err()
    {
        return;
    }
    let node = published.borrow().node.clone();
    let recorder = Recorder::new(client.clone(), events::reporter(&node));
    let mut lease = Lease::new(client.clone(), LEASE, &node);
    let mut common = Common {
        policies: Api::all(client),
        recorder,
        written: BTreeMap::new(),
    };
    let mut failures = Failures::new("writing the status of policies");
    let mut held = false;
    loop {
        let now = published.borrow_and_update().clone();
        let able = is_able(&now);
        let wait = match common.turn(&mut lease, &now).await {
            Ok(holds) => {
                failures.none();
                if holds != held {
                    info!(
                        holds,
                        "whether this agent writes what policies' status says of all nodes has changed"
                    );
                    held = holds;
                }
                if held {
                    LOOK
                } else {
                    lease.look_again(now.nodes.len())
                }
            }
            Err(error) => failures.one_more(&error),
        };
        tokio::select! {
            // One who could not speak may be the only one.
            changed = published.changed(), if held || !able => {
                if changed.is_err() {
                    return;
                }
                tokio::time::sleep(LOOK_AT_MOST).await;
            }
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Whether there is anything to say. Who does not know the cluster lets another one speak; but of a policy that cannot be
/// read nobody may know more.
fn is_able(published: &Published) -> bool {
    let unreadable = |problem: &Problem| {
        let mut object = problem.object.iter();
        problem.severity == Severity::Error && object.any(|object| object.kind == Kind::EgressPolicy)
    };
    published.applied || published.problems.iter().any(unreadable)
}

struct Common {
    policies: Api<EgressPolicyResource>,
    recorder: Recorder,
    /// When something was written, by the policy's name.
    written: BTreeMap<String, Instant>,
}

impl Common {
    /// Writes what has changed, if this agent is to. Says whether it is.
    async fn turn(&mut self, lease: &mut Lease, published: &Published) -> kube::Result<bool> {
        if !is_able(published) || !lease.hold().await? {
            return Ok(false);
        }
        let list = self.policies.list(&ListParams::default()).await?;
        self.written.retain(|name, _| {
            list.items
                .iter()
                .any(|policy| policy.metadata.name.as_ref() == Some(name))
        });
        for policy in &list.items {
            match self.write(published, policy).await {
                Ok(()) => {}
                // It has just been deleted.
                Err(error) if is_status(&error, 404) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    async fn write(&mut self, published: &Published, policy: &EgressPolicyResource) -> kube::Result<()> {
        let Some(name) = policy.metadata.name.as_deref() else {
            return Ok(());
        };
        let nothing = EgressPolicyStatus::default();
        let before = policy.status.as_ref().unwrap_or(&nothing);
        self.prune(published, name, before).await?;
        let now = summary(published, policy);
        let refused = |condition: &Condition| condition.reason == reason::INVALID;
        if !published.applied && !now.conditions.iter().any(refused) {
            return Ok(());
        }
        let same = (&now.conditions, &now.gateways, &now.enforced_on)
            == (&before.conditions, &before.gateways, &before.enforced_on);
        let interval = counts_interval(published.nodes.len());
        let early = self.written.get(name).is_some_and(|at| at.elapsed() < interval);
        if same && (now.denied == before.denied || early) {
            return Ok(());
        }
        apply(&self.policies, name, super::COMMON, &now).await?;
        debug!(policy = name, "the status of a policy says something else");
        self.written.insert(name.to_owned(), Instant::now());
        if let Some(event) = event(&before.conditions, &now.conditions) {
            let about = policy.object_ref(&());
            if let Err(error) = self.recorder.publish(&event, &about).await {
                debug!(policy = name, %error, "an event could not be reported");
            }
        }
        Ok(())
    }

    /// Takes away the entries of nodes that are gone. They are their agents' own: so it speaks as these, and says nothing.
    async fn prune(
        &self,
        published: &Published,
        name: &str,
        status: &EgressPolicyStatus,
    ) -> kube::Result<()> {
        // Who does not know its own node does not know the nodes.
        if !published.applied || !published.nodes.contains(&published.node) {
            return Ok(());
        }
        let gone = status
            .nodes
            .iter()
            .filter(|entry| !published.nodes.contains(&entry.node));
        for entry in gone {
            apply(
                &self.policies,
                name,
                &manager(&entry.node),
                &EgressPolicyStatus::default(),
            )
            .await?;
            info!(
                policy = name,
                node = entry.node,
                "a node that is gone has left the status of a policy"
            );
        }
        Ok(())
    }
}

/// What is to be reported of a change: that the policy cannot be read, that it has become degraded, or is so for another
/// reason, or is no more.
fn event(before: &[Condition], now: &[Condition]) -> Option<Event> {
    let find =
        |among: &[Condition], kind: &str| among.iter().find(|condition| condition.type_ == kind).cloned();
    let changed = |kind: &str, bad: &str| {
        let now = find(now, kind)?;
        let before = find(before, kind);
        let was_bad = before.as_ref().is_some_and(|before| before.status == bad);
        let is_bad = now.status == bad;
        let same = before.is_some_and(|before| before.reason == now.reason);
        (is_bad && !(was_bad && same) || was_bad && !is_bad).then_some((is_bad, now))
    };
    let (bad, condition) =
        changed(condition::ACCEPTED, "False").or_else(|| changed(condition::DEGRADED, "True"))?;
    Some(Event {
        type_: if bad {
            EventType::Warning
        } else {
            EventType::Normal
        },
        reason: condition.reason,
        note: Some(condition.message),
        action: "Reconcile".to_owned(),
        secondary: None,
    })
}
