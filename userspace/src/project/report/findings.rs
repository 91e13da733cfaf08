//! What is probably not as somebody wishes.

use std::net::IpAddr;

use ebpf::{packet::Protocol, rules::Enforcement};
use ipnet::IpNet;

use super::{
    super::{
        Input,
        endpoints::Local,
        internal::{self, Source},
        policies::Policies,
        ports::PortSet,
    },
    Condition, ConditionName, PolicyReport, RegistryState, Role,
};
use crate::{
    names::Names,
    objects::{EgressPolicy, Kind, Mode, ObjectName, ObjectRef, Pod, Selector, ServiceEntry, Stored},
    problem::{Problem, Severity},
};

/// DNS, and DNS over TLS.
const RESOLVER_PORTS: [(Protocol, u16); 3] = [(Protocol::UDP, 53), (Protocol::TCP, 53), (Protocol::TCP, 853)];

/// Whether a policy can do what one expects of it.
pub(super) fn of_policy(
    input: &Input<'_>,
    policies: &Policies<'_>,
    policy: &Stored<EgressPolicy>,
    internal_known: bool,
    report: &mut PolicyReport,
    problems: &mut Vec<Problem>,
) {
    let about = |severity, message: String| {
        Problem::new(severity, message)
            .about(ObjectRef::cluster(Kind::EgressPolicy, &policy.name))
            .at(policy.origin.clone())
    };
    for gateway in report
        .gateways
        .iter()
        .filter(|gateway| gateway.gateway_exists == Some(false))
    {
        let name = gateway.gateway.as_deref().unwrap_or_default();
        let message = format!(
            "there is no Gateway {}/{name}; its pods count all the same",
            gateway.namespace
        );
        problems.push(about(Severity::Info, message));
    }
    let resolver = if internal_known {
        resolver_cut_off(input, policies, policy)
    } else {
        None
    };
    let findings = [
        (
            ConditionName::GatewaysFound,
            Severity::Warning,
            nobody(input, policy, report),
        ),
        (ConditionName::ResolverReachable, Severity::Warning, resolver),
        (
            ConditionName::InternalKnown,
            Severity::Error,
            (!internal_known).then(|| unknown_inside(input)),
        ),
    ];
    for (name, severity, message) in findings {
        problems.extend(message.clone().map(|message| about(severity, message)));
        report.conditions.push(Condition {
            name,
            ok: message.is_none(),
            message,
        });
    }
}

/// A gateway that no pod is, as far as that can be said.
fn nobody(input: &Input<'_>, policy: &EgressPolicy, report: &PolicyReport) -> Option<String> {
    let awaited = &input.stores.awaited_gateways;
    let named = policy.gateways.iter().zip(&report.gateways).enumerate();
    let missing = named.filter(|(_, (named, gateway))| gateway.pods.is_empty() && !awaited.contains(named));
    let missing: Vec<_> = missing
        .map(|(index, (_, gateway))| match &gateway.gateway {
            Some(name) => format!("gateway {}/{name}", gateway.namespace),
            None => format!("spec.gateways[{index}] (a podSelector in {})", gateway.namespace),
        })
        .collect();
    if missing.is_empty() {
        return None;
    }
    let all = missing.len() == report.gateways.len();
    let effect = if all {
        "all external traffic of its subjects is blocked"
    } else {
        "the others remain"
    };
    Some(format!("no pod is {}; {effect}", missing.join(", ")))
}

fn unknown_inside(input: &Input<'_>) -> String {
    let unknown = if input.stores.only_local_pods {
        "no range of pods is known: no Node has podCIDRs"
    } else {
        "nothing is known of the inside of the cluster (no Node, Pod or Service with an address)"
    };
    format!(
        "{unknown}; rules are not loaded before --internal-cidr says which addresses pods and Services have"
    )
}

/// Pods of this node whose addresses are in no range: those of other nodes will not be, either.
pub(super) fn of_addresses(input: &Input<'_>, pods: &[Local<'_>]) -> Option<Problem> {
    if !input.stores.only_local_pods || input.stores.policies.is_empty() {
        return None;
    }
    let mut ranges = Vec::new();
    internal::each(input, |range, source| {
        if !matches!(source, Source::Pod(_)) {
            ranges.push(range);
        }
    });
    let ranges = IpNet::aggregate(&ranges);
    let covered = |address: &IpAddr| ranges.iter().any(|range| range.contains(address));
    let mut outside = pods.iter().filter_map(|local| {
        let address = local.pod.addresses.iter().find(|address| !covered(address))?;
        (!local.pod.host_network).then_some((local.pod, address))
    });
    let (pod, address) = outside.next()?;
    let others = match outside.count() {
        0 => String::new(),
        count => format!(", and so are those of {count} other pods"),
    };
    let message = format!(
        "its address {address} is in no range that is known to be inside the cluster{others}: pods like it on other nodes \
         count as external; if they do not get their addresses from their Node's podCIDRs, --internal-cidr has to say \
         from where"
    );
    let problem = Problem::new(Severity::Warning, message).about(ObjectRef::from(&pod.name));
    Some(problem.at(pod.origin.clone()))
}

/// The cluster's own resolver, if this policy keeps it from asking outside.
fn resolver_cut_off(input: &Input<'_>, policies: &Policies<'_>, policy: &EgressPolicy) -> Option<String> {
    let service = input
        .stores
        .services
        .get(&ObjectName::new("kube-system", "kube-dns"));
    let selector = service
        .and_then(|service| service.selector.as_ref())
        .map(Selector::labels);
    let is_resolver = |pod: &Pod| {
        let labelled = pod.labels.get("k8s-app").is_some_and(|app| app == "kube-dns");
        pod.name.namespace == "kube-system"
            && (labelled
                || selector
                    .as_ref()
                    .is_some_and(|selector| selector.matches(&pod.labels)))
    };
    let pods = input.stores.pods.values().map(|pod| &**pod);
    let cut_off = |pod: &&Stored<Pod>| {
        // As long as it cannot be said, nothing is.
        let subject = policies.role(policy, pod, pod.host_network) == Ok(Some(Role::Subject));
        subject
            && policies
                .exceptions(policy, pod)
                .is_ok_and(|exceptions| !exceptions.into_iter().any(lets_ask))
    };
    let pod = pods
        .filter(|pod| !pod.finished && is_resolver(pod))
        .find(cut_off)?;
    let verb = match policy.mode {
        Mode::Enforce => "cuts",
        Mode::Audit => "would cut",
    };
    Some(format!(
        "{verb} off the cluster's resolver (Pod {}): external names are resolved no more; add an exception for it, \
         with port 53, to the servers that it asks",
        pod.name
    ))
}

fn lets_ask(exception: &crate::objects::Exception) -> bool {
    let ports = PortSet::of_exception(exception.ports.as_deref());
    !exception.to.is_empty()
        && RESOLVER_PORTS
            .iter()
            .any(|(protocol, port)| ports.contains(*protocol, *port))
}

/// Pods that are not in the kernel, and those for which policies do not add up to what each of them says.
pub(super) fn of_endpoints(pods: &[Local<'_>], enforcement: Enforcement, problems: &mut Vec<Problem>) {
    for local in pods {
        let about = |severity, message: String| {
            Problem::new(severity, message)
                .about(ObjectRef::from(&local.pod.name))
                .at(local.pod.origin.clone())
        };
        if let Some(reason) = &local.pending {
            let (severity, effect) = match enforcement {
                Enforcement::Off => (Severity::Info, "nothing is enforced"),
                Enforcement::Audit => (Severity::Warning, "what it sends is reported as unknown"),
                Enforcement::Enforce => (Severity::Warning, "what it sends is dropped"),
            };
            problems.push(about(
                severity,
                format!("is not known to the kernel: {reason}; {effect}"),
            ));
        }
        let names = |wanted: &dyn Fn(Mode, Role) -> bool| {
            let chosen = local
                .selecting
                .iter()
                .filter(|held| wanted(held.policy.mode, held.role));
            chosen
                .map(|held| held.policy.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        let enforced = names(&|mode, _| mode == Mode::Enforce);
        let audited = names(&|mode, _| mode == Mode::Audit);
        if !enforced.is_empty() && !audited.is_empty() {
            let message = format!("{audited} is not audited for it, as {enforced} is enforced");
            problems.push(about(Severity::Info, message));
        }
        let counts = if enforced.is_empty() {
            Mode::Audit
        } else {
            Mode::Enforce
        };
        let gateway = names(&|mode, role| mode == counts && role == Role::Gateway);
        let subject = names(&|mode, role| mode == counts && role == Role::Subject);
        if !gateway.is_empty() && !subject.is_empty() {
            let message = format!(
                "is a gateway of {gateway} and a subject of {subject}: it may go only where all permit it"
            );
            problems.push(about(Severity::Warning, message));
        }
    }
}

/// What keeps a ServiceEntry from permitting what it declares.
pub(super) fn of_entry(
    entry: &Stored<ServiceEntry>,
    state: RegistryState,
    names: &Names,
    problems: &mut Vec<Problem>,
) {
    let unresolved = || {
        let missing =
            super::super::registry::names_of(entry).filter(|host| names.addresses(host).next().is_none());
        missing.map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let (severity, message) = match state {
        RegistryState::Ready | RegistryState::Workloads => return,
        RegistryState::PartlyResolved => (Severity::Info, format!("not resolved: {}", unresolved())),
        RegistryState::Unresolved => (
            Severity::Warning,
            format!("permits nothing yet; not resolved: {}", unresolved()),
        ),
        RegistryState::Wildcard => {
            let message = "permits nothing: a host with * cannot be resolved; declare the hosts one by one, or \
                           addresses with resolution: NONE";
            (Severity::Warning, message.to_owned())
        }
        RegistryState::NoPorts => (Severity::Warning, "permits nothing: it has no ports".to_owned()),
        RegistryState::NoAddresses => {
            let message = "permits nothing: it has no addresses, and resolution: NONE or STATIC needs them";
            (Severity::Warning, message.to_owned())
        }
    };
    let object = entry.name.of_kind(Kind::ServiceEntry);
    problems.push(
        Problem::new(severity, message)
            .about(object)
            .at(entry.origin.clone()),
    );
}

/// Ranges that take all effect from every policy.
pub(super) fn of_ranges(input: &Input<'_>, problems: &mut Vec<Problem>) {
    if input.stores.policies.is_empty() {
        return;
    }
    internal::each(input, |range, source| {
        if range.prefix_len() > 0 {
            return;
        }
        let message = format!("{range} counts as inside the cluster, so that nothing is external");
        let problem = Problem::new(Severity::Error, message);
        let place = source.range(range);
        problems.push(match (source, place.object, place.origin) {
            (Source::Configured, ..) | (_, None, _) | (_, _, None) => problem,
            (_, Some(object), Some(origin)) => problem.about(object).at(origin),
        });
    });
}
