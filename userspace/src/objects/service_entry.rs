//! ServiceEntry of Istio: what the registry knows outside the cluster.

use std::{collections::BTreeMap, net::IpAddr};

use ebpf::packet::Protocol;
use ipnet::IpNet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};

use super::{Host, Invalid, ObjectName, core::object_name, parse_ip, parse_net};

/// How a proxy finds the addresses of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Resolution {
    /// It does not: it sends to the address that the client asked for.
    #[default]
    None,
    /// By the entry's endpoints.
    Static,
    /// By asking for the endpoints' names, or the hosts'.
    Dns,
    /// The same, one address at a time.
    DnsRoundRobin,
    /// By asking for the name that the client sent.
    DynamicDns,
}

impl Resolution {
    /// Whether names have to be resolved.
    pub const fn is_dns(self) -> bool {
        match self {
            Self::None | Self::Static => false,
            Self::Dns | Self::DnsRoundRobin | Self::DynamicDns => true,
        }
    }
}

/// A port of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryPort {
    /// Its name, by which endpoints refer to it.
    pub name: String,
    /// TCP or UDP.
    pub transport: Protocol,
    /// The port that a proxy dials.
    pub target: u16,
}

/// Where an endpoint is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointAddress {
    /// At an address.
    Ip(IpAddr),
    /// At a name.
    Host(Host),
}

/// An endpoint of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryEndpoint {
    /// Where it is.
    pub address: EndpointAddress,
    /// Ports that are others here than in the entry, by name.
    pub ports: BTreeMap<String, u16>,
}

/// Destinations that the mesh knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceEntry {
    /// Its namespace and name.
    pub name: ObjectName,
    /// The names that it declares.
    pub hosts: Vec<Host>,
    /// The addresses that belong to them.
    pub addresses: Vec<IpNet>,
    /// The ports; none permits nothing.
    pub ports: Vec<EntryPort>,
    /// How a proxy finds the addresses.
    pub resolution: Resolution,
    /// Where a proxy sends to, if not to the hosts or the addresses.
    pub endpoints: Vec<EntryEndpoint>,
    /// Its endpoints are workloads of the cluster.
    pub selects_workloads: bool,
}

/// A ServiceEntry as it is written (`networking.istio.io/v1`, `v1beta1`, `v1alpha3`).
#[derive(Clone, Debug, Deserialize)]
pub struct ServiceEntryManifest {
    metadata: ObjectMeta,
    spec: Spec,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    hosts: Vec<String>,
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    ports: Vec<Port>,
    #[serde(default)]
    resolution: Resolution,
    #[serde(default)]
    endpoints: Vec<Endpoint>,
    workload_selector: Option<serde::de::IgnoredAny>,
}

#[expect(clippy::struct_field_names, reason = "the names are those of the manifest")]
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    number: u16,
    #[serde(default)]
    name: String,
    #[serde(default)]
    protocol: String,
    #[serde(default)]
    target_port: u16,
}

#[derive(Clone, Debug, Deserialize)]
struct Endpoint {
    #[serde(default)]
    address: String,
    #[serde(default)]
    ports: BTreeMap<String, u16>,
}

impl TryFrom<ServiceEntryManifest> for ServiceEntry {
    type Error = Invalid;

    fn try_from(manifest: ServiceEntryManifest) -> Result<Self, Invalid> {
        let Spec {
            hosts,
            addresses,
            ports,
            resolution,
            endpoints,
            workload_selector,
        } = manifest.spec;
        let address = |(index, text): (usize, String)| match parse_net(&text) {
            Some(net) => Ok(net.trunc()),
            None => Err(Invalid::value(
                format!("spec.addresses[{index}]"),
                text,
                "an IP address or a CIDR prefix",
            )),
        };
        Ok(Self {
            name: object_name(&manifest.metadata)?,
            hosts: hosts.iter().map(|host| Host::new(host)).collect(),
            addresses: addresses
                .into_iter()
                .enumerate()
                .map(address)
                .collect::<Result<_, _>>()?,
            ports: ports.into_iter().map(EntryPort::from).collect(),
            resolution,
            endpoints: endpoints.into_iter().filter_map(Endpoint::checked).collect(),
            selects_workloads: workload_selector.is_some(),
        })
    }
}

impl From<Port> for EntryPort {
    fn from(port: Port) -> Self {
        let Port {
            number,
            name,
            protocol,
            target_port,
        } = port;
        let transport = if protocol.eq_ignore_ascii_case("UDP") {
            Protocol::UDP
        } else {
            Protocol::TCP
        };
        Self {
            name,
            transport,
            target: if target_port == 0 { number } else { target_port },
        }
    }
}

impl Endpoint {
    /// `None` for what is no address on a network: a Unix socket, or nothing at all.
    fn checked(self) -> Option<EntryEndpoint> {
        let Self { address, ports } = self;
        if address.is_empty() || address.starts_with("unix://") {
            return None;
        }
        let address = parse_ip(&address)
            .map_or_else(|| EndpointAddress::Host(Host::new(&address)), EndpointAddress::Ip);
        Some(EntryEndpoint { address, ports })
    }
}
