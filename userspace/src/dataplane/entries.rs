//! One entry of a bank, written or taken away.

use std::collections::BTreeMap;

use aya::maps::{MapError, lpm_trie::Key};
use bytemuck::Zeroable as _;
use ebpf::{
    Addr,
    capture::{Capture, CaptureKey, Owner, PortKey, RangeKey, Scope},
    packet::Protocol,
    rules::{
        Bank, DestinationKey, Endpoint, EndpointKey, GroupSet, Identity, RuleKey, capacity, device_slot,
    },
};
use ipnet::IpNet;

use super::{
    Error,
    banks::absent_is_fine,
    diff::{Change, Changes},
    maps::RuleMaps,
};
use crate::{
    desired::{Desired, Ports, Rule},
    facts::NetnsCookie,
    sys::Shared,
};

/// Makes the changes in a bank. Each is noted in `held` as it is made, so that after a failure it is known what the bank
/// holds.
pub(super) fn write(
    maps: &mut RuleMaps,
    bank: Bank,
    changes: &Changes,
    held: &mut Desired,
) -> Result<(), Error> {
    let Changes {
        endpoints,
        destinations,
        rules,
        captures,
        owners,
        ranges,
        ports,
    } = changes;
    for change in endpoints {
        write_endpoint(maps, bank, *change)?;
        note(&mut held.endpoints, *change);
    }
    for change in destinations {
        write_destination(maps, bank, *change)?;
        note(&mut held.destinations, *change);
    }
    for change in rules {
        write_rule(maps, bank, *change)?;
        match *change {
            Change::Put(rule, ()) => drop(held.rules.insert(rule)),
            Change::Remove(rule) => drop(held.rules.remove(&rule)),
        }
    }
    for change in captures {
        write_capture(maps, bank, *change)?;
        note(&mut held.captures, *change);
    }
    for change in owners {
        write_owner(maps, bank, *change)?;
        note(&mut held.owners, *change);
    }
    for change in ranges {
        write_range(maps, bank, *change)?;
        note(&mut held.ranges, *change);
    }
    for change in ports {
        write_port(maps, bank, *change)?;
        note(&mut held.ports, *change);
    }
    Ok(())
}

fn note<K: Ord, V>(held: &mut BTreeMap<K, V>, change: Change<K, V>) {
    match change {
        Change::Put(key, value) => drop(held.insert(key, value)),
        Change::Remove(key) => drop(held.remove(&key)),
    }
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

/// How many bits of the key count: the bank, and those of the address.
fn prefix_bits(prefix: IpNet) -> u32 {
    DestinationKey::BANK_BITS + addr_bits(prefix)
}

/// How many bits of the address count; for IPv4 with the 96 bits before it.
fn addr_bits(prefix: IpNet) -> u32 {
    let before = match prefix {
        IpNet::V4(_) => 96,
        IpNet::V6(_) => 0,
    };
    before + u32::from(prefix.prefix_len())
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

fn write_capture(maps: &mut RuleMaps, bank: Bank, change: Change<NetnsCookie, Capture>) -> Result<(), Error> {
    let key = |netns: NetnsCookie| Shared(CaptureKey::new(bank, netns.0));
    match change {
        Change::Put(netns, capture) => maps.captures.insert(key(netns), Shared(capture), 0),
        Change::Remove(netns) => absent_is_fine(maps.captures.remove(&key(netns))),
    }
    .map_err(|source| Error::writing("CAPTURES", capacity::CAPTURES, source))
}

fn write_owner(maps: &mut RuleMaps, bank: Bank, change: Change<Addr, NetnsCookie>) -> Result<(), Error> {
    let key = |addr| Shared(DestinationKey::new(bank, addr));
    match change {
        Change::Put(addr, netns) => maps.owners.insert(key(addr), Shared(Owner::new(netns.0)), 0),
        Change::Remove(addr) => absent_is_fine(maps.owners.remove(&key(addr))),
    }
    .map_err(|source| Error::writing("OWNERS", capacity::OWNERS, source))
}

fn write_range(
    maps: &mut RuleMaps,
    bank: Bank,
    change: Change<(NetnsCookie, IpNet), Scope>,
) -> Result<(), Error> {
    let key = |(netns, range): (NetnsCookie, IpNet)| {
        let key = RangeKey::new(bank, netns.0, Addr::from(range.network()));
        Key::new(RangeKey::BEFORE_BITS + addr_bits(range), Shared(key))
    };
    match change {
        Change::Put(range, scope) => maps.ranges.insert(&key(range), Shared(scope), 0),
        Change::Remove(range) => absent_is_fine(maps.ranges.remove(&key(range))),
    }
    .map_err(|source| Error::writing("RANGES", capacity::RANGES, source))
}

fn write_port(
    maps: &mut RuleMaps,
    bank: Bank,
    change: Change<(NetnsCookie, u16), Scope>,
) -> Result<(), Error> {
    let key = |(netns, port): (NetnsCookie, u16)| Shared(PortKey::new(bank, netns.0, port));
    match change {
        Change::Put(port, scope) => maps.ports.insert(key(port), Shared(scope), 0),
        Change::Remove(port) => absent_is_fine(maps.ports.remove(&key(port))),
    }
    .map_err(|source| Error::writing("PORTS", capacity::PORTS, source))
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
