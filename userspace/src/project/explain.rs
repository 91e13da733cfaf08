//! Which objects say what on a pod and a destination: the provenance of a verdict.

use std::net::IpAddr;

use ebpf::packet::Protocol;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    EnforcementMode, Input, InternalRange, Role, capture, internal, permissions,
    policies::{Policies, Selecting},
    ports::PortSet,
    registry,
};
use crate::{
    facts::{PodName, PodNetwork},
    objects::{Block, GatewayDestinations, ObjectName, Pod},
    problem::Origin,
};

/// What the objects say of a pod and a destination. The verdict itself is the programs' function's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// Who sends.
    pub pod: PodName,
    /// Whereto.
    pub destination: IpAddr,
    /// Ranges inside the cluster that cover the destination. If there is one, nothing else matters.
    pub internal: Vec<InternalRange>,
    /// What the policies that select the pod say.
    pub policies: Vec<PolicyExplanation>,
    /// Why it cannot be said which policies select the pod.
    pub unknown: Option<String>,
}

/// What a policy says of a pod and a destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyExplanation {
    /// The policy.
    pub policy: String,
    /// Where it is written.
    pub origin: Origin,
    /// `enforce` or `audit`.
    pub mode: EnforcementMode,
    /// As what it selects the pod.
    pub role: Role,
    /// Whether it counts: one that audits does not where another enforces.
    pub effective: bool,
    /// Whether it permits the destination with this protocol and port. Every policy that counts must.
    pub permits: bool,
    /// What in it is about the address, even if it is about other ports.
    pub because: Vec<Contribution>,
}

/// Something that is about an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contribution {
    /// What it is.
    #[serde(flatten)]
    pub because: Because,
    /// The ports that it permits, as `443/TCP`.
    pub ports: Vec<String>,
    /// Whether it permits the one that was asked for.
    pub permits: bool,
}

/// What can be about an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Because {
    /// `gatewayDestinations: Any`.
    AnyDestination,
    /// A ServiceEntry.
    ServiceEntry {
        /// Which.
        name: ObjectName,
        /// Its prefix that covers the address.
        prefix: IpNet,
        /// Where it is written.
        origin: Origin,
    },
    /// An exception of the policy.
    Exception {
        /// Its name.
        name: String,
        /// Its block that covers the address.
        cidr: IpNet,
    },
    /// An exception has a block that covers the address, but for a hole in it.
    Excepted {
        /// Its name.
        name: String,
        /// The hole.
        except: IpNet,
    },
}

/// Finds what the objects say on `pod` and `destination`. ICMP has port 0. `None`: there is no such pod.
pub fn explain(
    input: &Input<'_>,
    pod: &PodName,
    destination: IpAddr,
    protocol: Protocol,
    port: u16,
) -> Option<Explanation> {
    let stored = input.stores.pods.get(pod)?;
    let policies = Policies::new(input.stores);
    let network = capture::network_of(input, pod).and_then(|network| network.as_ref().ok());
    let host = stored.host_network && !matches!(network, Some(PodNetwork::Own { .. }));
    let mut inside = Vec::new();
    internal::each(input, |range, source| {
        if range.contains(&destination) {
            inside.push(source.range(range));
        }
    });
    let mut explanation = Explanation {
        pod: pod.clone(),
        destination,
        internal: inside,
        policies: Vec::new(),
        unknown: None,
    };
    let target = Target {
        destination,
        protocol,
        port,
    };
    match policies.selecting(stored, host) {
        Err(error) => explanation.unknown = Some(error.to_string()),
        Ok(selecting) => {
            let counts = permissions::mode(&selecting);
            for selecting in &selecting {
                let because = target.contributions(input, &policies, selecting, stored);
                explanation.policies.push(PolicyExplanation {
                    policy: selecting.policy.name.clone(),
                    origin: selecting.policy.origin.clone(),
                    mode: selecting.policy.mode.into(),
                    role: selecting.role,
                    effective: Some(selecting.policy.mode) == counts,
                    permits: because.iter().any(|contribution| contribution.permits),
                    because,
                });
            }
        }
    }
    Some(explanation)
}

struct Target {
    destination: IpAddr,
    protocol: Protocol,
    port: u16,
}

impl Target {
    fn contributions(
        &self,
        input: &Input<'_>,
        policies: &Policies<'_>,
        selecting: &Selecting<'_>,
        pod: &Pod,
    ) -> Vec<Contribution> {
        let policy = selecting.policy;
        match (selecting.role, policy.gateway_destinations) {
            (Role::None, _) => Vec::new(),
            (Role::Gateway, GatewayDestinations::Any) => {
                vec![self.contribution(Because::AnyDestination, &PortSet::all())]
            }
            (Role::Gateway, GatewayDestinations::Registry) => self.registry(input),
            (Role::Subject, _) => {
                let mut found = Vec::new();
                // Known, or else it would not be known that the policy selects the pod at all.
                for exception in policies.exceptions(policy, pod).unwrap_or_default() {
                    let ports = PortSet::of_exception(exception.ports.as_deref());
                    for block in &exception.to {
                        found.extend(self.block(&exception.name, block, &ports));
                    }
                }
                found
            }
        }
    }

    fn registry(&self, input: &Input<'_>) -> Vec<Contribution> {
        let mut found = Vec::new();
        for entry in input.stores.service_entries.values() {
            for declared in registry::declared(entry, input.names) {
                let covering = declared
                    .prefixes
                    .iter()
                    .find(|prefix| prefix.contains(&self.destination));
                let because = covering.map(|prefix| Because::ServiceEntry {
                    name: entry.name.clone(),
                    prefix: *prefix,
                    origin: entry.origin.clone(),
                });
                found.extend(because.map(|because| self.contribution(because, &declared.ports)));
            }
        }
        found
    }

    fn block(&self, name: &str, block: &Block, ports: &PortSet) -> Option<Contribution> {
        if !block.cidr.contains(&self.destination) {
            return None;
        }
        let name = name.to_owned();
        match block.except.iter().find(|hole| hole.contains(&self.destination)) {
            Some(hole) => {
                Some(self.contribution(Because::Excepted { name, except: *hole }, &PortSet::default()))
            }
            None => Some(self.contribution(
                Because::Exception {
                    name,
                    cidr: block.cidr,
                },
                ports,
            )),
        }
    }

    fn contribution(&self, because: Because, ports: &PortSet) -> Contribution {
        Contribution {
            because,
            ports: ports.words(),
            permits: ports.contains(self.protocol, self.port),
        }
    }
}
