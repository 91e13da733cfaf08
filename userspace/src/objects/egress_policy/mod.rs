//! EgressPolicy, our own kind: who is held to what.

pub mod crd;
pub(super) mod placed;
pub mod status;
#[cfg(test)]
mod tests;
pub(super) mod validate;

use ebpf::packet::Protocol;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::Selector;

/// What a policy does with what it does not permit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Drops it.
    #[default]
    Enforce,
    /// Reports it.
    Audit,
}

/// Where a policy's gateways may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GatewayDestinations {
    /// Where ServiceEntries say.
    #[default]
    Registry,
    /// Everywhere.
    Any,
}

/// How an application learns that it may not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDeny {
    /// At once.
    #[default]
    Reject,
    /// By waiting in vain.
    Drop,
}

/// Who is held to a policy, and who may leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressPolicy {
    /// Its name; it is cluster-scoped.
    pub name: String,
    /// Its `metadata.uid`; a manifest has none.
    pub uid: Option<String>,
    /// Which version of its `spec` this is, if an API server counts them.
    pub generation: Option<i64>,
    /// What it does with what it does not permit.
    pub mode: Mode,
    /// Who is held to it, its gateways aside.
    pub subjects: Subjects,
    /// Who may leave.
    pub gateways: Vec<GatewayRef>,
    /// Where those may go.
    pub gateway_destinations: GatewayDestinations,
    /// Where subjects may go without a gateway.
    pub exceptions: Vec<Exception>,
    /// How an application learns that it may not.
    pub on_deny: OnDeny,
}

/// Which pods are held to a policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subjects {
    /// Pods of these namespaces.
    pub namespaces: Selector,
    /// Pods with these labels.
    pub pods: Selector,
    /// Pods in a node's network namespace, too.
    pub host_network: bool,
}

/// Pods that a policy names as a way out. The namespace is always part of it, so that a label alone, which many
/// may write, makes nobody a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayRef {
    /// Their namespace.
    pub namespace: String,
    /// Which of its pods.
    pub pods: GatewayPods,
}

/// How a policy names its gateways.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayPods {
    /// The pods of the Gateway API's Gateway of this name.
    Gateway(String),
    /// The pods with these labels.
    Selected(Selector),
}

/// Where some subjects may go without a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Its name, unique in its policy.
    pub name: String,
    /// Subjects in these namespaces.
    pub namespaces: Selector,
    /// Subjects with these labels.
    pub pods: Selector,
    /// Whereto; none is nowhere.
    pub to: Vec<Block>,
    /// With which protocols and ports: `None` is all of them, an empty list none.
    pub ports: Option<Vec<PortRange>>,
}

/// A range of addresses with holes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// The range.
    pub cidr: IpNet,
    /// The holes, sorted.
    pub except: Vec<IpNet>,
}

/// Ports of one protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortRange {
    /// The protocol; ICMP stands for that of IPv6, too.
    pub protocol: Protocol,
    /// First and last port; `None` is all of them.
    pub ports: Option<(u16, u16)>,
}
