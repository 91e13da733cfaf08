//! Projections against the definitions, read naively, on generated objects.

use std::{collections::BTreeSet, net::Ipv4Addr, path::Path, sync::Arc};

use ipnet::Ipv4Net;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{
    objects::{
        Block, EgressPolicy, EntryPort, Exception, GatewayDestinations, GatewayPods, GatewayRef, Labels,
        Mesh, Mode, ObjectName, OnDeny, Pod, PortRange, Resolution, Selector, ServiceEntry, Stored, Subjects,
    },
    problem::Origin,
    source::AnyObject,
};

fn stored<T>(object: T) -> Arc<Stored<T>> {
    Arc::new(Stored {
        object,
        origin: Origin::line(Path::new("generated").into(), 1),
    })
}

/// Prefixes in a corner of the addresses that is small enough to collide in.
fn prefix() -> impl Strategy<Value = IpNet> {
    let v4 = (0..64u8, 25..=32u8).prop_map(|(host, bits)| {
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 2, host), bits).trunc())
    });
    let wide = prop::sample::select(vec!["0.0.0.0/0", "192.0.0.0/8", "::/0", "::/64", "2001:db8::/32"]);
    prop_oneof![9 => v4, 1 => wide.prop_map(|text| text.parse().expect("a prefix"))]
}

fn block() -> impl Strategy<Value = Block> {
    (prefix(), vec(prefix(), 0..3)).prop_map(|(cidr, except)| {
        let except: BTreeSet<_> = except.into_iter().filter(|hole| cidr.contains(hole)).collect();
        Block {
            cidr,
            except: except.into_iter().collect(),
        }
    })
}

fn port_range() -> impl Strategy<Value = PortRange> {
    let protocol = prop::sample::select(vec![TCP, UDP, Protocol::ICMP]);
    (protocol, prop::option::of((0..20u16, 0..20u16))).prop_map(|(protocol, ports)| PortRange {
        protocol,
        ports: ports
            .filter(|_| protocol.has_ports())
            .map(|(a, b)| (a.min(b), a.max(b))),
    })
}

/// By the label `app`, of which there are three values, or everything.
fn selector() -> impl Strategy<Value = Selector> {
    prop::option::of(0..3u8)
        .prop_map(|app| app.map_or_else(Selector::default, |app| Selector::labels(&labels(app))))
}

fn labels(app: u8) -> Labels {
    Labels::from([("app".to_owned(), app.to_string())])
}

fn exception() -> impl Strategy<Value = Exception> {
    (
        selector(),
        vec(block(), 0..3),
        prop::option::of(vec(port_range(), 0..3)),
    )
        .prop_map(|(pods, to, ports)| Exception {
            name: "x".into(),
            namespaces: Selector::default(),
            pods,
            to,
            ports,
        })
}

fn policy() -> impl Strategy<Value = EgressPolicy> {
    let gateway = selector().prop_map(|pods| GatewayRef {
        namespace: "default".into(),
        pods: GatewayPods::Selected(pods),
    });
    let modes = prop::sample::select(vec![Mode::Enforce, Mode::Enforce, Mode::Audit]);
    let whereto = prop::sample::select(vec![GatewayDestinations::Registry, GatewayDestinations::Any]);
    (
        modes,
        selector(),
        vec(gateway, 0..2),
        whereto,
        vec(exception(), 0..3),
    )
        .prop_map(
            |(mode, pods, gateways, gateway_destinations, exceptions)| EgressPolicy {
                uid: None,
                generation: None,
                name: String::new(),
                mode,
                subjects: Subjects {
                    pods,
                    ..Subjects::default()
                },
                gateways,
                gateway_destinations,
                exceptions,
                on_deny: OnDeny::Reject,
            },
        )
}

fn entry() -> impl Strategy<Value = ServiceEntry> {
    let port = (prop::sample::select(vec![TCP, UDP]), 1..20u16);
    (vec(prefix(), 0..4), vec(port, 0..3)).prop_map(|(addresses, ports)| ServiceEntry {
        name: ObjectName::new("default", ""),
        hosts: Vec::new(),
        addresses,
        ports: ports
            .into_iter()
            .map(|(transport, target)| EntryPort {
                name: String::new(),
                transport,
                target,
            })
            .collect(),
        resolution: Resolution::None,
        endpoints: Vec::new(),
        selects_workloads: false,
    })
}

/// Three pods, one of each label.
fn world(policies: Vec<EgressPolicy>, entries: Vec<ServiceEntry>, internal: Vec<IpNet>) -> World {
    let mut world = World {
        stores: Stores::default(),
        facts: Facts::default(),
        names: Names::default(),
        internal,
        capture: capture::Settings::default(),
        enrolled: Vec::new(),
        proxies: Vec::new(),
    };
    let mut objects = Vec::new();
    for app in 0..3 {
        let name = pod_name(&format!("default/{app}"));
        world.facts.pods.insert(name.clone(), Ok(own(u32::from(app) + 1)));
        objects.push(AnyObject::Pod(stored(Pod {
            name,
            uid: None,
            labels: labels(app),
            node: Some(NODE.into()),
            host_network: false,
            // Away from the corner, so that none of them is its own destination.
            addresses: vec![IpAddr::V4(Ipv4Addr::new(198, 18, 0, app + 1))],
            finished: false,
            netns: None,
            cgroup: None,
            proxy_cgroup: None,
            kubelet_uid: None,
            sidecar_container: None,
            workload: None,
            service_account: "default".into(),
            mesh: Mesh::default(),
        })));
    }
    for (number, policy) in policies.into_iter().enumerate() {
        objects.push(AnyObject::EgressPolicy(stored(EgressPolicy {
            name: number.to_string(),
            ..policy
        })));
    }
    for (number, entry) in entries.into_iter().enumerate() {
        let name = ObjectName::new("default", number.to_string());
        objects.push(AnyObject::ServiceEntry(stored(ServiceEntry { name, ..entry })));
    }
    for object in objects {
        world.stores.insert(object).expect("a new one");
    }
    world
}

/// What the definitions say. `None`: no policy selects the pod.
fn model(world: &World, pod: &Pod, dst: IpAddr, protocol: Protocol, port: u16) -> Option<bool> {
    let is_gateway = |policy: &EgressPolicy| {
        policy.gateways.iter().any(|gateway| match &gateway.pods {
            GatewayPods::Gateway(_) => false,
            GatewayPods::Selected(selector) => selector.matches(&pod.labels),
        })
    };
    let policies = world.stores.policies.values();
    let selecting: Vec<_> = policies
        .filter(|policy| is_gateway(policy) || policy.subjects.pods.matches(&pod.labels))
        .collect();
    let enforced = selecting.iter().any(|policy| policy.mode == Mode::Enforce);
    let mut counting = selecting
        .iter()
        .filter(|policy| !enforced || policy.mode == Mode::Enforce)
        .peekable();
    counting.peek()?;
    let own_pods = world.stores.pods.values().flat_map(|pod| pod.addresses.clone());
    if world.internal.iter().any(|range| range.contains(&dst)) || own_pods.into_iter().any(|addr| addr == dst)
    {
        return Some(true);
    }
    let is_port = |ports: &PortRange| {
        ports.protocol == protocol
            && ports
                .ports
                .is_none_or(|(first, last)| (first..=last).contains(&port))
    };
    Some(
        counting.all(|policy| match (is_gateway(policy), policy.gateway_destinations) {
            (true, GatewayDestinations::Any) => true,
            (true, GatewayDestinations::Registry) => world.stores.service_entries.values().any(|entry| {
                entry.addresses.iter().any(|prefix| prefix.contains(&dst))
                    && entry
                        .ports
                        .iter()
                        .any(|own| own.transport == protocol && own.target == port)
            }),
            (false, _) => policy.exceptions.iter().any(|exception| {
                exception.pods.matches(&pod.labels)
                    && exception.to.iter().any(|block| {
                        block.cidr.contains(&dst) && !block.except.iter().any(|hole| hole.contains(&dst))
                    })
                    && exception
                        .ports
                        .as_ref()
                        .is_none_or(|ports| ports.iter().any(is_port))
            }),
        }),
    )
}

fn destination() -> impl Strategy<Value = IpAddr> {
    let corner = (0..64u8).prop_map(|host| IpAddr::V4(Ipv4Addr::new(192, 0, 2, host)));
    let others = prop::sample::select(vec!["192.1.2.3", "203.0.113.1", "2001:db8::1", "2001:db9::1"]);
    prop_oneof![9 => corner, 1 => others.prop_map(ip)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_programs_say_what_the_definitions_say(
        policies in vec(policy(), 0..4),
        entries in vec(entry(), 0..4),
        internal in vec(prefix(), 0..2),
        calls in vec((destination(), prop::sample::select(vec![TCP, UDP, Protocol::ICMP]), 0..20u16), 32),
    ) {
        let world = world(policies, entries, internal);
        let desired = world.project().desired;
        for (dst, protocol, port) in calls {
            let port = if protocol.has_ports() { port } else { 0 };
            for pod in world.stores.pods.values() {
                let identity = world.identity(&pod.name.to_string());
                let verdict = Kernel(&desired).call(identity, dst, protocol, port);
                let allowed = verdict.map(|verdict| matches!(verdict, Verdict::Allow(_)));
                let expected = model(&world, pod, dst, protocol, port).unwrap_or(true);
                prop_assert_eq!(allowed, Some(expected), "{} to {} {:?} {}", pod.name, dst, protocol, port);
                // What is said to be the reason agrees with what is done.
                let said = crate::project::explain(&world.input(), &pod.name, dst, protocol, port);
                let said = said.expect("a pod");
                let counting: Vec<_> = said.policies.iter().filter(|policy| policy.effective).collect();
                let permits = !said.internal.is_empty() || counting.iter().all(|policy| policy.permits);
                prop_assert_eq!(permits, expected);
            }
        }
        // Nothing is said twice: an entry differs from what covers it.
        for (prefix, groups) in &desired.destinations {
            let around = desired.destinations.iter().filter(|(outer, _)| *outer != prefix && outer.contains(prefix));
            let nearest = around.max_by_key(|(outer, _)| outer.prefix_len());
            prop_assert!(nearest.is_none_or(|(_, outer)| outer != groups), "{}", prefix);
        }
    }
}
