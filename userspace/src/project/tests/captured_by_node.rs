//! The proxy on the node, and namespaces that somebody has enrolled.

use ebpf::{
    Addr,
    capture::{Capture, Mode as KernelMode},
    rules::Enforcement,
};

use super::{
    captured::{DNS, OUTBOUND, ambient, mesh_pod},
    *,
};
use crate::{
    enrolled,
    project::capture::{CaptureMode, NotCaptured, Settings},
};

const NODE_COOKIE: NetnsCookie = NetnsCookie(4000);
const NODE_PROXY: Identity = Identity::Cgroup(77);

fn node_proxy() -> Settings {
    Settings {
        node_proxy: Some(9001),
        node_proxy_dns: Some(9053),
        node_proxy_cgroup: Some("/cgroup/proxy".into()),
        ..Settings::default()
    }
}

/// A pod that the node proxy captures, on a node with addresses.
fn world(extra: &str) -> World {
    let objects = [
        namespace("team", "sluice.dev/capture: node"),
        pod("team/a", "10.1.0.1", ""),
        extra.to_owned(),
    ];
    let mut world = World::new(&objects.concat()).capturing(node_proxy());
    world.facts.own_addresses = ["127.0.0.1", "169.254.1.1", "192.0.2.7", "fe80::1", "2001:db8::7"]
        .map(ip)
        .into();
    world
}

fn hosted(name: &str, cgroup: &str) -> String {
    pod(name, "192.0.2.7", "")
        .replace("containers", "hostNetwork: true, containers")
        .replace(
            "labels: {}",
            &format!("labels: {{}}, annotations: {{sluice.dev/cgroup: {cgroup}}}"),
        )
}

#[test]
fn calls_go_to_the_proxys_ports_on_the_node() {
    let world = world("");
    assert_eq!(world.fate_of(1, "203.0.113.1", TCP, 443), OUTBOUND);
    assert_eq!(world.fate_of(1, "203.0.113.1", UDP, 53), DNS);
    let projection = world.project();
    let desired = projection.desired;
    let capture = desired.captures[&NetnsCookie(1)];
    assert_eq!(capture.mode(), KernelMode::Node);
    assert_eq!(capture.port_for(ebpf::RedirectReason::Outbound), 9001);
    assert_eq!(capture.port_for(ebpf::RedirectReason::Dns), 9053);
    assert_eq!(
        capture.dns_for(Addr::v4([1, 1, 1, 1])),
        Addr::from(ip("192.0.2.7"))
    );
    assert_eq!(
        capture.dns_for(Addr::from(ip("2001:db8::1"))),
        Addr::from(ip("2001:db8::7"))
    );
    assert_eq!(desired.endpoints[&Identity::Device(1)].captured(), 1);
    let guard = desired.captures[&NODE_COOKIE];
    assert_eq!(guard.mode(), KernelMode::Guard);
    assert!(guard.is_proxy(|level| if level == 3 { 77 } else { 0 }));
    assert_eq!(desired.owners[&Addr::from(ip("192.0.2.7"))], NODE_COOKIE);
    assert!(!desired.owners.contains_key(&Addr::from(ip("169.254.1.1"))));
    assert_eq!(projection.captured.len(), 1, "the node itself is not captured");
    assert_eq!(projection.report.problems, []);
}

#[test]
fn a_pod_may_keep_its_dns() {
    let objects = mesh_pod(
        "team/b",
        "10.1.0.2",
        "ambient.istio.io/dns-capture: 'false'",
        false,
    );
    let world = world(&objects);
    assert_eq!(world.fate_of(2, "203.0.113.1", TCP, 53), OUTBOUND);
}

#[test]
fn a_proxy_that_is_not_told_gets_nothing() {
    let mut world = world("");
    world
        .facts
        .cgroups
        .insert("/cgroup/proxy".into(), Err("it is gone".into()));
    let capture: Capture = world.project().desired.captures[&NetnsCookie(1)];
    assert_eq!(capture.port_for(ebpf::RedirectReason::Outbound), 0);
    let problems = world.problems();
    assert!(
        problems
            .iter()
            .any(|problem| problem.starts_with("error --node-proxy-cgroup: it is gone"))
    );
}

#[test]
fn the_node_proxy_may_not_more_than_a_subject() {
    let empty = |world: &World| {
        let desired = world.project().desired;
        let verdict = Kernel(&desired).call(NODE_PROXY, ip("203.0.113.1"), TCP, 443);
        let inside = Kernel(&desired).call(NODE_PROXY, ip("10.1.0.1"), TCP, 443);
        (verdict, inside, desired.cgroup_levels)
    };
    assert_eq!(empty(&world("")), (None, None, 0), "nothing is enforced");
    let enforced = world(&policy(
        "p",
        "  gatewayDestinations: Any\n  gateways: [{namespace: team, podSelector: {}}]",
    ));
    let inside = Verdict::Allow(AllowReason::Internal);
    assert_eq!(empty(&enforced), (Some(NOT_GATEWAY), Some(inside), 1 << 3));
    let audited = world(&policy("p", "  mode: Audit"));
    let desired = audited.project().desired;
    assert_eq!(desired.enforcement, Enforcement::Audit);
    assert!(desired.endpoints[&NODE_PROXY].is_audited());
}

#[test]
fn a_node_proxy_that_is_a_pod_is_held_as_that_pod_if_a_policy_selects_it() {
    let gateway = "  gatewayDestinations: Any\n  gateways: [{namespace: mesh, podSelector: {}}]";
    let host = hosted("mesh/proxy", "/cgroup");
    let held = |objects: &[String]| {
        let mut world = world(&objects.concat());
        // The pod's cgroup is around the proxy's.
        let outer = PodNetwork::Host {
            cgroup: Cgroup { id: 70, level: 2 },
            path: "/cgroup".into(),
        };
        world.facts.pods.insert(pod_name("mesh/proxy"), Ok(outer));
        let desired = world.project().desired;
        let call = |id| Kernel(&desired).call(Identity::Cgroup(id), ip("203.0.113.1"), TCP, 443);
        (call(70), call(77))
    };
    let selected = held(&[namespace("mesh", ""), host.clone(), policy("p", gateway)]);
    assert_eq!(selected, (Some(RULE), None));
    let exempt = held(&[namespace("mesh", ""), host, policy("p", "  {}")]);
    assert_eq!(exempt, (Some(NOT_GATEWAY), None), "otherwise it were a way round");
}

fn enrol(world: &mut World, path: &str, name: Option<&str>, mode: enrolled::Mode, number: u32) {
    world.enrolled.push(Enrolled {
        netns: path.into(),
        mode,
        name: name.map(pod_name),
        proxy_cgroups: vec!["/cgroup/proxy".into()],
    });
    world.facts.enrolled.insert(path.into(), Ok(own(number)));
}

#[test]
fn an_enrolled_namespace_is_captured_as_nobodys() {
    let mut world = World::new("").capturing(Settings::default());
    enrol(&mut world, "/run/netns/x", None, enrolled::Mode::InPod, 9);
    let Some(Ok(PodNetwork::Own { inside, .. })) = world.facts.enrolled.values_mut().next() else {
        panic!("it is there")
    };
    inside.addresses = [ip("10.7.0.1")].into();
    assert_eq!(world.fate_of(9, "203.0.113.1", TCP, 443), OUTBOUND);
    let projection = world.project();
    let endpoint = projection.desired.endpoints[&Identity::Device(9)];
    assert!(endpoint.is_stranger() && endpoint.captured() == 9);
    assert_eq!(projection.desired.endpoints.get(&Identity::Netns(9)), None);
    let captured = &projection.captured[&NetnsCookie(9)];
    assert_eq!((captured.name.as_str(), &captured.pod), ("/run/netns/x", &None));
    assert_eq!(captured.workload, None);
    assert_eq!(captured.proxies.len(), 1);
    assert_eq!(
        projection.desired.owners[&Addr::from(ip("10.7.0.1"))],
        NetnsCookie(9)
    );
    assert_eq!(projection.report.problems, []);
    world
        .facts
        .enrolled
        .insert("/run/netns/x".into(), Err("no such file".into()));
    assert_eq!(
        world.problems(),
        ["error enrolled network namespace /run/netns/x is not captured: no such file"]
    );
}

#[test]
fn an_enrolled_namespace_that_is_a_pod_is_that_pod() {
    let unbound = pod("team/b", "10.1.0.2", "").replace("nodeName: this, ", "");
    let objects = [
        namespace("team", "istio.io/dataplane-mode: none"),
        pod("team/a", "10.1.0.1", ""),
        unbound,
    ];
    let mut world = World::new(&objects.concat()).capturing(Settings {
        excluded_namespaces: vec!["team".into()],
        ..ambient()
    });
    // The one because it is the same namespace, the other by its name.
    enrol(&mut world, "/run/netns/a", None, enrolled::Mode::InPod, 1);
    enrol(
        &mut world,
        "/run/netns/b",
        Some("team/b"),
        enrolled::Mode::InPod,
        2,
    );
    let projection = world.project();
    for (cookie, name) in [(1, "team/a"), (2, "team/b")] {
        let captured = &projection.captured[&NetnsCookie(cookie)];
        assert_eq!(captured.pod, Some(pod_name(name)), "enrolment beats labels");
        let endpoint = projection.desired.endpoints[&Identity::Device(u32::try_from(cookie).expect("small"))];
        assert!(!endpoint.is_stranger() && endpoint.captured() == cookie);
    }
    let modes: Vec<_> = projection
        .report
        .endpoints
        .iter()
        .map(|endpoint| endpoint.capture)
        .collect();
    assert_eq!(modes, [Some(CaptureMode::InPod); 2]);
    assert_eq!(projection.report.problems, []);
}

#[test]
fn what_is_enrolled_for_a_node_proxy_that_is_not_there_gets_nowhere() {
    let mut world = World::new("").capturing(Settings::default());
    enrol(
        &mut world,
        "/run/netns/x",
        Some("no/body"),
        enrolled::Mode::Node,
        9,
    );
    let capture = world.project().desired.captures[&NetnsCookie(9)];
    assert_eq!(capture.port_for(ebpf::RedirectReason::Outbound), 0);
    let problems = world.problems();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].starts_with("error network namespaces are enrolled for a node proxy"));
    assert!(problems[1].starts_with("warning network namespace /run/netns/x is enrolled as pod no/body"));
}

#[test]
fn a_pod_that_enforcement_does_not_know_is_captured_all_the_same() {
    let mut world = world("");
    let pod = world.stores.pods.values().next().expect("a pod");
    let mut homeless = crate::objects::Stored::clone(pod);
    homeless.object.addresses.clear();
    world.stores.pods.insert(homeless.name.clone(), homeless.into());
    let projection = world.project();
    assert!(projection.report.endpoints[0].pending.is_some());
    let endpoint = projection.desired.endpoints[&Identity::Device(1)];
    assert!(endpoint.is_stranger() && endpoint.captured() == 1);
}

#[test]
fn why_a_pod_is_not_captured_is_told() {
    let mut world = world(&pod("stray/a", "10.1.0.9", ""));
    world.facts.pods.remove(&pod_name("team/a"));
    let projection = world.project();
    let told: Vec<_> = projection
        .report
        .endpoints
        .iter()
        .map(|endpoint| endpoint.not_captured)
        .collect();
    assert_eq!(
        told,
        [Some(NotCaptured::UnknownNamespace), Some(NotCaptured::Pending)]
    );
    let problems = world.problems();
    assert!(
        problems
            .iter()
            .any(|problem| problem.contains("team/a: is not captured yet (node)")),
        "{problems:?}"
    );
    assert!(
        problems
            .iter()
            .any(|problem| problem.contains("stray/a: is not captured: its Namespace"))
    );
}

#[test]
fn one_pod_cannot_fill_the_tables() {
    let ranges: Vec<_> = (0..2000)
        .map(|number| format!("10.{}.{}.0/24", number / 256, number % 256))
        .collect();
    let annotation = format!(
        "traffic.sidecar.istio.io/excludeOutboundIPRanges: '{}'",
        ranges.join(",")
    );
    let world = World::new(&mesh_pod("team/a", "10.99.0.1", &annotation, true)).capturing(Settings {
        sidecar: true,
        ..Settings::default()
    });
    assert_eq!(world.project().desired.ranges.len(), 0);
    assert_eq!(world.fate_of(1, "10.0.0.1", TCP, 443), OUTBOUND);
    assert!(world.problems()[0].contains("says something of 2001 ranges"));
}

#[test]
fn the_kubelet_is_told_by_its_cgroup() {
    let mut world = World::new("").capturing(Settings {
        kubelet_cgroup: Some("/cgroup/kubelet".into()),
        ..Settings::default()
    });
    let cgroup = Cgroup { id: 8, level: 2 };
    world.facts.cgroups.insert("/cgroup/kubelet".into(), Ok(cgroup));
    assert_eq!(world.project().desired.kubelet.id(), 8);
    world
        .facts
        .cgroups
        .insert("/cgroup/kubelet".into(), Err("it is gone".into()));
    assert_eq!(
        world.problems(),
        ["error --kubelet-cgroup: it is gone; probes of captured pods are captured"]
    );
}
