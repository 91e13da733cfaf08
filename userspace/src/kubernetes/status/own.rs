//! This node's entry in the status of every policy.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use kube::{Api, Client, api::ListParams};
use tokio::sync::watch;
use tracing::debug;

use super::{
    apply, counts_interval,
    entry::{Change, change, wanted},
    manager, spread,
};
use crate::{
    agent::published::Published,
    kubernetes::{Failures, denials::Denied, is_status},
    objects::{
        crd::EgressPolicyResource,
        policy_status::{EgressPolicyStatus, NodeStatus},
    },
};

/// How often to look at counts.
const LOOK: Duration = Duration::from_secs(15);

/// What is written, as far as this agent knows.
struct Written {
    uid: Option<String>,
    entry: Option<NodeStatus>,
    at: Option<Instant>,
}

/// Keeps this node's entries as they should be.
pub async fn run(client: Client, mut published: watch::Receiver<Arc<Published>>, denied: Denied) {
    let policies: Api<EgressPolicyResource> = Api::all(client);
    let mut failures = Failures::new("writing this node's entry in the status of policies");
    if published
        .wait_for(|published| published.is_known())
        .await
        .is_err()
    {
        return;
    }
    let node = published.borrow().node.clone();
    let mut written = loop {
        match read(&policies, &node).await {
            Ok(written) => break written,
            Err(error) => tokio::time::sleep(failures.one_more(&error)).await,
        }
    };
    failures.none();
    loop {
        let now = published.borrow_and_update().clone();
        let counts = denied.borrow().clone();
        let wait = match write(&policies, &now, &counts, &mut written).await {
            Ok(()) => {
                failures.none();
                LOOK
            }
            Err(error) => failures.one_more(&error),
        };
        tokio::select! {
            changed = published.changed() => {
                if changed.is_err() {
                    return;
                }
                // A policy changes for all nodes at once. And what is only for a moment is not written.
                tokio::time::sleep(spread(&now.node, now.nodes.len())).await;
            }
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// What agents before this one have written.
async fn read(policies: &Api<EgressPolicyResource>, node: &str) -> kube::Result<BTreeMap<String, Written>> {
    let list = policies.list(&ListParams::default()).await?;
    let read = list.items.into_iter().filter_map(|policy| {
        let nodes = policy.status.unwrap_or_default().nodes;
        let written = Written {
            uid: policy.metadata.uid,
            entry: nodes.into_iter().find(|entry| entry.node == node),
            at: None,
        };
        Some((policy.metadata.name?, written))
    });
    Ok(read.collect())
}

/// Writes what has changed, as far as it is time.
async fn write(
    policies: &Api<EgressPolicyResource>,
    published: &Published,
    denied: &BTreeMap<String, u64>,
    written: &mut BTreeMap<String, Written>,
) -> kube::Result<()> {
    let interval = counts_interval(published.nodes.len());
    written.retain(|name, written| match published.policies.get(name) {
        // One that was made anew under an old name has nothing in its status.
        Some(policy) => policy.uid == written.uid,
        None => !published.applied,
    });
    for (name, policy) in &published.policies {
        let last = written.get(name);
        let entry = last.and_then(|last| last.entry.as_ref());
        let denied = denied.get(name).copied().unwrap_or_default();
        let mut wanted = wanted(published, name, policy, denied);
        if !published.applied
            && let Some(wanted) = &mut wanted
        {
            wanted.observed_generation = entry.and_then(|entry| entry.observed_generation);
        }
        match change(entry, wanted.as_ref()) {
            Change::None => continue,
            Change::State => {}
            Change::Counts => {
                if last
                    .and_then(|last| last.at)
                    .is_some_and(|at| at.elapsed() < interval)
                {
                    continue;
                }
                if let (Some(wanted), Some(entry)) = (&mut wanted, entry) {
                    wanted.since = entry.since.clone();
                    wanted.rules = entry.rules;
                }
            }
        }
        let status = EgressPolicyStatus {
            nodes: wanted.iter().cloned().collect(),
            ..EgressPolicyStatus::default()
        };
        match apply(policies, name, &manager(&published.node), &status).await {
            Ok(()) => debug!(policy = name, "the status of a policy has this node's new entry"),
            // It has just been deleted; the source will say so.
            Err(error) if is_status(&error, 404) => {}
            Err(error) => return Err(error),
        }
        let now = Written {
            uid: policy.uid.clone(),
            entry: wanted,
            at: Some(Instant::now()),
        };
        written.insert(name.clone(), now);
    }
    Ok(())
}
