//! The two banks of rules, and how a change becomes one step.

use std::time::Instant;

use aya::{
    Pod,
    maps::{MapError, lpm_trie::Key},
};
use bytemuck::Zeroable as _;
use ebpf::rules::{Bank, Endpoint, Enforcement, Header, device_slot};

use super::{
    Applied, Error, Generation,
    diff::Changes,
    entries,
    error::raw_os_error,
    maps::{Hash, RuleMaps, Trie},
};
use crate::{
    desired::Desired,
    sys::{Shared, wait_for_readers},
};

/// The banks, and what is known of them.
pub(super) struct Banks {
    pub(super) maps: RuleMaps,
    active: Bank,
    header: Header,
    /// What each bank holds, as far as that is known: the rules of another agent are not.
    held: [Option<Desired>; 2],
    /// Both banks hold the same.
    settled: bool,
    /// The inactive bank was active a moment ago, and a program may still be reading it.
    readers: bool,
}

impl Banks {
    /// Takes over what is there.
    pub(super) fn open(maps: RuleMaps) -> Result<Self, Error> {
        let (active, header) = maps.active()?;
        Ok(Self {
            maps,
            active,
            header,
            held: [None, None],
            settled: false,
            readers: true,
        })
    }

    pub(super) fn generation(&self) -> Generation {
        Generation(self.header.generation())
    }

    pub(super) fn enforcement(&self) -> Enforcement {
        self.header.enforcement()
    }

    /// What is known to be in the banks.
    pub(super) fn held(&self) -> impl Iterator<Item = &Desired> {
        self.held.iter().flatten()
    }

    /// Writes what differs into the inactive bank and switches. `None` if nothing differs.
    pub(super) fn apply(&mut self, desired: &Desired) -> Result<Option<Applied>, Error> {
        let started = Instant::now();
        let bank = self.active.other();
        let changes = self.changes(bank, desired);
        // A comparison takes a while, and when both banks hold the same, one is enough.
        let same_rules = if self.settled {
            is_none(changes.as_ref())
        } else {
            is_none(self.changes(self.active, desired).as_ref())
        };
        if same_rules && self.has_header_of(desired) {
            return Ok(None);
        }
        let written = self.write(bank, changes, desired)?;
        self.wait();
        let generation = self.header.generation() + 1;
        let header = Header::new(
            generation,
            desired.enforcement,
            desired.cgroup_levels,
            desired.kubelet,
        )
        .with_node_proxy(desired.node_port);
        let maps = &mut self.maps;
        let set = maps.headers.set(bank.index(), Shared(header), 0);
        set.map_err(|source| Error::map("HEADERS", source))?;
        let set = maps.active.set(0, Shared(bank), 0);
        set.map_err(|source| Error::map("ACTIVE", source))?;
        (self.active, self.header, self.readers) = (bank, header, true);
        let duration = started.elapsed();
        Ok(Some(Applied {
            generation: self.generation(),
            changes: written,
            duration,
        }))
    }

    /// Brings the inactive bank to what the active one holds, so that the next change is small.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        let place = self.active.index() as usize;
        if self.settled {
            return Ok(());
        }
        let Some(desired) = self.held[place].take() else {
            return Ok(());
        };
        let bank = self.active.other();
        let changes = self.changes(bank, &desired);
        let written = self.write(bank, changes, &desired);
        self.held[place] = Some(desired);
        self.settled = written.is_ok();
        written.map(drop)
    }

    fn has_header_of(&self, desired: &Desired) -> bool {
        self.header.enforcement() == desired.enforcement
            && self.header.cgroup_levels() == desired.cgroup_levels
            && self.header.kubelet() == desired.kubelet
            && self.header.node_port() == desired.node_port
    }

    /// What leads from what is in `bank` to `desired`; `None` if it is not known what is in it.
    fn changes(&self, bank: Bank, desired: &Desired) -> Option<Changes> {
        let held = self.held[bank.index() as usize].as_ref()?;
        Some(Changes::between(held, desired))
    }

    /// Waits until nobody reads the inactive bank.
    fn wait(&mut self) {
        if self.readers {
            wait_for_readers();
            self.readers = false;
        }
    }

    /// Makes `changes` in `bank`, which is inactive. Returns the number of entries that were written or removed.
    fn write(&mut self, bank: Bank, changes: Option<Changes>, desired: &Desired) -> Result<usize, Error> {
        if is_none(changes.as_ref()) {
            return Ok(0);
        }
        self.wait();
        self.settled = false;
        let place = bank.index() as usize;
        let (mut held, changes) = if let (Some(held), Some(changes)) = (self.held[place].take(), changes) {
            (held, changes)
        } else {
            self.empty(bank)?;
            let nothing = Desired::default();
            let changes = Changes::between(&nothing, desired);
            (nothing, changes)
        };
        let written = entries::write(&mut self.maps, bank, &changes, &mut held);
        self.held[place] = Some(held);
        written.map(|()| changes.len())
    }

    /// Takes everything out of a bank.
    fn empty(&mut self, bank: Bank) -> Result<(), Error> {
        let RuleMaps {
            active: _,
            headers: _,
            devices,
            endpoints,
            hosts,
            networks,
            rules,
            captures,
            owners,
            ranges,
            ports,
        } = &mut self.maps;
        for slot in device_slot::all(bank) {
            let nobody = Shared(Endpoint::zeroed());
            devices
                .set(slot, nobody, 0)
                .map_err(|source| Error::map("DEVICES", source))?;
        }
        empty_hash(endpoints, bank, "ENDPOINTS")?;
        empty_hash(hosts, bank, "HOSTS")?;
        empty_trie(networks, bank, "NETWORKS")?;
        empty_trie(rules, bank, "RULES")?;
        empty_hash(captures, bank, "CAPTURES")?;
        empty_hash(owners, bank, "OWNERS")?;
        empty_trie(ranges, bank, "RANGES")?;
        empty_hash(ports, bank, "PORTS")?;
        Ok(())
    }
}

/// Whether it is known that nothing has to be done.
fn is_none(changes: Option<&Changes>) -> bool {
    changes.is_some_and(|changes| changes.len() == 0)
}

fn empty_hash<K: bytemuck::Pod, V: bytemuck::Pod>(
    map: &mut Hash<K, V>,
    bank: Bank,
    name: &'static str,
) -> Result<(), Error> {
    let keys = keys(map.keys(), bank, |Shared(key)| *key);
    for key in keys.map_err(|source| Error::map(name, source))? {
        absent_is_fine(map.remove(&key)).map_err(|source| Error::map(name, source))?;
    }
    Ok(())
}

fn empty_trie<K: bytemuck::Pod, V: Pod>(
    map: &mut Trie<K, V>,
    bank: Bank,
    name: &'static str,
) -> Result<(), Error> {
    let keys = keys(map.keys(), bank, |key: &Key<Shared<K>>| key.data().0);
    for key in keys.map_err(|source| Error::map(name, source))? {
        absent_is_fine(map.remove(&key)).map_err(|source| Error::map(name, source))?;
    }
    Ok(())
}

/// The keys of one bank. Every key begins with its bank.
fn keys<K: Pod, T: bytemuck::Pod>(
    keys: impl Iterator<Item = Result<K, MapError>>,
    bank: Bank,
    shared: impl Fn(&K) -> T,
) -> Result<Vec<K>, MapError> {
    let prefix = bytemuck::bytes_of(&bank);
    keys.filter(|key| match key {
        Ok(key) => bytemuck::bytes_of(&shared(key)).starts_with(prefix),
        Err(_) => true,
    })
    .collect()
}

/// What shall be taken away may have gone.
pub(super) fn absent_is_fine(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(error) if raw_os_error(&error) == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

/// How many destinations are single addresses, and how many are not.
pub(super) fn count_destinations(desired: &Desired) -> (usize, usize) {
    let hosts = desired
        .destinations
        .keys()
        .filter(|prefix| prefix.prefix_len() == prefix.max_prefix_len())
        .count();
    (hosts, desired.destinations.len() - hosts)
}
