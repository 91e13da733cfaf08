//! Captured pods, from the objects to the programs' decision.

use ebpf::{
    Addr, LeaveReason, RedirectReason,
    capture::{self as kernel_capture, Call, CgroupRef, Fate},
};

use super::*;
use crate::{
    facts::Route,
    project::capture::{CaptureMode, Settings},
};

pub(super) const OUTBOUND: Fate = Fate::Redirect(RedirectReason::Outbound);
pub(super) const DNS: Fate = Fate::Redirect(RedirectReason::Dns);
const INBOUND: Fate = Fate::Redirect(RedirectReason::Inbound);
const RANGE: Fate = Fate::Leave(LeaveReason::ExcludedRange);
const PORT: Fate = Fate::Leave(LeaveReason::ExcludedPort);
const NOT_INCLUDED: Fate = Fate::Leave(LeaveReason::NotIncluded);

const MODE: &str = "sidecar.istio.io/interceptionMode";
const INCLUDE_RANGES: &str = "traffic.sidecar.istio.io/includeOutboundIPRanges";
const EXCLUDE_RANGES: &str = "traffic.sidecar.istio.io/excludeOutboundIPRanges";
const EXCLUDE_PORTS: &str = "traffic.sidecar.istio.io/excludeOutboundPorts";
const INCLUDE_INBOUND: &str = "traffic.sidecar.istio.io/includeInboundPorts";

fn sidecars() -> Settings {
    Settings {
        sidecar: true,
        ..Settings::default()
    }
}

pub(super) fn ambient() -> Settings {
    Settings {
        ambient: true,
        ..Settings::default()
    }
}

/// A pod with these annotations, as YAML, and a sidecar if there is to be one.
pub(super) fn mesh_pod(name: &str, addr: &str, annotations: &str, sidecar: bool) -> String {
    let PodName { namespace, name } = pod_name(name);
    let (status, containers) = if sidecar {
        (
            "sidecar.istio.io/status: '{}', sluice.dev/proxy-cgroup: /cgroup/proxy, ",
            "{name: app}, {name: istio-proxy, args: [proxy, sidecar], env: [{name: ISTIO_META_DNS_CAPTURE, value: 'true'}]}",
        )
    } else {
        ("", "{name: app}")
    };
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{namespace: {namespace}, name: {name}, uid: uid-of-{name}, annotations: {{{status}{annotations}}}}}
spec: {{nodeName: {NODE}, serviceAccountName: reader, containers: [{containers}]}}
status: {{phase: Running, podIPs: [{{ip: {addr}}}]}}
"
    )
}

impl World {
    pub(super) fn capturing(mut self, capture: Settings) -> Self {
        self.capture = capture;
        let cgroup = Cgroup { id: 77, level: 3 };
        self.facts.cgroups.insert("/cgroup/proxy".into(), Ok(cgroup));
        self.facts.netns = Some(NetnsCookie(4000));
        self
    }

    fn sidecar(annotations: &str) -> Self {
        Self::new(&mesh_pod("team/a", "10.1.0.1", annotations, true)).capturing(sidecars())
    }

    /// What becomes of a call of the only pod.
    fn fate(&self, destination: &str, protocol: Protocol, port: u16) -> Fate {
        self.fate_of(1, destination, protocol, port)
    }

    pub(super) fn fate_of(&self, netns: u64, destination: &str, protocol: Protocol, port: u16) -> Fate {
        let desired = self.project().desired;
        let capture = desired.captures.get(&NetnsCookie(netns)).expect("a captured pod");
        let call = Call {
            src: Addr::UNSPECIFIED,
            dst: ip(destination).into(),
            dport: port,
            protocol,
            by_proxy: false,
        };
        kernel_capture::call(&Kernel(&desired), capture, &call)
    }

    fn inbound(&self, port: u16) -> Fate {
        let desired = self.project().desired;
        let capture = desired.captures.get(&NetnsCookie(1)).expect("a captured pod");
        kernel_capture::inbound(&Kernel(&desired), capture, port)
    }

    pub(super) fn inside(&mut self, pod: &str, addresses: &[&str], routes: &[(&str, &str)]) {
        let network = self.facts.pods.get_mut(&pod_name(pod)).expect("a pod");
        let Ok(PodNetwork::Own { inside, .. }) = network else {
            panic!("{pod} has no network of its own")
        };
        inside.addresses = addresses.iter().map(|addr| ip(addr)).collect();
        inside.routes = routes
            .iter()
            .map(|(range, device)| Route {
                range: range.parse().expect("a prefix"),
                devices: vec![(*device).to_owned()],
            })
            .collect();
    }
}

#[test]
fn an_excluded_range_is_let_alone() {
    let world = World::sidecar("traffic.sidecar.istio.io/excludeOutboundIPRanges: 10.10.0.4/32");
    assert_eq!(world.problems(), Vec::<String>::new());
    assert_eq!(world.fate("10.10.0.4", TCP, 80), RANGE);
    assert_eq!(world.fate("10.10.0.5", TCP, 80), OUTBOUND);
    assert_eq!(world.fate("2001:db8::1", TCP, 80), OUTBOUND);
    assert_eq!(world.fate("10.10.0.4", UDP, 53), DNS);
}

#[test]
fn ranges_of_both_families_are_kept_apart() {
    let world = World::sidecar(
        "traffic.sidecar.istio.io/includeOutboundIPRanges: '::/0, 10.0.0.0/8', \
         traffic.sidecar.istio.io/excludeOutboundIPRanges: '10.9.0.0/16,2001:db8:9::/48'",
    );
    assert_eq!(world.fate("2001:db8::1", TCP, 80), OUTBOUND);
    assert_eq!(world.fate("10.1.2.3", TCP, 80), OUTBOUND);
    assert_eq!(world.fate("192.0.2.1", TCP, 80), NOT_INCLUDED, "not of ::/0");
    assert_eq!(world.fate("10.9.2.3", TCP, 80), RANGE);
    assert_eq!(world.fate("2001:db8:9::1", TCP, 80), RANGE);
}

#[test]
fn an_empty_list_includes_nothing() {
    let world = World::sidecar("traffic.sidecar.istio.io/includeOutboundIPRanges: ''");
    assert_eq!(world.fate("192.0.2.1", TCP, 80), NOT_INCLUDED);
    let world = World::sidecar(
        "traffic.sidecar.istio.io/includeOutboundIPRanges: '', traffic.sidecar.istio.io/includeOutboundPorts: '80,443'",
    );
    assert_eq!(world.fate("192.0.2.1", TCP, 80), OUTBOUND);
    assert_eq!(world.fate("192.0.2.1", TCP, 81), NOT_INCLUDED);
    let world = World::sidecar("traffic.sidecar.istio.io/includeInboundPorts: ''");
    assert_eq!(world.inbound(80), Fate::Leave(LeaveReason::Bypass));
    assert!(!world.project().captured[&NetnsCookie(1)].inbound);
}

#[test]
fn excluded_ports_come_first() {
    let world = World::sidecar(
        "traffic.sidecar.istio.io/excludeOutboundPorts: '53,80', traffic.sidecar.istio.io/includeOutboundPorts: '80'",
    );
    assert_eq!(world.fate("192.0.2.1", TCP, 80), PORT);
    assert_eq!(world.fate("192.0.2.1", UDP, 53), PORT);
    assert_eq!(
        world.fate("192.0.2.1", TCP, 15020),
        OUTBOUND,
        "the list is another"
    );
    let world = World::sidecar("a: b");
    assert_eq!(world.fate("192.0.2.1", TCP, 15020), PORT);
}

#[test]
fn inbound_ports_are_all_but_the_sidecars_own_or_those_that_are_named() {
    let world = World::sidecar(
        "status.sidecar.istio.io/port: '1234', traffic.sidecar.istio.io/excludeInboundPorts: '99'",
    );
    for port in [15020, 15021, 15090, 1234, 99] {
        assert_eq!(world.inbound(port), PORT, "{port}");
    }
    assert_eq!(world.inbound(80), INBOUND);
    assert_eq!(world.inbound(15008), Fate::Leave(LeaveReason::Hbone));
    let world = World::sidecar(
        "traffic.sidecar.istio.io/includeInboundPorts: '80,99', traffic.sidecar.istio.io/excludeInboundPorts: '99'",
    );
    assert_eq!(world.inbound(99), INBOUND, "exclusions are of * only");
    assert_eq!(world.inbound(81), NOT_INCLUDED);
}

#[test]
fn what_cannot_be_read_captures_more() {
    let world = World::sidecar(
        "traffic.sidecar.istio.io/includeOutboundIPRanges: '10.0.0.0/8,ten', \
         traffic.sidecar.istio.io/excludeOutboundIPRanges: '192.0.2.1,192.0.2.2/32,*', \
         traffic.sidecar.istio.io/includeInboundPorts: '80,-1', \
         traffic.sidecar.istio.io/excludeOutboundPorts: '80,http', sidecar.istio.io/interceptionMode: SOMEHOW",
    );
    let key = "warning Pod team/a: annotation";
    assert_eq!(
        world.problems(),
        [
            format!("{key} {MODE}: \"SOMEHOW\" is not REDIRECT, TPROXY or NONE; it is ignored"),
            format!("{key} {EXCLUDE_RANGES}: \"192.0.2.1\" is not a range (CIDR); it is left out"),
            format!("{key} {EXCLUDE_RANGES}: \"*\" is not a range (CIDR); it is left out"),
            format!("{key} {EXCLUDE_PORTS}: \"http\" is not a port; it is left out"),
            format!(
                "{key} {INCLUDE_RANGES}: \"ten\" is not a range (CIDR); \"10.0.0.0/8,ten\" is taken for *, so that \
                 nothing escapes"
            ),
            format!(
                "{key} {INCLUDE_INBOUND}: \"-1\" is not a port; \"80,-1\" is taken for *, so that nothing escapes"
            ),
        ]
    );
    assert_eq!(world.fate("198.51.100.1", TCP, 443), OUTBOUND);
    assert_eq!(world.fate("192.0.2.1", TCP, 443), OUTBOUND);
    assert_eq!(world.fate("192.0.2.2", TCP, 443), RANGE);
    assert_eq!(world.fate("192.0.2.1", TCP, 80), PORT);
    assert_eq!(world.inbound(81), INBOUND);
}

#[test]
fn what_goes_out_by_an_excluded_device_is_let_alone() {
    let mut world = World::sidecar("traffic.sidecar.istio.io/excludeInterfaces: 'net1, net2'");
    let routes = [
        ("0.0.0.0/0", "eth0"),
        ("172.16.0.0/12", "net1"),
        ("172.16.5.0/24", "eth0"),
        ("::/0", "net2"),
    ];
    world.inside("team/a", &[], &routes);
    assert_eq!(world.fate("172.16.1.1", TCP, 80), RANGE);
    assert_eq!(world.fate("172.16.5.1", TCP, 80), OUTBOUND, "a longer route");
    assert_eq!(world.fate("192.0.2.1", TCP, 80), OUTBOUND);
    assert_eq!(world.fate("2001:db8::1", TCP, 80), RANGE);
    let captured = &world.project().captured[&NetnsCookie(1)];
    assert_eq!(captured.excluded_interfaces.len(), 2);
}

#[test]
fn a_sidecar_that_is_not_told_is_captured_itself() {
    let mut world = World::sidecar("a: b");
    world
        .facts
        .cgroups
        .insert("/cgroup/proxy".into(), Err("it is gone".into()));
    let gone = "error Pod team/a: the cgroup of its proxy cannot be found: it is gone";
    assert_eq!(world.problems(), [gone]);
    let unnamed = mesh_pod("team/a", "10.1.0.1", "a: b", true).replace("sluice.dev/proxy-cgroup", "x");
    let world = World::new(&unnamed).capturing(sidecars());
    assert!(matches!(
        world.problems().as_slice(),
        [problem] if problem.starts_with("error Pod team/a: the cgroup of its sidecar is not known")
            && problem.ends_with("name it with the annotation sluice.dev/proxy-cgroup")
    ));
    let capture = world.project().desired.captures[&NetnsCookie(1)];
    assert!(capture.proxies().iter().all(|proxy| *proxy == CgroupRef::NONE));
}

#[test]
fn users_count_only_where_the_operator_says_so() {
    let text = mesh_pod("team/a", "10.1.0.1", "a: b", true).replace(
        "args: [proxy",
        "securityContext: {runAsUser: 2000, runAsGroup: 0}, args: [proxy",
    );
    let world = World::new(&text).capturing(sidecars());
    assert!(!world.project().desired.captures[&NetnsCookie(1)].has_proxy_user());
    let world = World::new(&text).capturing(Settings {
        proxy_uid: Some(1337),
        proxy_gid: Some(1338),
        ..sidecars()
    });
    let capture = world.project().desired.captures[&NetnsCookie(1)];
    assert!(capture.is_proxy_user(2000, 0) && capture.is_proxy_user(0, 1338));
    assert!(!capture.is_proxy_user(1337, 0));
}

#[test]
fn ambient_pods_are_handed_over_with_their_annotations() {
    let annotations = "ambient.istio.io/dns-capture: F, ambient.istio.io/bypass-inbound-capture: '1', \
                       istio.io/reroute-virtual-interfaces: ' tap0 ,docker0', \
                       traffic.sidecar.istio.io/excludeOutboundIPRanges: 10.10.0.4/32";
    let objects = [
        namespace("team", "istio.io/dataplane-mode: ambient"),
        mesh_pod("team/a", "10.1.0.1", annotations, false),
        mesh_pod(
            "team/b",
            "10.1.0.2",
            "ambient.istio.io/dns-capture: perhaps",
            false,
        ),
    ];
    let mut world = World::new(&objects.concat()).capturing(ambient());
    world.proxies = vec![Proxy {
        cgroup: Cgroup { id: 5, level: 2 },
        path: "/cgroup/ztunnel".into(),
    }];
    assert_eq!(world.fate("10.10.0.4", TCP, 80), OUTBOUND, "of sidecars only");
    assert_eq!(world.fate("10.10.0.4", TCP, 53), OUTBOUND);
    assert_eq!(world.fate_of(2, "10.10.0.4", TCP, 53), DNS);
    assert_eq!(world.inbound(80), Fate::Leave(LeaveReason::Bypass));
    let projection = world.project();
    let captured = &projection.captured[&NetnsCookie(1)];
    assert_eq!(captured.mode, CaptureMode::InPod);
    assert_eq!(
        captured.virtual_interfaces,
        ["docker0", "tap0"].map(str::to_owned).into()
    );
    assert_eq!(captured.proxies, world.proxies);
    let workload = captured.workload.as_ref().expect("a workload");
    assert_eq!(
        (workload.uid.0.as_str(), workload.service_account.as_str()),
        ("uid-of-a", "reader")
    );
    assert_eq!(projection.report.endpoints[0].capture, Some(CaptureMode::InPod));
    let owner = projection.desired.owners[&Addr::from(ip("10.1.0.2"))];
    assert_eq!(owner, NetnsCookie(2));
    for identity in [Identity::Netns(1), Identity::Device(1)] {
        assert_eq!(projection.desired.endpoints[&identity].captured(), 1);
    }
    let ignored = "warning Pod team/b: annotation ambient.istio.io/dns-capture: \"perhaps\" is not true or false; it is \
                   ignored";
    assert_eq!(world.problems(), [ignored]);
}

#[test]
fn an_address_is_one_namespaces_and_the_clusters_word_counts_more_than_what_is_found_inside() {
    let ambient_pods = |second: &str| {
        [
            namespace("team", "istio.io/dataplane-mode: ambient"),
            mesh_pod("team/a", "10.1.0.1", "a: b", false),
            mesh_pod("team/b", second, "a: b", false),
        ]
        .concat()
    };
    let owner =
        |world: &World, addr: &str| world.project().desired.owners.get(&Addr::from(ip(addr))).copied();
    let known = |world: &mut World| {
        world.proxies = vec![Proxy {
            cgroup: Cgroup { id: 5, level: 2 },
            path: "/cgroup/ztunnel".into(),
        }];
    };
    let mut world = World::new(&ambient_pods("10.1.0.2")).capturing(ambient());
    known(&mut world);
    world.inside("team/b", &["10.1.0.1", "10.1.0.9", "172.17.0.1"], &[]);
    world.inside("team/a", &["10.1.0.1", "172.17.0.1"], &[]);
    assert_eq!(
        owner(&world, "10.1.0.1"),
        Some(NetnsCookie(1)),
        "whatever team/b gives itself"
    );
    assert_eq!(owner(&world, "10.1.0.9"), Some(NetnsCookie(2)));
    assert_eq!(owner(&world, "172.17.0.1"), None);
    let shared = "warning several captured namespaces have the address 172.17.0.1: team/a, team/b; it counts as none of \
                  theirs";
    assert_eq!(world.problems(), [shared]);
    let mut world = World::new(&ambient_pods("10.1.0.1")).capturing(ambient());
    known(&mut world);
    assert_eq!(owner(&world, "10.1.0.1"), None);
    let shared = "error several captured namespaces have the address 10.1.0.1: team/a, team/b; calls to it are captured for \
                  none of them";
    assert_eq!(world.problems(), [shared]);
}
