//! Which address groups cover which prefix.
//!
//! A group is what a rule can be about: the destinations that ServiceEntries of the same ports declare, or one
//! block of an exception. Prefixes are sorted so that each comes behind those that cover it; one walk with a
//! stack of the covering prefixes then gives every prefix its set.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
};

use ebpf::rules::GroupSet;
use ipnet::{IpNet, Ipv4Net};

use super::{numbers::Numbers, ports::PortSet};
use crate::objects::{Block, covers_mapped};

/// A set of destinations that rules treat alike: told by what it permits or contains, not by the object that it
/// comes from, so that a hundred thousand ServiceEntries of the same port are one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Group {
    /// What ServiceEntries declare, with these ports.
    Registry(PortSet),
    /// A block of an exception.
    Block(Block),
}

/// Number of a group within one projection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct GroupId(u32);

impl GroupId {
    /// The inside of the cluster, which wins over all others.
    const INTERNAL: Self = Self(0);
}

/// Prefixes and the groups that begin and end with them.
#[derive(Debug, Default)]
pub(super) struct Destinations {
    changes: Vec<(IpNet, Change, GroupId)>,
    groups: HashMap<Group, GroupId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    /// The prefix belongs to the group.
    Join,
    /// It does not, though a prefix around it does.
    Leave,
}

/// The result of the walk.
pub(super) struct Covered {
    /// For `Desired`: only those that differ from what covers them.
    pub(super) prefixes: BTreeMap<IpNet, GroupSet>,
    /// Every set of groups outside the cluster: that of no group, and all that were met.
    pub(super) sets: Vec<(GroupSet, Vec<Group>)>,
}

impl Destinations {
    /// A prefix inside the cluster.
    pub(super) fn internal(&mut self, prefix: IpNet) {
        self.changes
            .push((prefix.trunc(), Change::Join, GroupId::INTERNAL));
    }

    /// Prefixes that a ServiceEntry declares for these ports.
    pub(super) fn registry(&mut self, ports: PortSet, prefixes: impl IntoIterator<Item = IpNet>) {
        let group = self.group(Group::Registry(ports));
        self.changes.extend(
            prefixes
                .into_iter()
                .map(|prefix| (prefix.trunc(), Change::Join, group)),
        );
    }

    /// A block of an exception.
    pub(super) fn block(&mut self, block: &Block) {
        let group = Group::Block(block.clone());
        if self.groups.contains_key(&group) {
            return;
        }
        let group = self.group(group);
        self.changes.push((block.cidr, Change::Join, group));
        self.changes
            .extend(block.except.iter().map(|hole| (*hole, Change::Leave, group)));
    }

    fn group(&mut self, group: Group) -> GroupId {
        let next = GroupId(u32::try_from(self.groups.len() + 1).unwrap_or(u32::MAX));
        *self.groups.entry(group).or_insert(next)
    }

    /// The set of every prefix.
    pub(super) fn cover(self) -> Covered {
        let Self { mut changes, groups } = self;
        changes.sort_unstable();
        changes.dedup();
        let mut sets = Sets::new(groups);
        let mut prefixes = BTreeMap::new();
        let mut around: Vec<(IpNet, SetIndex)> = Vec::new();
        for run in changes.chunk_by(|(a, ..), (b, ..)| a == b) {
            let Some((prefix, ..)) = run.first() else { continue };
            while around.last().is_some_and(|(outer, _)| !outer.contains(prefix)) {
                around.pop();
            }
            let outer = around.last().map_or(SetIndex::EMPTY, |(_, set)| *set);
            let set = sets.changed(outer, run);
            if set != outer {
                prefixes.insert(*prefix, sets.number(set));
            }
            around.push((*prefix, set));
        }
        separate_ipv4(&mut prefixes);
        Covered {
            prefixes,
            sets: sets.finish(),
        }
    }
}

/// The programs keep IPv4 addresses in their IPv4-mapped form, so that `::/0` would cover them, too; a prefix of
/// IPv6 says nothing on IPv4.
fn separate_ipv4(prefixes: &mut BTreeMap<IpNet, GroupSet>) {
    if prefixes.keys().any(covers_mapped) {
        let all = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));
        prefixes.entry(all).or_insert(GroupSet::EXTERNAL);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SetIndex(usize);

impl SetIndex {
    const EMPTY: Self = Self(0);
    const INTERNAL: Self = Self(1);
}

/// The sets of groups, each once.
struct Sets {
    groups: Vec<Group>,
    members: Vec<(GroupSet, BTreeSet<GroupId>)>,
    indices: HashMap<BTreeSet<GroupId>, SetIndex>,
    numbers: Numbers,
}

impl Sets {
    fn new(groups: HashMap<Group, GroupId>) -> Self {
        let mut by_id: Vec<_> = groups.into_iter().collect();
        by_id.sort_unstable_by_key(|(_, id)| *id);
        Self {
            groups: by_id.into_iter().map(|(group, _)| group).collect(),
            members: vec![
                (GroupSet::EXTERNAL, BTreeSet::new()),
                (GroupSet::INTERNAL, BTreeSet::from([GroupId::INTERNAL])),
            ],
            indices: HashMap::from([(BTreeSet::new(), SetIndex::EMPTY)]),
            numbers: Numbers::default(),
        }
    }

    fn number(&self, SetIndex(index): SetIndex) -> GroupSet {
        self.members[index].0
    }

    /// What becomes of a set by the changes at one prefix.
    fn changed(&mut self, outer: SetIndex, changes: &[(IpNet, Change, GroupId)]) -> SetIndex {
        let internal = (Change::Join, GroupId::INTERNAL);
        if outer == SetIndex::INTERNAL
            || changes
                .iter()
                .any(|(_, change, group)| (*change, *group) == internal)
        {
            return SetIndex::INTERNAL;
        }
        let mut members = self.members[outer.0].1.clone();
        // Sorted: what leaves does so after it joined.
        for (_, change, group) in changes {
            match change {
                Change::Join => members.insert(*group),
                Change::Leave => members.remove(group),
            };
        }
        if let Some(index) = self.indices.get(&members) {
            return *index;
        }
        let content: BTreeSet<_> = members
            .iter()
            .map(|GroupId(id)| &self.groups[*id as usize - 1])
            .collect();
        let number = GroupSet::numbered(self.numbers.of(&content));
        let index = SetIndex(self.members.len());
        self.members.push((number, members.clone()));
        self.indices.insert(members, index);
        index
    }

    fn finish(self) -> Vec<(GroupSet, Vec<Group>)> {
        let Self { groups, members, .. } = self;
        let content = |members: BTreeSet<GroupId>| {
            members
                .into_iter()
                .map(|GroupId(id)| groups[id as usize - 1].clone())
                .collect()
        };
        let external = members.into_iter().filter(|(number, _)| !number.is_internal());
        external
            .map(|(number, members)| (number, content(members)))
            .collect()
    }
}
