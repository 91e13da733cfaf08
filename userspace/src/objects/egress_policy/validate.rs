//! From what is written to what is meant, with every value checked.

use std::collections::BTreeSet;

use ebpf::packet::Protocol;
use ipnet::IpNet;

use super::{
    Block, EgressPolicy, Exception, GatewayDestinations, GatewayPods, GatewayRef, Mode, OnDeny, PortRange,
    Subjects,
    crd::{self, EgressPolicyManifest},
    placed::{FieldError, FieldPath, Placed},
};
use crate::objects::{Operator, Requirement, Selector, addr::canonical_net};

impl TryFrom<EgressPolicyManifest> for EgressPolicy {
    type Error = FieldError;

    fn try_from(manifest: EgressPolicyManifest) -> Result<Self, FieldError> {
        let EgressPolicyManifest {
            _api_version,
            _kind,
            metadata,
            spec,
            _status,
        } = manifest;
        let at = FieldPath::new("metadata");
        let crd::EgressPolicySpec {
            mode,
            subjects,
            gateways,
            gateway_destinations,
            exceptions,
            on_deny,
        } = spec;
        let name = match &metadata.value.name {
            Some(name) if !name.is_empty() => name.clone(),
            Some(_) | None => return Err(at.field("name").error(&metadata, "missing; every object has one")),
        };
        if metadata.value.namespace.is_some() {
            return Err(at.field("namespace").error(
                &metadata,
                "an EgressPolicy is cluster-scoped; leave the namespace out",
            ));
        }
        let spec = FieldPath::new("spec");
        Ok(Self {
            name,
            uid: metadata.value.uid,
            generation: metadata.value.generation,
            mode: match mode {
                crd::Mode::Enforce => Mode::Enforce,
                crd::Mode::Audit => Mode::Audit,
            },
            subjects: subjects_of(&spec.field("subjects"), subjects.unwrap_or_default())?,
            gateways: each(&spec.field("gateways"), gateways, |at, placed| {
                gateway(at, &placed)
            })?,
            gateway_destinations: match gateway_destinations {
                crd::GatewayDestinations::Registry => GatewayDestinations::Registry,
                crd::GatewayDestinations::Any => GatewayDestinations::Any,
            },
            exceptions: exceptions_of(&spec.field("exceptions"), exceptions)?,
            on_deny: match on_deny {
                crd::OnDeny::Reject => OnDeny::Reject,
                crd::OnDeny::Drop => OnDeny::Drop,
            },
        })
    }
}

/// Reads every item of a list, telling it its path.
fn each<T, U>(
    at: &FieldPath,
    items: Vec<T>,
    read: impl Fn(&FieldPath, T) -> Result<U, FieldError>,
) -> Result<Vec<U>, FieldError> {
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| read(&at.index(index), item))
        .collect()
}

fn subjects_of(at: &FieldPath, subjects: crd::Subjects) -> Result<Subjects, FieldError> {
    let crd::Subjects {
        namespace_selector,
        pod_selector,
        host_network,
    } = subjects;
    Ok(Subjects {
        namespaces: selector(
            &at.field("namespaceSelector"),
            namespace_selector.unwrap_or_default(),
        )?,
        pods: selector(&at.field("podSelector"), pod_selector.unwrap_or_default())?,
        host_network,
    })
}

fn gateway(at: &FieldPath, placed: &Placed<crd::Gateway>) -> Result<GatewayRef, FieldError> {
    let crd::Gateway {
        namespace,
        gateway,
        pod_selector,
    } = placed.value.clone();
    let namespace = match namespace {
        Some(namespace) if !namespace.value.is_empty() => namespace.value,
        Some(_) | None => {
            let message = "missing; a gateway is always bound to a namespace, as anybody may write a label";
            return Err(at.field("namespace").error(placed, message));
        }
    };
    let pods = match (gateway, pod_selector) {
        (Some(name), None) if name.value.is_empty() => {
            return Err(at
                .field("gateway")
                .error(&name, "empty; write the name of the Gateway"));
        }
        (Some(name), None) => GatewayPods::Gateway(name.value),
        (None, Some(pods)) => GatewayPods::Selected(selector(&at.field("podSelector"), pods)?),
        (Some(_), Some(_)) | (None, None) => {
            let message = "write exactly one of gateway (the name of a Gateway) and podSelector";
            return Err(at.error(placed, message));
        }
    };
    Ok(GatewayRef { namespace, pods })
}

fn exceptions_of(
    at: &FieldPath,
    exceptions: Vec<Placed<crd::Exception>>,
) -> Result<Vec<Exception>, FieldError> {
    let mut names = BTreeSet::new();
    for (index, exception) in exceptions.iter().enumerate() {
        let name = &exception.value.name;
        let at = at.index(index).field("name");
        if name.value.is_empty() {
            return Err(at.error(name, "empty; an exception is reported by its name"));
        }
        if !names.insert(&name.value) {
            return Err(at.error(
                name,
                format!("another exception has the name {:?}, too", name.value),
            ));
        }
    }
    each(at, exceptions, exception)
}

fn exception(at: &FieldPath, placed: Placed<crd::Exception>) -> Result<Exception, FieldError> {
    if placed.value.namespace_selector.is_none() && placed.value.pod_selector.is_none() {
        let message =
            "say for whom: podSelector or namespaceSelector; write podSelector: {} for every subject";
        return Err(at.error(&placed, message));
    }
    let crd::Exception {
        name,
        namespace_selector,
        pod_selector,
        to,
        ports,
    } = placed.value;
    Ok(Exception {
        name: name.value,
        namespaces: selector(
            &at.field("namespaceSelector"),
            namespace_selector.unwrap_or_default(),
        )?,
        pods: selector(&at.field("podSelector"), pod_selector.unwrap_or_default())?,
        to: each(&at.field("to"), to, block)?,
        ports: ports
            .map(|ports| each(&at.field("ports"), ports, |at, port| port_range(at, &port)))
            .transpose()?,
    })
}

fn block(at: &FieldPath, block: crd::Block) -> Result<Block, FieldError> {
    let cidr = net(&at.field("cidr"), &block.cidr)?;
    let mut except = each(&at.field("except"), block.except, |at, hole| {
        let inner = net(at, &hole)?;
        if !cidr.contains(&inner) {
            return Err(at.error(
                &hole,
                format!("{inner} is not within {cidr}, so there is nothing to except"),
            ));
        }
        Ok(inner)
    })?;
    except.sort_unstable();
    except.dedup();
    Ok(Block { cidr, except })
}

fn net(at: &FieldPath, text: &Placed<crd::Cidr>) -> Result<IpNet, FieldError> {
    let Ok(net) = text.value.0.parse::<IpNet>() else {
        let example = "192.0.2.0/24 or 2001:db8::/32; a single address ends in /32 or /128";
        return Err(at.error(
            text,
            format!("{:?} is not a CIDR prefix such as {example}", text.value.0),
        ));
    };
    if canonical_net(net) != net {
        return Err(at.error(
            text,
            format!("{net} is IPv4 in IPv6's clothes; write {}", canonical_net(net)),
        ));
    }
    if net.trunc() != net {
        return Err(at.error(
            text,
            format!("{net} has bits behind its prefix; write {}", net.trunc()),
        ));
    }
    Ok(net)
}

fn port_range(at: &FieldPath, port: &crd::Port) -> Result<PortRange, FieldError> {
    let crd::Port {
        protocol,
        port,
        end_port,
    } = port;
    let protocol = match protocol {
        crd::Protocol::Tcp => Protocol::TCP,
        crd::Protocol::Udp => Protocol::UDP,
        crd::Protocol::Sctp => Protocol::SCTP,
        crd::Protocol::Icmp => Protocol::ICMP,
    };
    if let (true, Some(port)) = (protocol.is_icmp(), port.as_ref().or(end_port.as_ref())) {
        return Err(at.field("port").error(port, "ICMP has no ports; leave it out"));
    }
    let ports = match (port, end_port) {
        (None, None) => None,
        (None, Some(end)) => return Err(at.field("endPort").error(end, "only together with port")),
        (Some(port), None) => {
            let port = port_number(&at.field("port"), port)?;
            Some((port, port))
        }
        (Some(port), Some(end)) => {
            let first = port_number(&at.field("port"), port)?;
            let last = port_number(&at.field("endPort"), end)?;
            if last < first {
                return Err(at
                    .field("endPort")
                    .error(end, format!("{last} is below port, which is {first}")));
            }
            Some((first, last))
        }
    };
    Ok(PortRange { protocol, ports })
}

fn port_number(at: &FieldPath, number: &Placed<i64>) -> Result<u16, FieldError> {
    match u16::try_from(number.value) {
        Ok(port) if port > 0 => Ok(port),
        Ok(_) | Err(_) => Err(at.error(number, format!("{} is not a port: 1 to 65535", number.value))),
    }
}

/// Reads a selector as Kubernetes would.
pub(in crate::objects) fn selector(
    at: &FieldPath,
    selector: crd::LabelSelector,
) -> Result<Selector, FieldError> {
    let crd::LabelSelector {
        match_labels,
        match_expressions,
    } = selector;
    let labels = match_labels.into_iter().map(|(key, value)| Requirement {
        key,
        operator: Operator::In,
        values: BTreeSet::from([value]),
    });
    let expressions = each(&at.field("matchExpressions"), match_expressions, requirement)?;
    Ok(Selector::new(labels.chain(expressions)))
}

/// The rules are those of Kubernetes: `In` and `NotIn` need values, the others take none.
fn requirement(at: &FieldPath, placed: Placed<crd::Expression>) -> Result<Requirement, FieldError> {
    let crd::Expression {
        key,
        operator,
        values,
    } = &placed.value;
    if key.is_empty() {
        return Err(at.field("key").error(&placed, "empty; write the key of a label"));
    }
    match (operator, values.is_empty()) {
        (Operator::In | Operator::NotIn, true) => Err(at
            .field("values")
            .error(&placed, format!("empty; {operator:?} needs at least one"))),
        (Operator::Exists | Operator::DoesNotExist, false) => Err(at
            .field("values")
            .error(&placed, format!("{operator:?} takes none; leave them out"))),
        (Operator::In | Operator::NotIn, false) | (Operator::Exists | Operator::DoesNotExist, true) => {
            let crd::Expression {
                key,
                operator,
                values,
            } = placed.value;
            Ok(Requirement {
                key,
                operator,
                values: values.into_iter().collect(),
            })
        }
    }
}
