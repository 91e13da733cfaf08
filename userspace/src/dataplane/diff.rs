//! What has to change in one bank: pure.

use std::{cmp::Ordering, collections::BTreeMap, net::Ipv4Addr};

use ebpf::{
    Addr,
    capture::{Capture, Scope},
    rules::{Endpoint, GroupSet, Identity},
};
use ipnet::{IpNet, Ipv4Net};

use crate::{
    desired::{Desired, Rule},
    facts::NetnsCookie,
};

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change<K, V> {
    /// Write this, whether it is there or not.
    Put(K, V),
    /// Take this away.
    Remove(K),
}

/// Every step from one set of rules to another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) endpoints: Vec<Change<Identity, Endpoint>>,
    pub(super) destinations: Vec<Change<IpNet, GroupSet>>,
    pub(super) rules: Vec<Change<Rule, ()>>,
    pub(super) captures: Vec<Change<NetnsCookie, Capture>>,
    pub(super) owners: Vec<Change<Addr, NetnsCookie>>,
    pub(super) ranges: Vec<Change<(NetnsCookie, IpNet), Scope>>,
    pub(super) ports: Vec<Change<(NetnsCookie, u16), Scope>>,
}

impl Changes {
    pub(super) fn between(held: &Desired, wanted: &Desired) -> Self {
        // The rest of a set of rules is its header, which is written as a whole.
        let Desired {
            enforcement: _,
            cgroup_levels: _,
            kubelet: _,
            node_port: _,
            endpoints,
            destinations: _,
            rules,
            captures,
            owners,
            ranges,
            ports,
        } = wanted;
        Self {
            endpoints: merge(entries(&held.endpoints), entries(endpoints)),
            destinations: merge(entries(&held.destinations), destinations(wanted)),
            rules: merge(
                held.rules.iter().map(|&rule| (rule, ())),
                rules.iter().map(|&rule| (rule, ())),
            ),
            captures: merge(entries(&held.captures), entries(captures)),
            owners: merge(entries(&held.owners), entries(owners)),
            ranges: merge(entries(&held.ranges), entries(ranges)),
            ports: merge(entries(&held.ports), entries(ports)),
        }
    }

    /// How many steps there are.
    pub(super) fn len(&self) -> usize {
        let Self {
            endpoints,
            destinations,
            rules,
            captures,
            owners,
            ranges,
            ports,
        } = self;
        let captured = captures.len() + owners.len() + ranges.len() + ports.len();
        endpoints.len() + destinations.len() + rules.len() + captured
    }
}

/// The prefix that is in every bank even when nobody wants it, in no group.
///
/// Addresses of both families are in one trie, IPv4 in its mapped form; without this an IPv4 address that nothing
/// covers would be found under `::/0`.
fn all_of_v4() -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0))
}

/// The destinations, with [`all_of_v4`] among them, which is the first in their order.
fn destinations(desired: &Desired) -> impl Iterator<Item = (IpNet, GroupSet)> {
    let first = (!desired.destinations.contains_key(&all_of_v4())).then(|| (all_of_v4(), GroupSet::EXTERNAL));
    first.into_iter().chain(
        desired
            .destinations
            .iter()
            .map(|(&prefix, &groups)| (prefix, groups)),
    )
}

fn entries<K: Copy, V: Copy>(map: &BTreeMap<K, V>) -> impl Iterator<Item = (K, V)> {
    map.iter().map(|(&key, &value)| (key, value))
}

/// Walks along both. Removals come first: they make room.
fn merge<K: Ord + Copy, V: PartialEq + Copy>(
    held: impl Iterator<Item = (K, V)>,
    wanted: impl Iterator<Item = (K, V)>,
) -> Vec<Change<K, V>> {
    let (mut held, mut wanted) = (held.peekable(), wanted.peekable());
    let (mut removals, mut puts) = (Vec::new(), Vec::new());
    loop {
        let order = match (held.peek(), wanted.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((held, _)), Some((wanted, _))) => held.cmp(wanted),
        };
        let old = if order.is_le() { held.next() } else { None };
        let new = if order.is_ge() { wanted.next() } else { None };
        match (old, new) {
            (Some((key, _)), None) => removals.push(Change::Remove(key)),
            (Some((_, old)), Some((key, new))) if old != new => puts.push(Change::Put(key, new)),
            (None, Some((key, new))) => puts.push(Change::Put(key, new)),
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
    removals.append(&mut puts);
    removals
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn apply(mut map: BTreeMap<u8, u8>, changes: &[Change<u8, u8>]) -> BTreeMap<u8, u8> {
        for change in changes {
            match *change {
                Change::Put(key, value) => drop(map.insert(key, value)),
                Change::Remove(key) => drop(map.remove(&key).expect("only what is there is removed")),
            }
        }
        map
    }

    proptest! {
        #[test]
        fn the_steps_lead_there_and_none_is_idle(held: BTreeMap<u8, u8>, wanted: BTreeMap<u8, u8>) {
            let changes = merge(entries(&held), entries(&wanted));
            let differing = held.iter().filter(|(key, value)| wanted.get(key) != Some(value)).count()
                + wanted.keys().filter(|key| !held.contains_key(key)).count();
            prop_assert_eq!(changes.len(), differing);
            prop_assert!(changes.is_sorted_by_key(|change| matches!(change, Change::Put(..))));
            prop_assert_eq!(apply(held, &changes), wanted);
        }
    }

    #[test]
    fn all_of_v4_is_first_and_stays() {
        let v6: IpNet = "::/0".parse().expect("a prefix");
        let wanted = Desired {
            destinations: [(v6, GroupSet::numbered(1))].into(),
            ..Desired::default()
        };
        let changes = Changes::between(&Desired::default(), &wanted).destinations;
        let guard = Change::Put(all_of_v4(), GroupSet::EXTERNAL);
        assert_eq!(changes, [guard, Change::Put(v6, GroupSet::numbered(1))]);

        let held = Desired {
            destinations: destinations(&wanted).collect(),
            ..Desired::default()
        };
        assert_eq!(Changes::between(&held, &wanted).len(), 0);
        assert_eq!(
            Changes::between(&held, &Desired::default()).destinations,
            [Change::Remove(v6)]
        );
        assert!(destinations(&wanted).is_sorted());
    }
}
