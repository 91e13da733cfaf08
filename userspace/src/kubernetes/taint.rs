//! The taint with which a node can hold pods off until it is guarded. Whoever makes nodes sets it (kubelet's
//! `--register-with-taints`, a node pool's settings); the agent takes it away, again if the node comes back with it.

use std::{pin::pin, time::Duration};

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Taint};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt as _, watcher},
};
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::health::Probes;

/// The key of the taint, whatever its value and effect.
pub const KEY: &str = "sluice.dev/not-ready";

/// Until something that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Takes the taint off this node whenever the agent is ready and the node has it. Never ends.
pub async fn run(client: Client, node: String, mut probes: Probes) {
    let nodes: Api<Node> = Api::all(client);
    loop {
        probes.until_ready().await;
        let mut seen = pin!(watcher::watch_object(nodes.clone(), &node).default_backoff());
        while let Some(seen) = seen.next().await {
            // A watch that fails begins again by itself.
            let Some(patch) = seen.ok().flatten().as_ref().and_then(without_taint) else {
                continue;
            };
            probes.until_ready().await;
            match nodes
                .patch(&node, &PatchParams::default(), &Patch::Merge(patch))
                .await
            {
                Ok(_) => info!("took the taint {KEY} off this node"),
                Err(error) => {
                    warn!(%error, "cannot take the taint {KEY} off this node; it is tried again (may the agent patch Nodes?)");
                    break;
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// What is to change, if the node has the taint. It holds for the version of the node that was seen alone, so that nobody
/// else's taint is lost.
fn without_taint(node: &Node) -> Option<Value> {
    let taints = node.spec.as_ref()?.taints.as_ref()?;
    let others: Vec<&Taint> = taints.iter().filter(|taint| taint.key != KEY).collect();
    (others.len() < taints.len()).then(|| {
        json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": others},
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(taints: &[&str]) -> Node {
        let taints: Vec<Value> = taints
            .iter()
            .map(|key| json!({"key": key, "effect": "NoSchedule"}))
            .collect();
        let node = json!({"metadata": {"name": "a", "resourceVersion": "7"}, "spec": {"taints": taints}});
        serde_json::from_value(node).expect("a Node")
    }

    #[test]
    fn other_taints_stay() {
        let patch = without_taint(&node(&["other", KEY])).expect("it has the taint");
        let others = json!([{"key": "other", "effect": "NoSchedule"}]);
        assert_eq!(patch["spec"]["taints"], others);
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
    }

    #[test]
    fn a_node_without_it_is_left_alone() {
        assert_eq!(without_taint(&node(&["other"])), None);
        assert_eq!(without_taint(&Node::default()), None);
    }
}
