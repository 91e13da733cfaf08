//! What destinations are called: by the objects that have them.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use super::pass::Agent;
use crate::{
    names::Names,
    objects::{EndpointSlice, Service, ServiceEntry, Stored, host_net},
    project::prefixes,
};

/// The objects that have destinations, as of one pass; shared, so that there is nothing to copy on the agent's loop.
#[derive(Clone, Debug)]
pub struct Objects {
    generation: u64,
    service_entries: Vec<Arc<Stored<ServiceEntry>>>,
    services: Vec<Arc<Stored<Service>>>,
    endpoint_slices: Vec<Arc<Stored<EndpointSlice>>>,
    names: Arc<Names>,
}

impl Agent {
    /// The objects that have destinations.
    pub(super) fn objects(&self) -> Objects {
        Objects {
            generation: self.dataplane.generation().0,
            service_entries: self.stores.service_entries.values().cloned().collect(),
            services: self.stores.services.values().cloned().collect(),
            endpoint_slices: self.stores.endpoint_slices.values().cloned().collect(),
            names: Arc::clone(&self.names),
        }
    }
}

/// Names by prefixes.
#[derive(Clone, Debug, Default)]
pub(super) struct Destinations {
    pub(super) generation: u64,
    by_prefix: HashMap<IpNet, Arc<str>>,
    /// Lengths of prefixes that there are, of IPv4 and IPv6.
    lengths: [BTreeSet<u8>; 2],
}

impl Destinations {
    /// Of all these objects. Takes a while where there are many.
    pub(super) fn of(objects: &Objects) -> Self {
        let mut destinations = Self {
            generation: objects.generation,
            ..Self::default()
        };
        for entry in &objects.service_entries {
            destinations.add(
                &format!("ServiceEntry {}", entry.name),
                prefixes(entry, &objects.names),
            );
        }
        for slice in &objects.endpoint_slices {
            if let Some(service) = &slice.service {
                let name = format!("Service {}/{service}", slice.name.namespace);
                destinations.add(&name, slice.addresses.iter().copied().map(host_net));
            }
        }
        for service in &objects.services {
            let addresses = service.cluster_ips.iter().chain(&service.external_ips);
            destinations.add(
                &format!("Service {}", service.name),
                addresses.copied().map(host_net),
            );
        }
        destinations
    }

    fn add(&mut self, name: &str, prefixes: impl Iterator<Item = IpNet>) {
        let name: Arc<str> = Arc::from(name);
        for prefix in prefixes {
            let prefix = prefix.trunc();
            self.lengths[family(&prefix.addr())].insert(prefix.prefix_len());
            self.by_prefix.insert(prefix, Arc::clone(&name));
        }
    }

    /// The object with the longest prefix that covers an address.
    pub(super) fn name(&self, address: IpAddr) -> Option<&str> {
        let lengths = self.lengths[family(&address)].iter().rev();
        let mut found = lengths.filter_map(|&length| {
            let prefix = IpNet::new(address, length).ok()?.trunc();
            self.by_prefix.get(&prefix)
        });
        found.next().map(AsRef::as_ref)
    }
}

const fn family(address: &IpAddr) -> usize {
    match address {
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_names_a_destination() {
        let mut destinations = Destinations::default();
        let net = |text: &str| text.parse::<IpNet>().expect("a prefix");
        destinations.add("wide", [net("203.0.113.0/24"), net("2001:db8::/32")].into_iter());
        destinations.add("narrow", [net("203.0.113.7/32")].into_iter());
        let name = |text: &str| destinations.name(text.parse().expect("an address"));
        assert_eq!(name("203.0.113.7"), Some("narrow"));
        assert_eq!(name("203.0.113.8"), Some("wide"));
        assert_eq!(name("2001:db8::7"), Some("wide"));
        assert_eq!(name("198.51.100.1"), None);
    }
}
