//! What a pod may do outside the cluster: what all the policies permit that select it.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    destinations::Group,
    policies::{Policies, Selecting, UnknownNamespace},
    ports::PortSet,
    report::Role,
};
use crate::objects::{Block, GatewayDestinations, Mode, OnDeny, Pod};

/// What one policy permits.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Permissions {
    /// Every destination.
    everything: bool,
    /// Those that ServiceEntries declare, with their ports.
    registry: bool,
    /// Blocks of exceptions.
    blocks: BTreeMap<Block, PortSet>,
}

impl Permissions {
    /// What a policy permits to this pod.
    pub(super) fn of(
        policies: &Policies<'_>,
        selecting: &Selecting<'_>,
        pod: &Pod,
    ) -> Result<Self, UnknownNamespace> {
        let Selecting { policy, role } = selecting;
        let mut permissions = Self::default();
        match (role, policy.gateway_destinations) {
            (Role::None, _) => {}
            (Role::Gateway, GatewayDestinations::Any) => permissions.everything = true,
            (Role::Gateway, GatewayDestinations::Registry) => permissions.registry = true,
            (Role::Subject, _) => {
                for exception in policies.exceptions(policy, pod)? {
                    let ports = PortSet::of_exception(exception.ports.as_deref());
                    if ports.is_empty() {
                        continue;
                    }
                    for block in &exception.to {
                        permissions.blocks.entry(block.clone()).or_default().union(&ports);
                    }
                }
            }
        }
        Ok(permissions)
    }

    /// The ports that it permits to destinations of these groups.
    pub(super) fn permitted(&self, groups: &[Group]) -> PortSet {
        if self.everything {
            return PortSet::all();
        }
        let mut permitted = PortSet::default();
        for group in groups {
            match group {
                Group::Registry(ports) if self.registry => permitted.union(ports),
                Group::Registry(_) => {}
                Group::Block(block) => {
                    if let Some(ports) = self.blocks.get(block) {
                        permitted.union(ports);
                    }
                }
            }
        }
        permitted
    }
}

/// What all of them permit.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Table(BTreeSet<Permissions>);

impl Table {
    /// The ports that all policies permit to destinations of these groups.
    pub(super) fn permitted(&self, groups: &[Group]) -> PortSet {
        let mut each = self.0.iter().map(|permissions| permissions.permitted(groups));
        let first = each.next().unwrap_or_default();
        each.fold(first, |all, ports| all.intersection(&ports))
    }

    pub(super) fn uses_registry(&self) -> bool {
        self.0.iter().any(|permissions| permissions.registry)
    }

    pub(super) fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.0.iter().flat_map(|permissions| permissions.blocks.keys())
    }
}

/// How a pod is held to the policies that select it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) table: Table,
    pub(super) mode: Mode,
    pub(super) on_deny: OnDeny,
    /// A gateway of one of the policies that count.
    pub(super) gateway: bool,
}

impl Held {
    /// `None`: no policy selects it.
    pub(super) fn of(
        policies: &Policies<'_>,
        selecting: &[Selecting<'_>],
        pod: &Pod,
    ) -> Result<Option<Self>, UnknownNamespace> {
        let Some(mode) = mode(selecting) else {
            return Ok(None);
        };
        let mut held = Self {
            table: Table::default(),
            mode,
            on_deny: OnDeny::Reject,
            gateway: false,
        };
        for selecting in selecting.iter().filter(|selecting| selecting.policy.mode == mode) {
            held.table.0.insert(Permissions::of(policies, selecting, pod)?);
            held.gateway |= selecting.role == Role::Gateway;
            // Silence is what cannot be taken back.
            if selecting.policy.on_deny == OnDeny::Drop {
                held.on_deny = OnDeny::Drop;
            }
        }
        Ok(Some(held))
    }
}

/// The mode of the policies that count: where one enforces, those that audit do not, as what they alone refuse
/// must not be dropped.
pub(super) fn mode(selecting: &[Selecting<'_>]) -> Option<Mode> {
    let enforced = selecting
        .iter()
        .any(|selecting| selecting.policy.mode == Mode::Enforce);
    match (selecting.is_empty(), enforced) {
        (true, _) => None,
        (false, true) => Some(Mode::Enforce),
        (false, false) => Some(Mode::Audit),
    }
}
