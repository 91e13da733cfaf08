//! The proxy in the node's network namespace.

use std::net::IpAddr;

use ebpf::{
    Addr,
    capture::{Capture, Mode, RangeKey, Scope},
    rules::{CGROUP_LEVELS, Endpoint, Enforcement, Identity},
};

use ipnet::IpNet;

use super::{Captures, chosen::Place, owners::is_global, proxies, reference};
use crate::{
    desired::Desired,
    facts::{Cgroup, NetnsCookie, PodNetwork},
    objects::OnDeny,
    problem::{Problem, Severity},
    project::{
        CaptureMode, Input,
        endpoints::{self, Endpoints},
        permissions::{Held, Table},
    },
};

/// No port: what is sent there finds nobody and is refused.
const NOWHERE: u16 = 0;

/// Has a captured namespace's calls go to the node proxy.
pub(super) fn proxied(input: &Input<'_>, capture: Capture, place: &Place<'_>, dns: bool) -> Capture {
    // Who is not known is held to nothing, so he gets nothing.
    let port = input.capture.node_proxy.filter(|_| cgroup(input).is_some());
    let own = |v4| address(input, v4).map(Addr::from);
    let capture = capture
        .outbound_to(port.unwrap_or(NOWHERE))
        .reached_at(own(true), own(false))
        .at_call(place.devices.iter().any(|device| device.bridged));
    match input.capture.node_proxy_dns {
        Some(port) if dns => capture.dns_to(port),
        Some(_) | None => capture,
    }
}

/// Keeps the proxy's ports for it. Whether there is one at all.
pub(super) fn guard(input: &Input<'_>, captures: &mut Captures) -> bool {
    let settings = input.capture;
    let Some(port) = settings.node_proxy else {
        if captures.pods.values().any(|pod| pod.mode == CaptureMode::Node) {
            let message = "network namespaces are enrolled for a node proxy, and there is none (--node-proxy): what they \
                           call is refused";
            captures.problems.push(Problem::new(Severity::Error, message));
        }
        return false;
    };
    let found = settings
        .node_proxy_cgroup
        .as_ref()
        .and_then(|path| proxies::find(input, path));
    if let Some(Err(reason)) = &found {
        let message = format!("--node-proxy-cgroup: {reason}; calls for the node proxy are refused");
        captures.problems.push(Problem::new(Severity::Error, message));
    }
    let Some(NetnsCookie(netns)) = input.facts.netns else {
        return false;
    };
    let mut guard = Capture::new(netns, Mode::Guard).outbound_to(port);
    if let Some(dns) = settings.node_proxy_dns {
        guard = guard.dns_to(dns);
    }
    if let Some(Ok(cgroup)) = found {
        guard = guard.proxied_by(&[reference(cgroup)]);
    }
    captures.entries.insert(NetnsCookie(netns), guard);
    true
}

/// The destinations that the node translates into others, for all namespaces.
pub(super) fn translated(input: &Input<'_>) -> impl Iterator<Item = ((NetnsCookie, IpNet), Scope)> {
    let everybody = NetnsCookie(RangeKey::EVERYBODY);
    let services = input.stores.services.values();
    let addresses = services.flat_map(|service| service.cluster_ips.iter().chain(&service.external_ips));
    addresses.map(move |address| ((everybody, IpNet::from(*address)), Scope::TRANSLATED))
}

/// Whether the node proxy is held to what a subject may: otherwise to be captured would be a way round every policy.
pub(in crate::project) fn is_held(input: &Input<'_>) -> bool {
    cgroup(input).is_some() && !input.stores.policies.is_empty()
}

/// Holds the node proxy, unless it is a pod that policies select themselves.
pub(super) fn hold(input: &Input<'_>, endpoints: &Endpoints<'_>, desired: &mut Desired) {
    let audit = match desired.enforcement {
        Enforcement::Off => return,
        Enforcement::Audit => true,
        Enforcement::Enforce => false,
    };
    let (Some(own), Some(policy)) = (cgroup(input), endpoints.policy_of_nobody()) else {
        return;
    };
    let (cgroup, is_selected) = match host_pod(input, endpoints) {
        Some((cgroup, is_selected)) => (cgroup, is_selected),
        None => (own, false),
    };
    if is_selected {
        return;
    }
    let held = Held {
        table: Table::default(),
        mode: if audit {
            crate::objects::Mode::Audit
        } else {
            crate::objects::Mode::Enforce
        },
        on_deny: OnDeny::Reject,
        gateway: false,
    };
    let endpoint = Endpoint::new(0, [0; 6], None, None);
    let held = endpoints::hold(endpoint, Some((&held, policy)));
    desired.endpoints.insert(Identity::Cgroup(cgroup.id), held);
    desired.cgroup_levels |= 1 << cgroup.level;
}

/// The pod in the node's network namespace that the proxy is part of. Whether policies select it.
fn host_pod(input: &Input<'_>, endpoints: &Endpoints<'_>) -> Option<(Cgroup, bool)> {
    let path = input.capture.node_proxy_cgroup.as_ref()?;
    endpoints.pods.iter().find_map(|local| match local.network {
        Some(PodNetwork::Host { cgroup, path: around }) if local.pending.is_none() => path
            .starts_with(around)
            .then_some((*cgroup, local.held.is_some())),
        Some(PodNetwork::Host { .. } | PodNetwork::Own { .. }) | None => None,
    })
}

/// The proxy's cgroup, if it is one that the programs can tell.
fn cgroup(input: &Input<'_>) -> Option<Cgroup> {
    let path = input.capture.node_proxy_cgroup.as_ref()?;
    let found = proxies::find(input, path)?.ok()?;
    (found.level < CGROUP_LEVELS).then_some(found)
}

/// Where pods reach the node: an address that the cluster knows rather than any other.
fn address(input: &Input<'_>, v4: bool) -> Option<IpAddr> {
    let own = &input.facts.own_addresses;
    let node = input.stores.nodes.values().find(|node| node.name == input.node);
    let known = node.iter().flat_map(|node| &node.addresses);
    let known = known.filter(|address| own.contains(address));
    let global = own.iter().filter(|address| is_global(address));
    known
        .chain(global)
        .find(|address| address.is_ipv4() == v4)
        .copied()
}
