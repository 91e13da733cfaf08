//! Puts the report together.

use std::cmp::Reverse;

use ebpf::rules::Enforcement;

use super::{
    super::{
        Input,
        capture::{Captures, NotCaptured},
        endpoints::{Endpoints, Local},
        internal, permissions,
        policies::Policies,
        registry,
    },
    EndpointReport, EnforcementMode, GatewayPod, GatewayReport, HeldTo, PolicyReport, Report, Role, Totals,
    findings,
};
use crate::{
    facts::PodNetwork,
    objects::{EgressPolicy, GatewayDestinations, GatewayPods, GatewayRef, Mode, ObjectName, Stored},
};

impl From<Mode> for EnforcementMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Enforce => Self::Enforce,
            Mode::Audit => Self::Audit,
        }
    }
}

pub(in super::super) fn report(
    input: &Input<'_>,
    policies: &Policies<'_>,
    endpoints: &Endpoints<'_>,
    captures: &Captures,
    enforcement: Enforcement,
) -> Report {
    let stores = input.stores;
    let mut totals = Totals {
        service_entries: stores.service_entries.len(),
        ..Totals::default()
    };
    internal::each(input, |_, _| totals.internal_ranges += 1);
    let known = internal::is_known(input);
    let mut problems = Vec::new();
    for entry in stores.service_entries.values() {
        let state = registry::state(entry, input.names);
        if !state.has_effect() {
            totals.service_entries_without_effect += 1;
        }
        findings::of_entry(entry, state, input.names, &mut problems);
    }
    let mut reports = Vec::new();
    for policy in policies.each() {
        let gateways = policy
            .gateways
            .iter()
            .map(|gateway| gateway_report(input, policies, gateway))
            .collect();
        let mut report = policy_report(policy, gateways, endpoints);
        findings::of_policy(input, policies, policy, known, &mut report, &mut problems);
        reports.push(report);
    }
    findings::of_endpoints(&endpoints.pods, enforcement, &mut problems);
    findings::of_ranges(input, &mut problems);
    problems.extend(findings::of_addresses(input, &endpoints.pods));
    problems.extend(captures.problems.iter().cloned());
    problems.sort_by_key(|problem| Reverse(problem.severity));
    Report {
        node: input.node.to_owned(),
        complete: stores.is_complete(),
        enforcement: enforcement.into(),
        endpoints: endpoints
            .pods
            .iter()
            .map(|local| endpoint_report(endpoints, captures, local))
            .collect(),
        policies: reports,
        totals,
        ignored: stores
            .ignored
            .iter()
            .map(|(kind, count)| (kind.clone(), *count))
            .collect(),
        problems,
    }
}

fn policy_report(
    policy: &Stored<EgressPolicy>,
    gateways: Vec<GatewayReport>,
    endpoints: &Endpoints<'_>,
) -> PolicyReport {
    let is_subject = |local: &&Local<'_>| {
        local
            .selecting
            .iter()
            .any(|held| held.role == Role::Subject && held.policy.name == policy.name)
    };
    PolicyReport {
        name: policy.name.clone(),
        mode: policy.mode.into(),
        gateway_destinations: match policy.gateway_destinations {
            GatewayDestinations::Registry => "registry",
            GatewayDestinations::Any => "any",
        }
        .to_owned(),
        on_deny: policy.on_deny,
        gateways,
        subjects: endpoints.pods.iter().filter(is_subject).count(),
        conditions: Vec::new(),
        origin: policy.origin.clone(),
    }
}

fn gateway_report<'a>(input: &Input<'a>, policies: &Policies<'a>, gateway: &'a GatewayRef) -> GatewayReport {
    let name = match &gateway.pods {
        GatewayPods::Gateway(name) => Some(name.clone()),
        GatewayPods::Selected(_) => None,
    };
    let exists = |name: &String| {
        input
            .stores
            .gateways
            .contains_key(&ObjectName::new(&gateway.namespace, name))
    };
    let pod = |pod: &Stored<crate::objects::Pod>| GatewayPod {
        pod: pod.name.clone(),
        node: pod.node.clone(),
        addresses: pod.addresses.clone(),
    };
    GatewayReport {
        namespace: gateway.namespace.clone(),
        gateway_exists: name.as_ref().map(exists),
        gateway: name,
        pods: policies.pods_of(gateway).map(pod).collect(),
    }
}

fn endpoint_report(endpoints: &Endpoints<'_>, captures: &Captures, local: &Local<'_>) -> EndpointReport {
    let Local {
        pod,
        network,
        selecting,
        held,
        pending,
    } = local;
    let counts = permissions::mode(selecting);
    let capture = captures.of_pods.get(&pod.name).copied();
    let capture = capture.unwrap_or(Err(NotCaptured::Pending));
    EndpointReport {
        pod: pod.name.clone(),
        addresses: pod.addresses.clone(),
        devices: match network {
            Some(PodNetwork::Own { devices, .. }) => devices.clone(),
            Some(PodNetwork::Host { .. }) | None => Vec::new(),
        },
        host_network: match network {
            Some(PodNetwork::Own { .. }) => false,
            Some(PodNetwork::Host { .. }) => true,
            None => pod.host_network,
        },
        role: selecting
            .iter()
            .map(|selecting| selecting.role)
            .max()
            .unwrap_or(Role::None),
        policies: selecting
            .iter()
            .map(|selecting| HeldTo {
                policy: selecting.policy.name.clone(),
                role: selecting.role,
                effective: Some(selecting.policy.mode) == counts,
            })
            .collect(),
        mode: held.as_ref().map(|held| held.mode.into()),
        on_deny: held.as_ref().map(|held| held.on_deny),
        policy_id: endpoints.policy_of(local).map(|policy| policy.0),
        pending: pending.clone(),
        capture: capture.ok(),
        not_captured: capture.err(),
        origin: pod.origin.clone(),
    }
}
