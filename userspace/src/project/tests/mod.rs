mod capture_model;
mod captured;
mod captured_by_node;
mod eligible;
mod model;
mod registry;
mod report;
mod semantics;

use std::{fs, net::IpAddr};

use ebpf::{
    AllowReason, DropReason,
    decide::Verdict,
    packet::Protocol,
    rules::{Endpoint, Identity},
};
use ipnet::IpNet;

use super::{Input, Kernel, Projection, Proxy, capture, project};
use crate::{
    enrolled::Enrolled,
    facts::{Cgroup, Facts, IfIndex, Inside, NetnsCookie, PodDevice, PodName, PodNetwork},
    names::{Names, Resolved},
    objects::Host,
    source::{Directory, Stores},
};

const NODE: &str = "this";
const TCP: Protocol = Protocol::TCP;
const UDP: Protocol = Protocol::UDP;

/// Everything that a projection is made of.
struct World {
    stores: Stores,
    facts: Facts,
    names: Names,
    internal: Vec<IpNet>,
    capture: capture::Settings,
    enrolled: Vec<Enrolled>,
    proxies: Vec<Proxy>,
}

impl World {
    /// With these objects, and every local pod found on the node.
    fn new(yaml: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("all.yaml"), yaml).expect("written");
        let loaded = Directory::open(folder.path()).expect("a directory").load();
        assert_eq!(loaded.problems, [], "{yaml}");
        let mut world = Self {
            stores: loaded.stores,
            facts: Facts::default(),
            names: Names::default(),
            internal: vec!["10.0.0.0/8".parse().expect("a prefix")],
            capture: capture::Settings::default(),
            enrolled: Vec::new(),
            proxies: Vec::new(),
        };
        let local = world.stores.pods.values().filter(|pod| pod.is_local(NODE));
        for (number, pod) in (1..).zip(local) {
            let network = if pod.host_network {
                PodNetwork::Host {
                    cgroup: Cgroup {
                        id: u64::from(number),
                        level: 3,
                    },
                    path: format!("/cgroup/{number}").into(),
                }
            } else {
                own(number)
            };
            world.facts.pods.insert(pod.name.clone(), Ok(network));
        }
        world
    }

    fn resolve(mut self, host: &str, addresses: &[&str]) -> Self {
        let addresses = addresses.iter().map(|addr| ip(addr)).collect();
        let known = self
            .names
            .iter()
            .map(|(host, resolved)| (host.clone(), resolved.clone()));
        let new = (
            Host::new(host),
            Resolved {
                addresses,
                error: None,
            },
        );
        self.names = known.chain([new]).collect();
        self
    }

    fn input(&self) -> Input<'_> {
        let Self {
            stores,
            facts,
            names,
            internal,
            capture,
            enrolled,
            proxies,
        } = self;
        Input {
            node: NODE,
            stores,
            facts,
            names,
            internal,
            capture,
            enrolled,
            proxies,
        }
    }

    fn project(&self) -> Projection {
        project(&self.input())
    }

    fn identity(&self, pod: &str) -> Identity {
        match &self.facts.pods[&pod_name(pod)] {
            Ok(PodNetwork::Own { netns, .. }) => Identity::Netns(netns.0),
            Ok(PodNetwork::Host { cgroup, .. }) => Identity::Cgroup(cgroup.id),
            Err(reason) => panic!("{pod}: {reason}"),
        }
    }

    fn endpoint(&self, pod: &str) -> Option<Endpoint> {
        self.project().desired.endpoints.get(&self.identity(pod)).copied()
    }

    /// What the programs would say.
    fn verdict(&self, pod: &str, destination: &str, protocol: Protocol, port: u16) -> Verdict {
        let desired = self.project().desired;
        let verdict = Kernel(&desired).call(self.identity(pod), ip(destination), protocol, port);
        verdict.unwrap_or_else(|| panic!("{pod} is no endpoint"))
    }

    fn allows(&self, pod: &str, destination: &str, protocol: Protocol, port: u16) -> bool {
        matches!(self.verdict(pod, destination, protocol, port), Verdict::Allow(_))
    }

    fn problems(&self) -> Vec<String> {
        self.project()
            .report
            .problems
            .iter()
            .map(|problem| {
                let object = problem
                    .object
                    .as_ref()
                    .map(|object| format!("{object}: "))
                    .unwrap_or_default();
                format!("{} {object}{}", problem.severity, problem.message)
            })
            .collect()
    }
}

/// A pod's network with one device.
fn own(number: u32) -> PodNetwork {
    let device = PodDevice {
        index: IfIndex(number),
        name: format!("veth{number}"),
        mac: [2, 0, 0, 0, 0, 1],
        bridged: false,
    };
    PodNetwork::Own {
        netns: NetnsCookie(u64::from(number)),
        devices: vec![device],
        path: format!("/run/netns/{number}").into(),
        inside: Inside::default(),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn pod_name(text: &str) -> PodName {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    PodName {
        namespace: namespace.into(),
        name: name.into(),
    }
}

/// A pod of this node.
fn pod(name: &str, addr: &str, labels: &str) -> String {
    let PodName { namespace, name } = pod_name(name);
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{namespace: {namespace}, name: {name}, labels: {{{labels}}}}}
spec: {{nodeName: {NODE}, containers: []}}
status: {{phase: Running, podIPs: [{{ip: {addr}}}]}}
"
    )
}

fn namespace(name: &str, labels: &str) -> String {
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n")
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: sluice.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: {name}}}\nspec:\n{spec}\n"
    )
}

fn service_entry(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{namespace: egress, name: {name}}}\nspec:\n{spec}\n"
    )
}

/// Two applications and a gateway in namespaces of their own, and one host in the registry.
fn cluster() -> String {
    [
        namespace("team", "tier: apps"),
        namespace("egress", ""),
        pod("team/a", "10.1.0.1", "app: a"),
        pod("team/b", "10.1.0.2", "app: b"),
        pod("egress/gw", "10.1.0.3", "gateway.networking.k8s.io/gateway-name: waypoint"),
        service_entry(
            "web",
            "  hosts: [web.example]\n  ports: [{number: 443, name: tls, protocol: TLS}]\n  resolution: STATIC\n  \
             endpoints: [{address: 198.51.100.1}]",
        ),
    ]
    .concat()
}

const WAYPOINT: &str = "  gateways: [{namespace: egress, gateway: waypoint}]\n";
const NOT_GATEWAY: Verdict = Verdict::Deny(DropReason::NotGateway);
const RULE: Verdict = Verdict::Allow(AllowReason::Rule);
