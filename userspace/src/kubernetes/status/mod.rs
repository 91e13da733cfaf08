//! The status of policies. Each agent applies its own entry of the list of nodes, under a field manager of its own, so that
//! none can touch another's; what is about the cluster as a whole is written by one agent, the holder of a Lease.
//!
//! A holder rather than all of them, as many who compute the same from what they have seen so far would overwrite each other
//! with older words; and it takes away the entries of nodes that are gone, which their own agents cannot.

pub mod common;
mod entry;
pub mod own;
mod summary;

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::objects::{crd::EgressPolicyResource, policy_status::EgressPolicyStatus};

/// The field manager of what is about the cluster as a whole.
const COMMON: &str = "sluice-status";
/// How long the name of a field manager may be.
const MAX_MANAGER: usize = 128;
/// How often counts may be written, where there are few nodes.
const COUNTS: Duration = Duration::from_mins(1);
/// How much longer that takes for every node: in the whole cluster no more than one write in this time.
const COUNTS_PER_NODE: Duration = Duration::from_secs(6);
/// Over how much time, for every node, what happens to all of them at once is spread.
const SPREAD_PER_NODE: Duration = Duration::from_millis(50);
const MAX_SPREAD: Duration = Duration::from_mins(1);

/// The field manager of a node's agent.
fn manager(node: &str) -> String {
    let name = format!("sluice-agent/{node}");
    if name.len() <= MAX_MANAGER {
        return name;
    }
    let hash = format!("~{:016x}", hash(node));
    let end = name.floor_char_boundary(MAX_MANAGER - hash.len());
    format!("{}{hash}", &name[..end])
}

fn hash(node: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    node.hash(&mut hasher);
    hasher.finish()
}

/// How often counts may be written in a cluster of so many nodes.
fn counts_interval(nodes: usize) -> Duration {
    COUNTS.max(times(COUNTS_PER_NODE, nodes))
}

/// How long this node waits before it writes what may have changed on all nodes at once.
fn spread(node: &str, nodes: usize) -> Duration {
    const SHARES: u32 = 1024;
    let whole = times(SPREAD_PER_NODE, nodes).min(MAX_SPREAD);
    whole / SHARES * u32::try_from(hash(node) % u64::from(SHARES)).unwrap_or_default()
}

fn times(duration: Duration, count: usize) -> Duration {
    duration.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
}

/// Says what of a policy's status is this manager's; what it said before and does not say now is taken away.
async fn apply(
    policies: &Api<EgressPolicyResource>,
    policy: &str,
    manager: &str,
    status: &EgressPolicyStatus,
) -> kube::Result<()> {
    let mut patch = json!({
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "EgressPolicy",
        "metadata": {"name": policy},
    });
    // An empty status would be something to own, too.
    if *status != EgressPolicyStatus::default() {
        patch["status"] = json!(status);
    }
    let parameters = PatchParams::apply(manager).force();
    policies
        .patch_status(policy, &parameters, &Patch::Apply(&patch))
        .await?;
    Ok(())
}

/// A text that is no longer than so many bytes.
fn shortened(mut text: String, max: usize) -> String {
    const MORE: &str = " …";
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max - MORE.len()));
        text.push_str(MORE);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_fits_and_is_of_one_node() {
        assert_eq!(manager("one"), "sluice-agent/one");
        let long = |end: &str| format!("{}{end}", "x".repeat(250));
        assert!(manager(&long("a")).len() <= MAX_MANAGER);
        assert_ne!(manager(&long("a")), manager(&long("b")));
    }

    #[test]
    fn writes_are_rarer_the_more_nodes_there_are() {
        assert_eq!(counts_interval(5), Duration::from_mins(1));
        assert_eq!(counts_interval(100), Duration::from_mins(10));
        for nodes in [1, 100, 5000] {
            assert!(spread("one", nodes) <= times(SPREAD_PER_NODE, nodes).min(MAX_SPREAD));
        }
        assert_ne!(spread("one", 100), spread("two", 100));
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(shortened("abc".to_owned(), 3), "abc");
        let cut = shortened("ä".repeat(100), 21);
        assert!(cut.len() <= 21 && cut.ends_with('…'), "{cut}");
    }
}
