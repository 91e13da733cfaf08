//! The pods of this node: how they are told, and what they are held to.

use std::collections::{BTreeMap, BTreeSet};

use ebpf::{
    Addr,
    rules::{CGROUP_LEVELS, Endpoint, Identity, PolicyId},
};

use super::{
    Input, capture,
    numbers::Numbers,
    permissions::{Held, Table},
    policies::{Policies, Selecting},
};
use crate::{
    desired::Desired,
    facts::{Cgroup, IfIndex, PodNetwork},
    objects::{Mode, OnDeny, Pod, Stored},
};

/// A pod of this node.
pub(super) struct Local<'a> {
    pub(super) pod: &'a Stored<Pod>,
    pub(super) network: Option<&'a PodNetwork>,
    pub(super) selecting: Vec<Selecting<'a>>,
    /// `None`: no policy selects it.
    pub(super) held: Option<Held>,
    /// Why it is not in the kernel (yet).
    pub(super) pending: Option<String>,
}

/// The pods of this node.
pub(super) struct Endpoints<'a> {
    pub(super) pods: Vec<Local<'a>>,
    /// How pods in the node's network namespace are held of which nothing is known (yet), by the cgroups around them.
    unknown: Vec<(Cgroup, Held)>,
    tables: BTreeMap<Table, PolicyId>,
}

impl<'a> Endpoints<'a> {
    pub(super) fn new(input: &Input<'a>, policies: &Policies<'a>) -> Self {
        let pods = input.stores.pods.values().map(|pod| &**pod);
        let local = pods
            .filter(|pod| !pod.finished && (pod.is_local(input.node) || capture::is_enrolled(input, pod)));
        let mut pods: Vec<_> = local.map(|pod| Local::new(input, policies, pod)).collect();
        find_twins(&mut pods);
        let known = pods.iter().filter(|local| local.pending.is_none());
        let unknown = unknown(input);
        let tables: BTreeSet<_> = known
            .filter_map(|local| local.held.as_ref().map(|held| held.table.clone()))
            .chain(unknown.iter().map(|(_, held)| held.table.clone()))
            .chain(capture::is_held(input).then(Table::default))
            .collect();
        let mut numbers = Numbers::default();
        let number = |table: Table| {
            let policy = PolicyId(numbers.of(&table));
            (table, policy)
        };
        Self {
            pods,
            unknown,
            tables: tables.into_iter().map(number).collect(),
        }
    }

    /// The combinations of permissions that are in use.
    pub(super) fn tables(&self) -> impl Iterator<Item = (PolicyId, &Table)> {
        self.tables.iter().map(|(table, policy)| (*policy, table))
    }

    /// The number of what a pod is held to.
    pub(super) fn policy_of(&self, local: &Local<'_>) -> Option<PolicyId> {
        local
            .held
            .as_ref()
            .and_then(|held| self.tables.get(&held.table).copied())
    }

    /// The number of no permissions at all, if that is in use.
    pub(super) fn policy_of_nobody(&self) -> Option<PolicyId> {
        self.tables.get(&Table::default()).copied()
    }

    /// Writes them down.
    pub(super) fn finish(&self, desired: &mut Desired) {
        for (Cgroup { id, level }, held) in &self.unknown {
            if let Some(policy) = self.tables.get(&held.table) {
                let endpoint = hold(host(), Some((held, *policy)));
                desired.endpoints.insert(Identity::Cgroup(*id), endpoint);
                desired.cgroup_levels |= 1 << level;
            }
        }
        for local in self.pods.iter().filter(|local| local.pending.is_none()) {
            let held = local.held.as_ref().zip(self.policy_of(local));
            for (identity, endpoint) in local.identities() {
                desired.endpoints.insert(identity, hold(endpoint, held));
            }
            if let Some(PodNetwork::Host {
                cgroup: Cgroup { id: _, level },
                ..
            }) = local.network
            {
                desired.cgroup_levels |= 1 << level;
            }
        }
    }
}

/// What is in the node's network namespace.
const fn host() -> Endpoint {
    Endpoint::new(0, [0; 6], None, None)
}

/// Pods in the node's network namespace that are not known (yet): where policies have such pods as subjects, nothing but the
/// inside of the cluster is permitted to them, or what comes first in a pod would be taken for the node's own.
fn unknown(input: &Input<'_>) -> Vec<(Cgroup, Held)> {
    let policies = input.stores.policies.values();
    let modes = policies.filter(|policy| policy.subjects.host_network);
    let Some(mode) = modes.map(|policy| policy.mode).min() else {
        return Vec::new();
    };
    let held = || Held {
        table: Table::default(),
        mode,
        // A refused call could be of a network namespace inside a pod, whose device has the say.
        on_deny: OnDeny::Drop,
        gateway: false,
    };
    let around = input.facts.around_pods.iter();
    let around = around.filter(|cgroup| cgroup.level < CGROUP_LEVELS);
    around.map(|cgroup| (*cgroup, held())).collect()
}

pub(super) fn hold(endpoint: Endpoint, held: Option<(&Held, PolicyId)>) -> Endpoint {
    let Some((held, policy)) = held else {
        return endpoint;
    };
    endpoint
        .subject_to(policy)
        .as_gateway(held.gateway)
        .audited(held.mode == Mode::Audit)
        .rejecting(held.on_deny == OnDeny::Reject)
}

impl<'a> Local<'a> {
    fn new(input: &Input<'a>, policies: &Policies<'a>, pod: &'a Stored<Pod>) -> Self {
        let mut local = Self {
            pod,
            network: None,
            selecting: Vec::new(),
            held: None,
            pending: None,
        };
        match capture::network_of(input, &pod.name) {
            Some(Ok(network)) => local.network = Some(network),
            Some(Err(reason)) => local.pending = Some(reason.clone()),
            None => local.pending = Some("it has not been looked for yet".to_owned()),
        }
        if let Some(network) = local.network {
            local.pending = unusable(network, pod);
        }
        // Both must say so: what is on the node's network is exempt unless a policy asks for it.
        let host = pod.host_network && !matches!(local.network, Some(PodNetwork::Own { .. }));
        let held = policies.selecting(pod, host).and_then(|selecting| {
            let held = Held::of(policies, &selecting, pod)?;
            Ok((selecting, held))
        });
        match held {
            Ok((selecting, held)) => (local.selecting, local.held) = (selecting, held),
            Err(error) => local.pending = Some(error.to_string()),
        }
        local
    }

    /// How the kernel tells it, with what it knows of it.
    fn identities(&self) -> Vec<(Identity, Endpoint)> {
        let address = |v4: bool| {
            self.pod
                .addresses
                .iter()
                .find(|addr| addr.is_ipv4() == v4)
                .copied()
                .map(Addr::from)
        };
        match self.network {
            None => Vec::new(),
            Some(PodNetwork::Host {
                cgroup: Cgroup { id, level: _ },
                ..
            }) => {
                vec![(Identity::Cgroup(*id), host())]
            }
            Some(PodNetwork::Own { netns, devices, .. }) => {
                let endpoint = |device: &crate::facts::PodDevice| {
                    Endpoint::new(device.index.0, device.mac, address(true), address(false))
                };
                let first = devices
                    .first()
                    .map(|device| (Identity::Netns(netns.0), endpoint(device)));
                let each = devices
                    .iter()
                    .map(|device| (Identity::Device(device.index.0), endpoint(device)));
                each.chain(first).collect()
            }
        }
    }
}

/// Why a pod cannot be told apart from others, or its addresses from others'.
fn unusable(network: &PodNetwork, pod: &Pod) -> Option<String> {
    match network {
        PodNetwork::Own { devices, .. } => {
            if devices.is_empty() {
                Some("its network namespace has no device on this node".to_owned())
            } else if devices.iter().any(|device| device.index == IfIndex(0)) {
                Some("one of its devices has no index on this node".to_owned())
            } else if pod.addresses.is_empty() {
                Some("it has no address (status.podIPs)".to_owned())
            } else {
                None
            }
        }
        PodNetwork::Host {
            cgroup: Cgroup { id: _, level },
            ..
        } if *level >= CGROUP_LEVELS => Some(format!(
            "its cgroup is {level} levels deep; {} can be told apart",
            CGROUP_LEVELS - 1
        )),
        PodNetwork::Host { .. } => None,
    }
}

/// Pods that cannot be told apart get no endpoint: nobody shall have what is permitted to another.
fn find_twins(pods: &mut [Local<'_>]) {
    let mut owners: BTreeMap<Identity, Vec<usize>> = BTreeMap::new();
    for (index, local) in pods.iter().enumerate() {
        for (identity, _) in local.identities() {
            owners.entry(identity).or_default().push(index);
        }
    }
    for (identity, indices) in owners.into_iter().filter(|(_, indices)| indices.len() > 1) {
        let names: Vec<_> = indices
            .iter()
            .map(|index| pods[*index].pod.name.to_string())
            .collect();
        let what = match identity {
            Identity::Device(_) => "device",
            Identity::Netns(_) => "network namespace",
            Identity::Cgroup(_) => "cgroup",
        };
        for index in indices {
            let reason = format!("several pods have the same {what}: {}", names.join(", "));
            pods[index].pending.get_or_insert(reason);
        }
    }
}
