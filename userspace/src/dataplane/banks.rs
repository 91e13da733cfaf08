//! The two banks of rules, and how a change becomes one step.

use std::time::Instant;

use aya::{
    Pod,
    maps::{MapError, lpm_trie::Key},
};
use bytemuck::Zeroable as _;
use ebpf::{
    Addr,
    packet::Protocol,
    rules::{
        Bank, DestinationKey, Endpoint, EndpointKey, GroupSet, Header, Identity, RuleKey, capacity,
        device_slot,
    },
};
use ipnet::IpNet;

use super::{
    Applied, Error, Generation,
    diff::{Change, Changes},
    error::raw_os_error,
    maps::RuleMaps,
};
use crate::{
    desired::{Desired, Ports, Rule},
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
        let header = Header::new(generation, desired.enforcement, desired.cgroup_levels);
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
        // Each step is noted as it is done, so that after a failure it is known what the bank holds.
        let written = write_changes(&mut self.maps, bank, &changes, &mut held);
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
        } = &mut self.maps;
        for slot in device_slot::all(bank) {
            let nobody = Shared(Endpoint::zeroed());
            devices
                .set(slot, nobody, 0)
                .map_err(|source| Error::map("DEVICES", source))?;
        }
        for key in keys(
            endpoints.keys(),
            bank,
            |key: &Shared<EndpointKey>| key.0,
            "ENDPOINTS",
        )? {
            absent_is_fine(endpoints.remove(&key)).map_err(|source| Error::map("ENDPOINTS", source))?;
        }
        for key in keys(hosts.keys(), bank, |key: &Shared<DestinationKey>| key.0, "HOSTS")? {
            absent_is_fine(hosts.remove(&key)).map_err(|source| Error::map("HOSTS", source))?;
        }
        for key in keys(
            networks.keys(),
            bank,
            |key: &Key<Shared<DestinationKey>>| key.data().0,
            "NETWORKS",
        )? {
            absent_is_fine(networks.remove(&key)).map_err(|source| Error::map("NETWORKS", source))?;
        }
        for key in keys(
            rules.keys(),
            bank,
            |key: &Key<Shared<RuleKey>>| key.data().0,
            "RULES",
        )? {
            absent_is_fine(rules.remove(&key)).map_err(|source| Error::map("RULES", source))?;
        }
        Ok(())
    }
}

/// Whether it is known that nothing has to be done.
fn is_none(changes: Option<&Changes>) -> bool {
    changes.is_some_and(|changes| changes.len() == 0)
}

/// The keys of one bank. Every key begins with its bank.
fn keys<K: Pod, T: bytemuck::Pod>(
    keys: impl Iterator<Item = Result<K, MapError>>,
    bank: Bank,
    shared: impl Fn(&K) -> T,
    map: &'static str,
) -> Result<Vec<K>, Error> {
    let prefix = bytemuck::bytes_of(&bank);
    keys.filter(|key| match key {
        Ok(key) => bytemuck::bytes_of(&shared(key)).starts_with(prefix),
        Err(_) => true,
    })
    .collect::<Result<_, _>>()
    .map_err(|source| Error::map(map, source))
}

fn absent_is_fine(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(error) if raw_os_error(&error) == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn write_changes(
    maps: &mut RuleMaps,
    bank: Bank,
    changes: &Changes,
    held: &mut Desired,
) -> Result<(), Error> {
    let Changes {
        endpoints,
        destinations,
        rules,
    } = changes;
    for change in endpoints {
        write_endpoint(maps, bank, *change)?;
        match *change {
            Change::Put(identity, endpoint) => drop(held.endpoints.insert(identity, endpoint)),
            Change::Remove(identity) => drop(held.endpoints.remove(&identity)),
        }
    }
    for change in destinations {
        write_destination(maps, bank, *change)?;
        match *change {
            Change::Put(prefix, groups) => drop(held.destinations.insert(prefix, groups)),
            Change::Remove(prefix) => drop(held.destinations.remove(&prefix)),
        }
    }
    for change in rules {
        write_rule(maps, bank, *change)?;
        match *change {
            Change::Put(rule, ()) => drop(held.rules.insert(rule)),
            Change::Remove(rule) => drop(held.rules.remove(&rule)),
        }
    }
    Ok(())
}

/// Puts an endpoint into its device's place. If another device had that, the hash still has both.
fn write_device(maps: &mut RuleMaps, bank: Bank, change: Change<Identity, Endpoint>) -> Result<(), MapError> {
    let (Change::Put(Identity::Device(device), _) | Change::Remove(Identity::Device(device))) = change else {
        return Ok(());
    };
    let slot = device_slot::of(bank, device);
    match change {
        Change::Put(_, endpoint) => maps.devices.set(slot, Shared(endpoint), 0),
        Change::Remove(_) if maps.devices.get(&slot, 0)?.0.device() == device => {
            maps.devices.set(slot, Shared(Endpoint::zeroed()), 0)
        }
        Change::Remove(_) => Ok(()),
    }
}

fn write_endpoint(maps: &mut RuleMaps, bank: Bank, change: Change<Identity, Endpoint>) -> Result<(), Error> {
    write_device(maps, bank, change).map_err(|source| Error::map("DEVICES", source))?;
    let key = |identity| Shared(EndpointKey::new(bank, identity));
    match change {
        Change::Put(identity, endpoint) => maps.endpoints.insert(key(identity), Shared(endpoint), 0),
        Change::Remove(identity) => absent_is_fine(maps.endpoints.remove(&key(identity))),
    }
    .map_err(|source| Error::writing("ENDPOINTS", capacity::ENDPOINTS, source))
}

/// Single addresses have a table of their own: it is faster than any trie.
fn write_destination(maps: &mut RuleMaps, bank: Bank, change: Change<IpNet, GroupSet>) -> Result<(), Error> {
    let prefix = match change {
        Change::Put(prefix, _) | Change::Remove(prefix) => prefix,
    };
    let key = Shared(DestinationKey::new(bank, Addr::from(prefix.network())));
    if prefix.prefix_len() == prefix.max_prefix_len() {
        return match change {
            Change::Put(_, groups) => maps.hosts.insert(key, Shared(groups), 0),
            Change::Remove(_) => absent_is_fine(maps.hosts.remove(&key)),
        }
        .map_err(|source| Error::writing("HOSTS", capacity::HOSTS, source));
    }
    let key = Key::new(prefix_bits(prefix), key);
    match change {
        Change::Put(_, groups) => maps.networks.insert(&key, Shared(groups), 0),
        Change::Remove(_) => absent_is_fine(maps.networks.remove(&key)),
    }
    .map_err(|source| Error::writing("NETWORKS", capacity::NETWORKS, source))
}

/// How many bits of the key count: the bank, and for IPv4 the 96 bits before its address.
fn prefix_bits(prefix: IpNet) -> u32 {
    let before = match prefix {
        IpNet::V4(_) => 96,
        IpNet::V6(_) => 0,
    };
    DestinationKey::BANK_BITS + before + u32::from(prefix.prefix_len())
}

fn write_rule(maps: &mut RuleMaps, bank: Bank, change: Change<Rule, ()>) -> Result<(), Error> {
    let key = |rule| {
        let (bits, key) = rule_key(bank, rule);
        Key::new(bits, Shared(key))
    };
    match change {
        Change::Put(rule, ()) => maps.rules.insert(&key(rule), 1, 0),
        Change::Remove(rule) => absent_is_fine(maps.rules.remove(&key(rule))),
    }
    .map_err(|source| Error::writing("RULES", capacity::RULES, source))
}

fn rule_key(
    bank: Bank,
    Rule {
        policy,
        groups,
        ports,
    }: Rule,
) -> (u32, RuleKey) {
    let (bits, protocol, port) = match ports {
        Ports::Any => (RuleKey::ANY_PROTOCOL_BITS, 0, 0),
        Ports::Protocol(protocol) => (RuleKey::ANY_PORT_BITS, protocol, 0),
        Ports::Range { protocol, port, bits } => (RuleKey::ANY_PORT_BITS + u32::from(bits), protocol, port),
    };
    (bits, RuleKey::new(bank, policy, groups, Protocol(protocol), port))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_count_the_bank_and_the_mapped_form() {
        let bits = |text: &str| prefix_bits(text.parse().expect("a prefix"));
        assert_eq!(bits("0.0.0.0/0"), 128);
        assert_eq!(bits("10.0.0.0/8"), 136);
        assert_eq!(bits("::/0"), 32);
        assert_eq!(bits("2001:db8::/32"), 64);
    }

    #[test]
    fn rules_leave_out_what_they_do_not_care_for() {
        let bits = |ports| {
            let rule = Rule {
                policy: ebpf::rules::PolicyId(1),
                groups: GroupSet::numbered(2),
                ports,
            };
            rule_key(Bank::ALL[0], rule).0
        };
        assert_eq!(bits(Ports::Any), 96);
        assert_eq!(bits(Ports::Protocol(1)), 112);
        assert_eq!(bits(Ports::single(Protocol::TCP, 443)), 128);
        assert_eq!(
            bits(Ports::Range {
                protocol: 6,
                port: 1024,
                bits: 6
            }),
            118
        );
    }
}
