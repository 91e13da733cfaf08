//! The core kinds: Node, Namespace, Pod, Service, EndpointSlice, ServiceCIDR.

use std::{net::IpAddr, path::PathBuf};

use ipnet::IpNet;
use k8s_openapi::{
    api::{core::v1 as api, discovery::v1 as discovery, networking::v1 as networking},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

use super::{
    Invalid, Labels, Mesh, ObjectName,
    mesh::SIDECAR,
    parse_ip, parse_net,
    words::{CGROUP_ANNOTATION, NETNS_ANNOTATION, PROXY_CGROUP_ANNOTATION},
};
use crate::{
    facts::PodName,
    node::{ContainerId, PodUid},
};

/// Annotation of the mirror of a static pod.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";
/// Label of an EndpointSlice: the Service that it belongs to.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const DEFAULT_NAMESPACE: &str = "default";
const DEFAULT_SERVICE_ACCOUNT: &str = "default";

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// The ranges from which its pods get their addresses.
    pub pod_cidrs: Vec<IpNet>,
    /// Its own addresses, `InternalIP` and `ExternalIP`.
    pub addresses: Vec<IpAddr>,
}

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace and name.
    pub name: PodName,
    /// Its `metadata.uid`; a manifest has none.
    pub uid: Option<String>,
    /// Its labels.
    pub labels: Labels,
    /// The node that it is bound to.
    pub node: Option<String>,
    /// Whether it shall use the node's network namespace.
    pub host_network: bool,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// `Succeeded` or `Failed`: it runs no more, and its addresses may be another's.
    pub finished: bool,
    /// Where its network namespace is ([`NETNS_ANNOTATION`]).
    pub netns: Option<PathBuf>,
    /// Where its cgroup is ([`CGROUP_ANNOTATION`]).
    pub cgroup: Option<PathBuf>,
    /// Where the cgroup of its proxy is ([`PROXY_CGROUP_ANNOTATION`]).
    pub proxy_cgroup: Option<PathBuf>,
    /// What the kubelet calls it, and its cgroup; a manifest has none.
    pub kubelet_uid: Option<PodUid>,
    /// The container of its sidecar, once that was started.
    pub sidecar_container: Option<ContainerId>,
    /// The name of its service account.
    pub service_account: String,
    /// What it is one of, as `Deployment web`, if something made it.
    pub workload: Option<String>,
    /// What of it is the mesh's.
    pub mesh: Mesh,
}

impl Pod {
    /// Whether it runs on this node. One that is bound to no node counts if it says where it is.
    pub fn is_local(&self, node: &str) -> bool {
        match &self.node {
            Some(name) => name == node,
            None => self.netns.is_some() || self.cgroup.is_some(),
        }
    }

    /// Whether the kubelet knows it by the name that it says. Whoever may create pods may create a mirror of somebody else's,
    /// though not make one of a pod that is there; but the kubelet alone writes a pod's status, and does so for its own.
    pub fn is_confirmed(&self) -> bool {
        let kubelet_uid = self.kubelet_uid.as_ref().map(ToString::to_string);
        kubelet_uid == self.uid || !self.addresses.is_empty()
    }
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its namespace and name.
    pub name: ObjectName,
    /// The addresses that it has inside the cluster.
    pub cluster_ips: Vec<IpAddr>,
    /// The addresses that it has outside: of load balancers, and external ones.
    pub external_ips: Vec<IpAddr>,
    /// Which pods it is in front of; `None` if its endpoints are not pods, or somebody else writes them.
    pub selector: Option<Labels>,
}

/// Some of the endpoints of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Its namespace and name.
    pub name: ObjectName,
    /// The name of the Service.
    pub service: Option<String>,
    /// The endpoints' addresses; host names are left out.
    pub addresses: Vec<IpAddr>,
}

/// Ranges from which Services get their addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCidr {
    /// Its name.
    pub name: String,
    /// The ranges.
    pub cidrs: Vec<IpNet>,
}

impl TryFrom<api::Node> for Node {
    type Error = Invalid;

    fn try_from(node: api::Node) -> Result<Self, Invalid> {
        let spec = node.spec.unwrap_or_default();
        let cidrs = spec
            .pod_cidrs
            .filter(|cidrs| !cidrs.is_empty())
            .or(spec.pod_cidr.map(|cidr| vec![cidr]));
        let addresses = node
            .status
            .and_then(|status| status.addresses)
            .unwrap_or_default();
        Ok(Self {
            name: name(&node.metadata)?,
            pod_cidrs: nets("spec.podCIDRs", cidrs.unwrap_or_default())?,
            addresses: addresses
                .into_iter()
                .enumerate()
                .filter(|(_, address)| matches!(address.type_.as_str(), "InternalIP" | "ExternalIP"))
                .map(|(index, address)| ip(format!("status.addresses[{index}].address"), &address.address))
                .collect::<Result<_, _>>()?,
        })
    }
}

impl TryFrom<api::Namespace> for Namespace {
    type Error = Invalid;

    fn try_from(namespace: api::Namespace) -> Result<Self, Invalid> {
        Ok(Self {
            name: name(&namespace.metadata)?,
            labels: namespace.metadata.labels.unwrap_or_default(),
        })
    }
}

impl TryFrom<api::Pod> for Pod {
    type Error = Invalid;

    fn try_from(pod: api::Pod) -> Result<Self, Invalid> {
        let ObjectName { namespace, name } = object_name(&pod.metadata)?;
        let spec = pod.spec.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        let kubelet_uid = kubelet_uid(&pod.metadata);
        let workload = workload(&pod.metadata);
        let mut annotations = pod.metadata.annotations.unwrap_or_default();
        let sidecar_container = sidecar_container(&status);
        let mut addresses = Vec::new();
        for (index, address) in status.pod_ips.unwrap_or_default().into_iter().enumerate() {
            addresses.push(ip(format!("status.podIPs[{index}].ip"), &address.ip)?);
        }
        if let Some(address) = status.pod_ip.filter(|address| !address.is_empty()) {
            let address = ip("status.podIP".into(), &address)?;
            if !addresses.contains(&address) {
                addresses.insert(0, address);
            }
        }
        Ok(Self {
            name: PodName { namespace, name },
            labels: pod.metadata.labels.unwrap_or_default(),
            node: spec.node_name.clone().filter(|node| !node.is_empty()),
            host_network: spec.host_network.unwrap_or_default(),
            addresses,
            finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            netns: annotations.remove(NETNS_ANNOTATION).map(PathBuf::from),
            cgroup: annotations.remove(CGROUP_ANNOTATION).map(PathBuf::from),
            proxy_cgroup: annotations.remove(PROXY_CGROUP_ANNOTATION).map(PathBuf::from),
            kubelet_uid,
            sidecar_container,
            mesh: Mesh::new(annotations, &spec),
            service_account: spec
                .service_account_name
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| DEFAULT_SERVICE_ACCOUNT.to_owned()),
            uid: pod.metadata.uid,
            workload,
        })
    }
}

/// The kubelet knows a static pod by the hash of its manifest; what the cluster has is a mirror of it, which belongs to the
/// Node. Who writes such a mirror himself gets no pod by it, see [`Pod::is_confirmed`].
fn kubelet_uid(metadata: &ObjectMeta) -> Option<PodUid> {
    let mut owners = metadata.owner_references.iter().flatten();
    let is_mirror = owners.any(|owner| owner.kind == "Node");
    let annotations = metadata.annotations.as_ref().filter(|_| is_mirror);
    let hash = annotations.and_then(|annotations| annotations.get(MIRROR_ANNOTATION));
    PodUid::new(hash.or(metadata.uid.as_ref())?)
}

fn sidecar_container(status: &api::PodStatus) -> Option<ContainerId> {
    let lists = [&status.container_statuses, &status.init_container_statuses];
    let mut statuses = lists.into_iter().flatten().flatten();
    let sidecar = statuses.find(|status| status.name == SIDECAR)?;
    ContainerId::of_status(sidecar.container_id.as_deref()?)
}

impl TryFrom<api::Service> for Service {
    type Error = Invalid;

    fn try_from(service: api::Service) -> Result<Self, Invalid> {
        let spec = service.spec.unwrap_or_default();
        let status = service.status.and_then(|status| status.load_balancer);
        let balancers = status.and_then(|balancer| balancer.ingress).unwrap_or_default();
        let balancers: Vec<_> = balancers.into_iter().filter_map(|ingress| ingress.ip).collect();
        let listed = spec.cluster_ips.filter(|addresses| !addresses.is_empty());
        let addresses = listed.unwrap_or_else(|| spec.cluster_ip.into_iter().collect());
        Ok(Self {
            name: object_name(&service.metadata)?,
            cluster_ips: addresses
                .iter()
                // A headless Service says "None".
                .filter(|address| !address.is_empty() && *address != "None")
                .enumerate()
                .map(|(index, address)| ip(format!("spec.clusterIPs[{index}]"), address))
                .collect::<Result<_, _>>()?,
            // What is no address is somebody else's to tell of: nothing is decided by it.
            external_ips: spec
                .external_ips
                .unwrap_or_default()
                .into_iter()
                .chain(balancers)
                .filter_map(|address| address.parse().ok())
                .collect(),
            selector: spec.selector.filter(|selector| !selector.is_empty()),
        })
    }
}

impl TryFrom<discovery::EndpointSlice> for EndpointSlice {
    type Error = Invalid;

    fn try_from(slice: discovery::EndpointSlice) -> Result<Self, Invalid> {
        let mut addresses = Vec::new();
        if slice.address_type != "FQDN" {
            for (index, endpoint) in slice.endpoints.unwrap_or_default().iter().enumerate() {
                for address in &endpoint.addresses {
                    addresses.push(ip(format!("endpoints[{index}].addresses"), address)?);
                }
            }
        }
        Ok(Self {
            name: object_name(&slice.metadata)?,
            service: slice
                .metadata
                .labels
                .and_then(|mut labels| labels.remove(SERVICE_NAME_LABEL)),
            addresses,
        })
    }
}

impl TryFrom<networking::ServiceCIDR> for ServiceCidr {
    type Error = Invalid;

    fn try_from(cidr: networking::ServiceCIDR) -> Result<Self, Invalid> {
        Ok(Self {
            name: name(&cidr.metadata)?,
            cidrs: nets(
                "spec.cidrs",
                cidr.spec.and_then(|spec| spec.cidrs).unwrap_or_default(),
            )?,
        })
    }
}

/// What an object is one of. Between a Deployment and its pods there is a `ReplicaSet`, whose name ends in a hash that a label
/// of the pods has, too.
fn workload(metadata: &ObjectMeta) -> Option<String> {
    const HASH_LABEL: &str = "pod-template-hash";
    let mut owners = metadata.owner_references.iter().flatten();
    let owner = owners.find(|owner| owner.controller == Some(true))?;
    let hash = metadata.labels.as_ref().and_then(|labels| labels.get(HASH_LABEL));
    let deployment = hash.and_then(|hash| owner.name.strip_suffix(hash)?.strip_suffix('-'));
    Some(match (owner.kind.as_str(), deployment) {
        ("ReplicaSet", Some(deployment)) => format!("Deployment {deployment}"),
        (kind, _) => format!("{kind} {}", owner.name),
    })
}

/// The name in an object's metadata.
fn name(metadata: &ObjectMeta) -> Result<String, Invalid> {
    match &metadata.name {
        Some(name) if !name.is_empty() => Ok(name.clone()),
        Some(_) | None => Err(Invalid::Missing {
            field: "metadata.name",
        }),
    }
}

/// Namespace and name in a namespaced object's metadata.
pub(super) fn object_name(metadata: &ObjectMeta) -> Result<ObjectName, Invalid> {
    let namespace = metadata
        .namespace
        .as_deref()
        .filter(|namespace| !namespace.is_empty());
    Ok(ObjectName::new(
        namespace.unwrap_or(DEFAULT_NAMESPACE),
        name(metadata)?,
    ))
}

fn ip(field: String, text: &str) -> Result<IpAddr, Invalid> {
    parse_ip(text).ok_or_else(|| Invalid::value(field, text, "an IP address"))
}

fn nets(field: &str, texts: Vec<String>) -> Result<Vec<IpNet>, Invalid> {
    let read = |(index, text): (usize, String)| match parse_net(&text) {
        Some(net) => Ok(net.trunc()),
        None => Err(Invalid::value(format!("{field}[{index}]"), text, "a CIDR prefix")),
    };
    texts.into_iter().enumerate().map(read).collect()
}
