//! What the objects mean: stores and facts in, rules out. All of the policies' semantics live here.
//!
//! - A pod may do what *every* policy that selects it permits. A policy permits its gateways what it says of
//!   gateways, and its subjects its exceptions; a gateway of a policy is never its subject.
//! - A policy in audit mode counts only for pods that no enforcing policy selects: what one audits another may drop.
//! - What is inside the cluster is permitted to everybody, and wins over all that is said of the outside.
//! - What is not known is not permitted: a pod that cannot be told apart from others gets no endpoint, and the
//!   programs drop what comes from nobody.

mod capture;
mod destinations;
mod endpoints;
mod explain;
mod internal;
mod kernel;
mod numbers;
mod permissions;
mod policies;
mod ports;
mod registry;
mod report;

use ebpf::rules::Enforcement;
use ipnet::IpNet;

use self::{
    capture::Captures,
    destinations::{Covered, Destinations},
    endpoints::Endpoints,
    policies::Policies,
};
pub use self::{
    capture::{
        AmbientSelectors, CaptureMode, Captured, CapturedPod, Eligible, NotCaptured, Proxy,
        Settings as CaptureSettings, Workload, depth, eligible, network_of,
    },
    explain::{Because, Contribution, Explanation, PolicyExplanation, explain},
    internal::{InternalSource, internal},
    kernel::Kernel,
    registry::{prefixes, registry, wanted_names},
    report::{
        Condition, ConditionName, EndpointReport, EnforcementMode, GatewayPod, GatewayReport, HeldTo,
        InternalRange, PolicyReport, RegistryEntry, RegistryState, Report, Role, Totals,
    },
};
use crate::{
    desired::{Desired, Rule},
    enrolled::Enrolled,
    facts::Facts,
    names::Names,
    objects::Mode,
    source::Stores,
};

/// All that rules are made of.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// The name of this node.
    pub node: &'a str,
    /// The cluster's objects.
    pub stores: &'a Stores,
    /// What was found on the node.
    pub facts: &'a Facts,
    /// The addresses of the names that the registry declares.
    pub names: &'a Names,
    /// Ranges that the operator says are inside the cluster.
    pub internal: &'a [IpNet],
    /// What the operator says of capture.
    pub capture: &'a capture::Settings,
    /// Network namespaces that are captured because somebody said so.
    pub enrolled: &'a [Enrolled],
    /// The cgroups of the ztunnels that are connected, the newest first.
    pub proxies: &'a [Proxy],
}

/// What they make.
#[derive(Clone, Debug, Default)]
pub struct Projection {
    /// What shall be in the kernel.
    pub desired: Desired,
    /// What people should know of it.
    pub report: Report,
    /// The captured network namespaces.
    pub captured: Captured,
}

/// Makes rules of objects.
pub fn project(input: &Input<'_>) -> Projection {
    let policies = Policies::new(input.stores);
    let endpoints = Endpoints::new(input, &policies);
    let Covered { prefixes, sets } = destinations(input, &endpoints);
    let mut desired = Desired {
        enforcement: enforcement(input.stores),
        destinations: prefixes,
        ..Desired::default()
    };
    for (policy, table) in endpoints.tables() {
        for (groups, members) in &sets {
            let permitted = table.permitted(members);
            desired
                .rules
                .extend(permitted.rules().into_iter().map(|ports| Rule {
                    policy,
                    groups: *groups,
                    ports,
                }));
        }
    }
    let mut captures = Captures::new(input, &endpoints);
    let report = report::report(input, &policies, &endpoints, &captures, desired.enforcement);
    endpoints.finish(&mut desired);
    let pods = std::mem::take(&mut captures.pods);
    captures.finish(&endpoints, input, &mut desired);
    Projection {
        desired,
        report,
        captured: pods,
    }
}

fn enforcement(stores: &Stores) -> Enforcement {
    let mut modes = stores.policies.values().map(|policy| policy.mode);
    match (
        stores.policies.is_empty(),
        modes.any(|mode| mode == Mode::Enforce),
    ) {
        (true, _) => Enforcement::Off,
        (false, false) => Enforcement::Audit,
        (false, true) => Enforcement::Enforce,
    }
}

/// A group that nobody on this node may use is none: a node without a gateway needs nothing of the registry.
fn destinations(input: &Input<'_>, endpoints: &Endpoints<'_>) -> Covered {
    let mut destinations = Destinations::default();
    internal::each(input, |prefix, _| destinations.internal(prefix));
    if endpoints.tables().any(|(_, table)| table.uses_registry()) {
        for entry in input.stores.service_entries.values() {
            for declared in registry::declared(entry, input.names) {
                destinations.registry(declared.ports, declared.prefixes);
            }
        }
    }
    for (_, table) in endpoints.tables() {
        table.blocks().for_each(|block| destinations.block(block));
    }
    destinations.cover()
}

#[cfg(test)]
mod tests;
