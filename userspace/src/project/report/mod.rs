//! What people should know of a projection. Its JSON is a public contract: names are in `snake_case`, and fields
//! are added but not changed.

mod build;
mod findings;

use std::net::IpAddr;

use ebpf::rules::Enforcement;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub(super) use self::build::report;
use super::{
    InternalSource,
    capture::{CaptureMode, NotCaptured},
};
use crate::{
    facts::{PodDevice, PodName},
    objects::{Host, ObjectName, ObjectRef, OnDeny},
    problem::{Origin, Problem},
    source::UnknownKind,
};

/// What a projection made, for people.
///
/// What may be very long is not in it, but made when it is asked for: [`registry`](super::registry) and
/// [`internal`](super::internal).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The name of this node.
    pub node: String,
    /// Whether the source had everything.
    pub complete: bool,
    /// What happens to senders of whom nothing is known.
    pub enforcement: EnforcementMode,
    /// The pods of this node.
    pub endpoints: Vec<EndpointReport>,
    /// The policies.
    pub policies: Vec<PolicyReport>,
    /// How much there is of what is not listed here.
    pub totals: Totals,
    /// Kinds that are not read, with how many documents there are.
    pub ignored: Vec<(UnknownKind, usize)>,
    /// What is wrong, most severe first.
    pub problems: Vec<Problem>,
}

/// What happens to senders of whom nothing is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnforcementMode {
    /// Nothing: no policy exists.
    #[default]
    Off,
    /// They are reported.
    Audit,
    /// They are dropped.
    Enforce,
}

impl From<Enforcement> for EnforcementMode {
    fn from(enforcement: Enforcement) -> Self {
        match enforcement {
            Enforcement::Off => Self::Off,
            Enforcement::Audit => Self::Audit,
            Enforcement::Enforce => Self::Enforce,
        }
    }
}

/// As what a policy selects a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Not at all.
    None,
    /// It is held to the policy.
    Subject,
    /// The policy names it as a way out.
    Gateway,
}

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointReport {
    /// Which.
    pub pod: PodName,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The host sides of its devices; none for a pod in the node's network namespace.
    pub devices: Vec<PodDevice>,
    /// It is in the node's network namespace.
    pub host_network: bool,
    /// Gateway if it is one for any policy, subject if it is only that.
    pub role: Role,
    /// The policies that select it.
    pub policies: Vec<HeldTo>,
    /// `enforce` or `audit`; absent if no policy selects it.
    pub mode: Option<EnforcementMode>,
    /// What becomes of what it may not.
    pub on_deny: Option<OnDeny>,
    /// The number of the rules that it is held to, as events have it.
    pub policy_id: Option<u32>,
    /// Why it is not in the kernel (yet). While it is not, what it sends is dropped where a policy enforces.
    pub pending: Option<String>,
    /// How its connections reach the node proxy; absent if they do not.
    pub capture: Option<CaptureMode>,
    /// Why they do not.
    pub not_captured: Option<NotCaptured>,
    /// Where it is written.
    pub origin: Origin,
}

/// A policy that selects a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldTo {
    /// Its name.
    pub policy: String,
    /// As what.
    pub role: Role,
    /// Whether it counts: one that audits does not where another enforces.
    pub effective: bool,
}

/// A policy, and how things stand with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyReport {
    /// Its name.
    pub name: String,
    /// `enforce` or `audit`.
    pub mode: EnforcementMode,
    /// `registry` or `any`.
    pub gateway_destinations: String,
    /// What becomes of what it does not permit.
    pub on_deny: OnDeny,
    /// Its gateways.
    pub gateways: Vec<GatewayReport>,
    /// How many pods of this node are held to it.
    pub subjects: usize,
    /// What must be true for it to do what one expects.
    pub conditions: Vec<Condition>,
    /// Where it is written.
    pub origin: Origin,
}

/// A gateway, as a policy names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayReport {
    /// Its namespace.
    pub namespace: String,
    /// The name of its Gateway, unless it is named by labels.
    pub gateway: Option<String>,
    /// Whether a Gateway of this name exists, if it is named so.
    pub gateway_exists: Option<bool>,
    /// Its pods, on any node.
    pub pods: Vec<GatewayPod>,
}

/// A pod of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayPod {
    /// Which.
    pub pod: PodName,
    /// The node that it runs on.
    pub node: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Something that must be true for a policy to do what one expects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// What.
    pub name: ConditionName,
    /// Whether it is true.
    pub ok: bool,
    /// In words, if it is not.
    pub message: Option<String>,
}

/// The conditions of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConditionName {
    /// Every gateway that it names has a pod.
    GatewaysFound,
    /// The cluster's resolver may go on asking outside.
    ResolverReachable,
    /// The inside of the cluster is known.
    InternalKnown,
}

impl ConditionName {
    /// As JSON and metrics have it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::GatewaysFound => "gateways_found",
            Self::ResolverReachable => "resolver_reachable",
            Self::InternalKnown => "internal_known",
        }
    }
}

/// How much there is of what is not listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// ServiceEntries.
    pub service_entries: usize,
    /// Those of them that permit nothing (yet).
    pub service_entries_without_effect: usize,
    /// Ranges inside the cluster, by all sources.
    pub internal_ranges: usize,
}

/// A range inside the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct InternalRange {
    /// The range.
    pub range: IpNet,
    /// Why it counts as internal.
    pub source: InternalSource,
    /// The object that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectRef>,
    /// Where that is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
}

/// What a ServiceEntry declares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistryEntry {
    /// The ServiceEntry.
    pub service_entry: ObjectName,
    /// Its hosts.
    pub hosts: Vec<Host>,
    /// Where gateways may go because of it.
    pub addresses: Vec<IpNet>,
    /// With which ports, as `443/TCP`.
    pub ports: Vec<String>,
    /// Whether it permits anything, and if not, why.
    pub state: RegistryState,
    /// Where it is written.
    pub origin: Origin,
}

/// How things stand with a ServiceEntry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegistryState {
    /// All its addresses are known.
    Ready,
    /// Some of its names have no addresses (yet).
    PartlyResolved,
    /// None of its names has an address (yet).
    Unresolved,
    /// Its names stand for many, and cannot be resolved.
    Wildcard,
    /// It has no port, and permits nothing.
    NoPorts,
    /// It has no address, and permits nothing.
    NoAddresses,
    /// Its endpoints are workloads of the cluster, to which nobody needs a permission.
    Workloads,
}

impl Report {
    /// Whether enough is known of the inside of the cluster to tell it from the outside.
    pub fn knows_inside(&self) -> bool {
        let mut conditions = self.policies.iter().flat_map(|policy| &policy.conditions);
        conditions.all(|condition| condition.ok || condition.name != ConditionName::InternalKnown)
    }
}

impl RegistryState {
    /// Whether gateways may go anywhere because of it.
    pub const fn has_effect(self) -> bool {
        match self {
            Self::Ready | Self::PartlyResolved => true,
            Self::Unresolved | Self::Wildcard | Self::NoPorts | Self::NoAddresses | Self::Workloads => false,
        }
    }
}
