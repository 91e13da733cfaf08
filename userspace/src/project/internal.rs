//! What is inside the cluster, and who says so.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Input, InternalRange};
use crate::objects::{Kind, ObjectRef, Stored, canonical_net, host_net};

/// Why a range counts as internal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InternalSource {
    /// The operator says so.
    Configured,
    /// Pods of a node get their addresses from it.
    NodePodCidr,
    /// Services get their addresses from it.
    ServiceCidr,
    /// A node has the address.
    NodeAddress,
    /// A pod has it.
    PodAddress,
    /// A Service has it inside the cluster.
    ServiceAddress,
    /// A device of this node has it.
    OwnAddress,
    /// The API server answers there.
    ApiServer,
}

impl fmt::Display for InternalSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configured => "configured",
            Self::NodePodCidr => "a node's podCIDR",
            Self::ServiceCidr => "a ServiceCIDR",
            Self::NodeAddress => "a node's address",
            Self::PodAddress => "a pod's address",
            Self::ServiceAddress => "a Service's address",
            Self::OwnAddress => "an address of this node's devices",
            Self::ApiServer => "the API server",
        })
    }
}

/// A source, and the object in which it is written.
pub(super) enum Source<'a> {
    Configured,
    OwnAddress,
    NodePodCidr(&'a Stored<crate::objects::Node>),
    NodeAddress(&'a Stored<crate::objects::Node>),
    ServiceCidr(&'a Stored<crate::objects::ServiceCidr>),
    Pod(&'a Stored<crate::objects::Pod>),
    Service(&'a Stored<crate::objects::Service>),
    ApiServer(&'a Stored<crate::objects::EndpointSlice>),
}

/// Tells of every range.
pub(super) fn each<'a>(input: &Input<'a>, mut tell: impl FnMut(IpNet, Source<'a>)) {
    let stores = input.stores;
    for range in input.internal {
        tell(canonical_net(*range).trunc(), Source::Configured);
    }
    for address in input
        .facts
        .own_addresses
        .iter()
        .filter(|address| is_of_a_host(address))
    {
        tell(host_net(*address), Source::OwnAddress);
    }
    for node in stores.nodes.values() {
        node.pod_cidrs
            .iter()
            .for_each(|range| tell(*range, Source::NodePodCidr(node)));
        for address in node.addresses.iter().filter(|address| is_of_a_host(address)) {
            tell(host_net(*address), Source::NodeAddress(node));
        }
    }
    for ranges in stores.service_cidrs.values() {
        for range in &ranges.cidrs {
            tell(*range, Source::ServiceCidr(ranges));
        }
    }
    for pod in stores.pods.values().filter(|pod| !pod.finished) {
        for address in pod.addresses.iter().filter(|address| is_of_a_host(address)) {
            tell(host_net(*address), Source::Pod(pod));
        }
    }
    for service in stores.services.values() {
        for address in service.cluster_ips.iter().filter(|address| is_of_a_host(address)) {
            tell(host_net(*address), Source::Service(service));
        }
    }
    for slice in stores.endpoint_slices.values() {
        let api_server = slice.name.namespace == "default" && slice.service.as_deref() == Some("kubernetes");
        for address in slice
            .addresses
            .iter()
            .filter(|address| api_server && is_of_a_host(address))
        {
            tell(host_net(*address), Source::ApiServer(slice));
        }
    }
}

/// Whether anything is known of the inside. Where not all pods are known, their ranges have to be: those of other nodes
/// would all be external.
pub(super) fn is_known(input: &Input<'_>) -> bool {
    let only_ranges = input.stores.only_local_pods;
    let mut known = false;
    each(input, |_, source| {
        known |= match source {
            Source::Configured | Source::NodePodCidr(_) => true,
            Source::OwnAddress => false,
            Source::NodeAddress(_)
            | Source::ServiceCidr(_)
            | Source::Pod(_)
            | Source::Service(_)
            | Source::ApiServer(_) => !only_ranges,
        };
    });
    known
}

/// Loopback and its like are inside every host, not inside the cluster.
fn is_of_a_host(address: &IpAddr) -> bool {
    !(address.is_loopback() || address.is_unspecified() || address.is_multicast())
}

/// Every range inside the cluster, with where it comes from.
pub fn internal(input: &Input<'_>) -> Vec<InternalRange> {
    let mut ranges = Vec::new();
    each(input, |range, source| ranges.push(source.range(range)));
    ranges.sort_unstable();
    ranges
}

impl Source<'_> {
    pub(super) fn kind(&self) -> InternalSource {
        match self {
            Self::Configured => InternalSource::Configured,
            Self::OwnAddress => InternalSource::OwnAddress,
            Self::NodePodCidr(_) => InternalSource::NodePodCidr,
            Self::NodeAddress(_) => InternalSource::NodeAddress,
            Self::ServiceCidr(_) => InternalSource::ServiceCidr,
            Self::Pod(_) => InternalSource::PodAddress,
            Self::Service(_) => InternalSource::ServiceAddress,
            Self::ApiServer(_) => InternalSource::ApiServer,
        }
    }

    pub(super) fn range(&self, range: IpNet) -> InternalRange {
        let (object, origin) = match self {
            Self::Configured | Self::OwnAddress => (None, None),
            Self::NodePodCidr(node) | Self::NodeAddress(node) => (
                Some(ObjectRef::cluster(Kind::Node, &node.name)),
                Some(node.origin.clone()),
            ),
            Self::ServiceCidr(ranges) => (
                Some(ObjectRef::cluster(Kind::ServiceCIDR, &ranges.name)),
                Some(ranges.origin.clone()),
            ),
            Self::Pod(pod) => (Some(ObjectRef::from(&pod.name)), Some(pod.origin.clone())),
            Self::Service(service) => (
                Some(service.name.of_kind(Kind::Service)),
                Some(service.origin.clone()),
            ),
            Self::ApiServer(slice) => (
                Some(slice.name.of_kind(Kind::EndpointSlice)),
                Some(slice.origin.clone()),
            ),
        };
        InternalRange {
            range,
            source: self.kind(),
            object,
            origin,
        }
    }
}
