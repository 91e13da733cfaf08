//! What ServiceEntries let gateways reach.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::{Input, RegistryEntry, RegistryState, ports::PortSet};
use crate::{
    names::Names,
    objects::{
        EndpointAddress, EntryEndpoint, EntryPort, Host, Resolution, ServiceEntry, Stored, host_net, parse_ip,
    },
    source::Stores,
};

/// Destinations and the ports with which a gateway may reach them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Declared {
    pub(super) ports: PortSet,
    pub(super) prefixes: Vec<IpNet>,
}

/// The names whose addresses must be known.
pub fn wanted_names(stores: &Stores) -> BTreeSet<Host> {
    stores
        .service_entries
        .values()
        .flat_map(|entry| names_of(entry))
        .cloned()
        .collect()
}

/// Every ServiceEntry, with what it permits. Made when it is asked for, as there may be very many.
pub fn registry(input: &Input<'_>) -> Vec<RegistryEntry> {
    let entry = |entry: &Stored<ServiceEntry>| {
        let mut addresses = BTreeSet::new();
        let mut ports = PortSet::default();
        for declared in declared(entry, input.names) {
            addresses.extend(declared.prefixes);
            ports.union(&declared.ports);
        }
        RegistryEntry {
            service_entry: entry.name.clone(),
            hosts: entry.hosts.clone(),
            addresses: addresses.into_iter().collect(),
            ports: ports.words(),
            state: state(entry, input.names),
            origin: entry.origin.clone(),
        }
    };
    input
        .stores
        .service_entries
        .values()
        .map(|stored| entry(stored))
        .collect()
}

/// The names that an entry needs resolved.
pub(super) fn names_of(entry: &ServiceEntry) -> impl Iterator<Item = &Host> {
    let dns = entry.resolution.is_dns() && !entry.ports.is_empty();
    let hosts = (dns && entry.endpoints.is_empty() && !entry.selects_workloads).then_some(&entry.hosts);
    let endpoints = dns.then_some(&entry.endpoints).into_iter().flatten();
    let named = endpoints.filter_map(|endpoint| match &endpoint.address {
        EndpointAddress::Host(host) => Some(host),
        EndpointAddress::Ip(_) => None,
    });
    hosts
        .into_iter()
        .flatten()
        .chain(named)
        .filter(|host| !host.is_wildcard() && parse_ip(host.as_str()).is_none())
}

/// What an entry permits to gateways. Only destinations that a proxy dials: the addresses that stand for a name
/// among clients, those that istiod allocates among them, are none.
pub(super) fn declared(entry: &ServiceEntry, names: &Names) -> Vec<Declared> {
    let mut declared: BTreeMap<PortSet, Vec<IpNet>> = BTreeMap::new();
    let mut add = |ports: PortSet, prefixes: &mut dyn Iterator<Item = IpNet>| {
        if !ports.is_empty() {
            declared.entry(ports).or_default().extend(prefixes);
        }
    };
    let ports = || PortSet::of_entry(dialled(entry, None).iter());
    match (entry.resolution, entry.endpoints.is_empty()) {
        // Its endpoints are workloads of the cluster, to which nobody needs a permission.
        (Resolution::Static, true) if entry.selects_workloads => {}
        (Resolution::None, _) | (Resolution::Static, true) => {
            add(ports(), &mut entry.addresses.iter().copied());
        }
        (Resolution::Dns | Resolution::DnsRoundRobin | Resolution::DynamicDns, true) => {
            let hosts = entry.hosts.iter().filter(|_| !entry.selects_workloads);
            let addresses = hosts.flat_map(|host| addresses_of(host, names));
            add(ports(), &mut addresses.map(host_net));
        }
        (resolution, false) => {
            for endpoint in &entry.endpoints {
                let ports = PortSet::of_entry(dialled(entry, Some(endpoint)).iter());
                match &endpoint.address {
                    EndpointAddress::Ip(address) => add(ports, &mut std::iter::once(host_net(*address))),
                    EndpointAddress::Host(host) if resolution.is_dns() => {
                        add(ports, &mut addresses_of(host, names).map(host_net));
                    }
                    EndpointAddress::Host(_) => {}
                }
            }
        }
    }
    let declared = declared
        .into_iter()
        .map(|(ports, prefixes)| Declared { ports, prefixes });
    declared
        .filter(|declared| !declared.prefixes.is_empty())
        .collect()
}

/// Every prefix that an entry is about: what a proxy dials, and what stands for its names among clients.
pub fn prefixes(entry: &ServiceEntry, names: &Names) -> impl Iterator<Item = IpNet> {
    let dialled = declared(entry, names)
        .into_iter()
        .flat_map(|declared| declared.prefixes);
    dialled.chain(entry.addresses.iter().copied())
}

/// The ports that a proxy dials at an endpoint, which may have its own.
fn dialled(entry: &ServiceEntry, endpoint: Option<&EntryEndpoint>) -> Vec<EntryPort> {
    let dialled = entry.ports.iter().map(|port| {
        let own = endpoint.and_then(|endpoint| endpoint.ports.get(&port.name));
        EntryPort {
            target: own.copied().unwrap_or(port.target),
            ..port.clone()
        }
    });
    dialled.filter(|port| port.target > 0).collect()
}

/// The addresses of a name, which may be one itself.
fn addresses_of<'a>(host: &Host, names: &'a Names) -> impl Iterator<Item = IpAddr> + 'a {
    let literal = parse_ip(host.as_str());
    literal
        .into_iter()
        .chain(names.addresses(host).filter(|address| may_be_answered(*address)))
}

/// Whoever owns a name says what its addresses are. What is valid on one link or one host only, as the address of
/// a cloud's metadata service is, can be declared in an entry, but no answer of a name server opens it.
fn may_be_answered(address: IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        // The metadata service of AWS has its IPv6 address in fd00:ec2::/32.
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.segments()[..2] == [0xfd00, 0x0ec2],
    };
    !(link_local || address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

/// How things stand with an entry.
pub(super) fn state(entry: &ServiceEntry, names: &Names) -> RegistryState {
    if entry.ports.is_empty() {
        return RegistryState::NoPorts;
    }
    if entry.selects_workloads {
        return RegistryState::Workloads;
    }
    if declared(entry, names).is_empty() {
        return match names_of(entry).next() {
            Some(_) => RegistryState::Unresolved,
            None if entry.resolution.is_dns() && entry.hosts.iter().any(Host::is_wildcard) => {
                RegistryState::Wildcard
            }
            None => RegistryState::NoAddresses,
        };
    }
    let missing = |host: &Host| addresses_of(host, names).next().is_none();
    if names_of(entry).any(missing) {
        RegistryState::PartlyResolved
    } else {
        RegistryState::Ready
    }
}
