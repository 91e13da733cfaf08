//! What agents write into the status of an EgressPolicy.
//!
//! Every agent watches every policy, so that whatever is written here goes to all nodes: one write costs the size of the
//! object times the number of nodes. This is what bounds the list of nodes. In a cluster of up to [`LISTED_NODES`] every
//! node is in it; in a larger one only those that are in trouble, up to [`MAX_NODES`] at once, and the metrics of the agents
//! tell the rest. With what server-side apply keeps about it an entry is about 600 bytes, so that an object stays below
//! 150 KiB, a tenth of what etcd takes.

#![expect(
    unreachable_pub,
    reason = "what derives a schema with rules repeats the type, public as it is, inside a function"
)]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Up to how many nodes of a cluster all are listed.
pub const LISTED_NODES: usize = 128;
/// How many entries the list of nodes may have.
pub const MAX_NODES: usize = 256;

/// Types of conditions.
pub mod condition {
    /// The policy can be read, and every agent holds to what it says.
    pub const ACCEPTED: &str = "Accepted";
    /// It is in force on every node of the cluster.
    pub const ENFORCED: &str = "Enforced";
    /// Something keeps it from doing what one expects.
    pub const DEGRADED: &str = "Degraded";
}

/// Reasons of conditions.
pub mod reason {
    /// Accepted: it is.
    pub const ACCEPTED: &str = "Accepted";
    /// Not Accepted: the agents cannot read it.
    pub const INVALID: &str = "Invalid";
    /// Accepted is Unknown: the agent that writes this has not read this version yet.
    pub const PENDING: &str = "Pending";
    /// Enforced: on every node.
    pub const ALL_NODES: &str = "AllNodes";
    /// Not Enforced: not on every node, or not in this version.
    pub const NODES_MISSING: &str = "NodesMissing";
    /// Not Enforced: it only reports.
    pub const AUDIT_MODE: &str = "AuditMode";
    /// Enforced is Unknown: the cluster has more nodes than are listed.
    pub const NOT_LISTED: &str = "NotListed";
    /// Degraded: no pod is one of its gateways.
    pub const GATEWAY_NOT_FOUND: &str = "GatewayNotFound";
    /// Degraded: the cluster's own resolver may not ask outside.
    pub const RESOLVER_CUT_OFF: &str = "ResolverCutOff";
    /// Degraded: nothing is known of the inside of the cluster.
    pub const INTERNAL_UNKNOWN: &str = "InternalUnknown";
    /// Degraded: some nodes are in trouble.
    pub const NODES_DEGRADED: &str = "NodesDegraded";
    /// Not Degraded.
    pub const AS_EXPECTED: &str = "AsExpected";
}

/// What has become of the policy. The agents write it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EgressPolicyStatus {
    /// Accepted: the agents can read it. Enforced: it is in force on every node of the cluster. Degraded: something keeps it
    /// from doing what one expects, as a gateway that no pod is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".to_owned()]))]
    pub conditions: Vec<Condition>,
    /// How many of the gateways that the policy names have a pod, as 1/2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateways: Option<String>,
    /// On how many nodes of the cluster the policy is in force, as 4/5. In a cluster of more than 128 nodes: how many are
    /// in trouble, as "2 of 500 in trouble".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced_on: Option<String>,
    /// How many denials the nodes that are listed have reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denied: Option<i64>,
    /// What has become of it on each node. In a cluster of more than 128 nodes only those that are in trouble are listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["node".to_owned()]))]
    pub nodes: Vec<NodeStatus>,
}

/// What has become of the policy on one node. The agent of that node writes it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    /// The node.
    #[schemars(length(min = 1, max = 253))]
    pub node: String,
    /// Enforcing or Auditing: the kernel holds all that the cluster says. Degraded: it holds rules, but not those, or not all
    /// of them. Starting: it holds none yet, and what earlier agents have loaded stays.
    pub state: NodeState,
    /// The version of the spec (metadata.generation) that the kernel's rules are made of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The number of the rules in the kernel with which the state began.
    pub rules: i64,
    /// How many pods of the node are held to the policy.
    pub subjects: i64,
    /// How many pods of the node are its gateways.
    pub gateways: i64,
    /// How many denials the agent has seen since it started, of pods that the policy selects. Written once a minute at the
    /// most, and less often in large clusters.
    pub denied: i64,
    /// When the entry became what it is, its counts aside.
    pub since: Time,
    /// What is wrong, if the state is Degraded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub message: Option<String>,
}

/// How an agent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[expect(missing_docs, reason = "the field of this type says what its values mean")]
pub enum NodeState {
    Starting,
    Enforcing,
    Auditing,
    Degraded,
}
