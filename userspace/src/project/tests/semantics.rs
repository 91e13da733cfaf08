use ebpf::rules::Enforcement;

use super::*;

#[test]
fn nothing_is_enforced_without_a_policy() {
    let world = World::new(&cluster());
    assert_eq!(world.project().desired.enforcement, Enforcement::Off);
    assert_eq!(
        world.verdict("team/a", "198.51.100.1", TCP, 80),
        Verdict::Allow(AllowReason::NotSubject)
    );
}

#[test]
fn only_the_gateway_leaves_and_only_to_the_registry() {
    let world = World::new(&[cluster(), policy("p", WAYPOINT)].concat());
    assert_eq!(world.project().desired.enforcement, Enforcement::Enforce);
    assert_eq!(world.verdict("egress/gw", "198.51.100.1", TCP, 443), RULE);
    assert_eq!(
        world.verdict("egress/gw", "198.51.100.1", TCP, 80),
        Verdict::Deny(DropReason::Port)
    );
    assert_eq!(
        world.verdict("egress/gw", "198.51.100.1", UDP, 443),
        Verdict::Deny(DropReason::Port)
    );
    assert_eq!(
        world.verdict("egress/gw", "198.51.100.2", TCP, 443),
        Verdict::Deny(DropReason::NotRegistered)
    );
    assert!(!world.allows("team/a", "198.51.100.1", TCP, 443));
    assert_eq!(world.verdict("team/a", "203.0.113.1", TCP, 443), NOT_GATEWAY);
    assert_eq!(world.verdict("team/a", "169.254.169.254", TCP, 80), NOT_GATEWAY);
    assert_eq!(world.verdict("team/a", "fd00:ec2::254", TCP, 80), NOT_GATEWAY);
    assert_eq!(
        world.verdict("team/a", "10.1.0.3", TCP, 15008),
        Verdict::Allow(AllowReason::Internal)
    );
    let endpoint = world.endpoint("team/a").expect("known");
    assert!(endpoint.rejects() && !endpoint.is_audited() && !endpoint.is_gateway());
}

#[test]
fn any_lets_gateways_go_everywhere() {
    let any = format!("{WAYPOINT}  gatewayDestinations: Any");
    let world = World::new(&[cluster(), policy("p", &any)].concat());
    for destination in ["198.51.100.1", "203.0.113.1", "2001:db8::1"] {
        assert_eq!(world.verdict("egress/gw", destination, UDP, 1), RULE);
        assert_eq!(world.verdict("team/a", destination, UDP, 1), NOT_GATEWAY);
    }
    // Not even its number of the registry is in the kernel, as nobody here may use it.
    assert_eq!(world.project().desired.destinations.len(), 1);
}

#[test]
fn a_label_makes_nobody_a_gateway_in_another_namespace() {
    let rogue = pod(
        "team/rogue",
        "10.1.0.9",
        "gateway.networking.k8s.io/gateway-name: waypoint",
    );
    let world = World::new(&[cluster(), rogue, policy("p", WAYPOINT)].concat());
    assert!(!world.allows("team/rogue", "198.51.100.1", TCP, 443));
    assert!(world.allows("egress/gw", "198.51.100.1", TCP, 443));
}

#[test]
fn exceptions_are_for_the_subjects_that_they_select() {
    let exceptions = "  exceptions:
  - name: time
    podSelector: {matchLabels: {app: a}}
    to: [{cidr: 192.0.2.0/24, except: [192.0.2.128/25]}, {cidr: 192.0.2.200/32}]
    ports: [{protocol: UDP, port: 100, endPort: 123}, {protocol: ICMP}]
  - name: nothing
    podSelector: {}
    to: [{cidr: 203.0.113.0/24}]
    ports: []
  - name: everything
    namespaceSelector: {matchLabels: {tier: apps}}
    to: [{cidr: 2001:db8::/32}]
";
    let world = World::new(&[cluster(), policy("p", &format!("{WAYPOINT}{exceptions}"))].concat());
    assert_eq!(world.verdict("team/a", "192.0.2.1", UDP, 123), RULE);
    assert_eq!(
        world.verdict("team/a", "192.0.2.1", UDP, 99),
        Verdict::Deny(DropReason::Port)
    );
    assert_eq!(world.verdict("team/a", "192.0.2.1", Protocol::ICMP, 0), RULE);
    assert_eq!(world.verdict("team/a", "192.0.2.129", UDP, 123), NOT_GATEWAY);
    assert_eq!(
        world.verdict("team/a", "192.0.2.200", UDP, 123),
        RULE,
        "another block"
    );
    assert!(!world.allows("team/b", "192.0.2.1", UDP, 123));
    assert!(
        !world.allows("team/a", "203.0.113.1", TCP, 80),
        "an empty list is nothing"
    );
    assert_eq!(
        world.verdict("team/b", "2001:db8::1", Protocol::SCTP, 7),
        RULE,
        "no list is everything"
    );
    assert!(
        !world.allows("egress/gw", "2001:db8::1", TCP, 80),
        "a gateway is no subject"
    );
}

#[test]
fn a_prefix_of_ipv6_says_nothing_on_ipv4() {
    let spec = "  exceptions: [{name: six, podSelector: {}, to: [{cidr: '::/0'}]}]";
    let world = World::new(&[cluster(), policy("p", spec)].concat());
    assert_eq!(world.verdict("team/a", "2001:db8::1", TCP, 80), RULE);
    assert_eq!(world.verdict("team/a", "192.0.2.1", TCP, 80), NOT_GATEWAY);
    assert_eq!(
        world.verdict("team/a", "10.1.0.2", TCP, 80),
        Verdict::Allow(AllowReason::Internal)
    );
}

#[test]
fn of_several_policies_all_must_permit() {
    let exception =
        |cidr: &str| format!("  exceptions: [{{name: x, podSelector: {{}}, to: [{{cidr: {cidr}}}]}}]");
    let both = [
        policy("p", &exception("192.0.2.0/24")),
        policy("q", &exception("192.0.2.0/25")),
    ]
    .concat();
    let world = World::new(&[cluster(), both].concat());
    assert!(world.allows("team/a", "192.0.2.1", TCP, 80));
    assert!(!world.allows("team/a", "192.0.2.129", TCP, 80));
    // Subjects are united.
    let teams = "  subjects: {podSelector: {matchLabels: {app: a}}}";
    let world = World::new(&[cluster(), policy("p", teams)].concat());
    assert!(world.allows("team/b", "192.0.2.1", TCP, 80) && !world.allows("team/a", "192.0.2.1", TCP, 80));
    let others = "  subjects: {podSelector: {matchLabels: {app: b}}}";
    let world = World::new(&[cluster(), policy("p", teams), policy("q", others)].concat());
    assert!(!world.allows("team/b", "192.0.2.1", TCP, 80) && !world.allows("team/a", "192.0.2.1", TCP, 80));
}

#[test]
fn a_gateway_of_one_policy_may_be_a_subject_of_another() {
    let world = World::new(&[cluster(), policy("p", WAYPOINT), policy("q", "  {}")].concat());
    assert!(!world.allows("egress/gw", "198.51.100.1", TCP, 443));
    assert!(world.endpoint("egress/gw").expect("known").is_gateway());
    let problem =
        "warning Pod egress/gw: is a gateway of p and a subject of q: it may go only where all permit it";
    assert!(
        world.problems().iter().any(|found| found == problem),
        "{:?}",
        world.problems()
    );
}

#[test]
fn what_one_policy_audits_another_enforces() {
    let audit = policy("audit", "  mode: Audit\n  onDeny: Drop");
    let world = World::new(&[cluster(), audit.clone()].concat());
    assert_eq!(world.project().desired.enforcement, Enforcement::Audit);
    let endpoint = world.endpoint("team/a").expect("known");
    assert!(endpoint.is_audited() && !endpoint.rejects());
    assert!(!world.allows("team/a", "192.0.2.1", TCP, 80), "reported");

    let spec = "  subjects: {podSelector: {matchLabels: {app: a}}}
  exceptions: [{name: x, podSelector: {}, to: [{cidr: 192.0.2.0/24}]}]";
    let world = World::new(&[cluster(), audit, policy("enforce", spec)].concat());
    assert_eq!(world.project().desired.enforcement, Enforcement::Enforce);
    // What only the auditing policy refuses must not be dropped.
    let endpoint = world.endpoint("team/a").expect("known");
    assert!(!endpoint.is_audited() && endpoint.rejects());
    assert!(world.allows("team/a", "192.0.2.1", TCP, 80) && !world.allows("team/a", "192.0.3.1", TCP, 80));
    assert!(world.endpoint("team/b").expect("known").is_audited());
    let problem = "info Pod team/a: audit is not audited for it, as enforce is enforced";
    assert!(
        world.problems().iter().any(|found| found == problem),
        "{:?}",
        world.problems()
    );
}

#[test]
fn silence_wins_over_an_answer() {
    let world = World::new(&[cluster(), policy("p", "  {}"), policy("q", "  onDeny: Drop")].concat());
    assert!(!world.endpoint("team/a").expect("known").rejects());
}

#[test]
fn pods_on_the_nodes_network_are_subjects_only_if_that_is_asked_for() {
    let host = pod("team/host", "10.9.0.1", "").replace("spec: {", "spec: {hostNetwork: true, ");
    let world = World::new(&[cluster(), host.clone(), policy("p", "  {}")].concat());
    assert!(world.allows("team/host", "192.0.2.1", TCP, 80));
    let mut world = World::new(&[cluster(), host, policy("p", "  subjects: {hostNetwork: true}")].concat());
    assert!(!world.allows("team/host", "192.0.2.1", TCP, 80));
    let desired = world.project().desired;
    assert_eq!(desired.cgroup_levels, 1 << 3);
    assert!(world.endpoint("team/host").expect("known").is_host());
    // A pod that only says so, and has a network of its own, is a subject like any other.
    world.facts.pods.insert(pod_name("team/host"), Ok(own(77)));
    assert!(!world.allows("team/host", "192.0.2.1", TCP, 80));
}

#[test]
fn who_cannot_be_told_is_not_in_the_kernel() {
    let elsewhere = pod("team/elsewhere", "10.1.0.4", "").replace("nodeName: this", "nodeName: that");
    let finished = pod("team/finished", "10.1.0.5", "").replace("Running", "Succeeded");
    let homeless = pod("team/homeless", "10.1.0.6", "").replace("podIPs: [{ip: 10.1.0.6}]", "podIPs: []");
    let unbound = pod("team/unbound", "10.1.0.7", "").replace("nodeName: this, ", "");
    let here = pod("team/here", "10.1.0.8", "")
        .replace("nodeName: this, ", "")
        .replace("labels: {}", "annotations: {sluice.dev/netns: /run/netns/a}");
    let yaml = [
        cluster(),
        elsewhere,
        finished,
        homeless,
        unbound,
        here,
        policy("p", "  {}"),
    ]
    .concat();
    let mut world = World::new(&yaml);
    world
        .facts
        .pods
        .insert(pod_name("team/b"), Err("no such namespace".into()));
    let first = own(1);
    world.facts.pods.insert(pod_name("egress/gw"), Ok(first.clone()));
    world.facts.pods.insert(pod_name("team/a"), Ok(first));
    let Projection {
        desired,
        report,
        captured: _,
    } = world.project();
    let known: Vec<_> = desired
        .endpoints
        .values()
        .filter_map(Endpoint::v4)
        .map(|addr| addr.to_string())
        .collect();
    assert_eq!(known, ["10.1.0.8"; 2], "by its device and by its namespace");
    let pending: Vec<_> = report
        .endpoints
        .iter()
        .map(|endpoint| format!("{}: {}", endpoint.pod, endpoint.pending.as_deref().unwrap_or("-")))
        .collect();
    insta::assert_snapshot!(pending.join("\n"), @r#"
    egress/gw: several pods have the same device: egress/gw, team/a
    team/a: several pods have the same device: egress/gw, team/a
    team/b: no such namespace
    team/here: -
    team/homeless: it has no address (status.podIPs)
    "#);
}

#[test]
fn a_pod_of_an_unknown_namespace_is_not_let_go() {
    let apps = "  subjects: {namespaceSelector: {matchLabels: {tier: apps}}}";
    let stray = pod("stray/a", "10.1.0.8", "");
    let world = World::new(&[cluster(), stray.clone(), policy("p", apps)].concat());
    assert!(!world.allows("team/a", "192.0.2.1", TCP, 80) && world.allows("egress/gw", "192.0.2.1", TCP, 80));
    assert_eq!(world.endpoint("stray/a"), None);
    // Its name is known without the Namespace.
    let named = "  subjects: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: stray}}}";
    let world = World::new(&[cluster(), stray, policy("p", named)].concat());
    assert!(!world.allows("stray/a", "192.0.2.1", TCP, 80) && world.allows("team/a", "192.0.2.1", TCP, 80));
}

#[test]
fn every_device_of_a_pod_is_its_own() {
    let mut world = World::new(&[cluster(), policy("p", "  {}")].concat());
    let device = |number: u8| PodDevice {
        index: IfIndex(u32::from(number)),
        name: format!("veth{number}"),
        mac: [2, 0, 0, 0, 0, number],
        bridged: false,
    };
    let network = PodNetwork::Own {
        netns: NetnsCookie(50),
        devices: vec![device(51), device(52)],
        path: "/run/netns/50".into(),
        inside: Inside::default(),
    };
    world.facts.pods.insert(pod_name("team/a"), Ok(network));
    let desired = world.project().desired;
    let endpoint = |identity| desired.endpoints[&identity];
    assert_eq!(endpoint(Identity::Device(52)).device(), 52);
    assert_eq!(endpoint(Identity::Device(52)).mac()[5], 52);
    assert_eq!(endpoint(Identity::Netns(50)), endpoint(Identity::Device(51)));
}

#[test]
fn the_inside_is_what_the_objects_say_and_no_more() {
    let objects = "---
apiVersion: v1
kind: Node
metadata: {name: other}
spec: {podCIDRs: [172.16.0.0/24, 'fd00:10::/64']}
status: {addresses: [{type: InternalIP, address: 192.0.2.10}, {type: Hostname, address: other}]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 172.20.0.1, externalIPs: [192.0.2.20]}
status: {loadBalancer: {ingress: [{ip: 192.0.2.21}]}}
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec: {clusterIP: None}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kubernetes, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv4
endpoints: [{addresses: [192.0.2.30]}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
endpoints: [{addresses: [192.0.2.31]}]
";
    let mut world = World::new(&[cluster(), objects.into(), policy("p", "  {}")].concat());
    world.internal.clear();
    world
        .facts
        .own_addresses
        .extend([ip("192.0.2.40"), ip("127.0.0.1")]);
    let inside = [
        "172.16.0.9",
        "fd00:10::9",
        "192.0.2.10",
        "172.20.0.1",
        "192.0.2.30",
        "192.0.2.40",
        "10.1.0.2",
    ];
    for address in inside {
        assert!(world.allows("team/a", address, TCP, 80), "{address}");
    }
    for address in [
        "192.0.2.20",
        "192.0.2.21",
        "192.0.2.31",
        "10.1.0.77",
        "172.16.1.1",
    ] {
        assert_eq!(
            world.verdict("team/a", address, TCP, 80),
            NOT_GATEWAY,
            "{address}"
        );
    }
}

#[test]
fn the_inside_wins_over_what_is_said_of_the_outside() {
    let spec = "  exceptions: [{name: x, podSelector: {}, to: [{cidr: 10.1.0.0/16, except: [10.1.0.0/24]}]}]";
    let world = World::new(&[cluster(), policy("p", spec)].concat());
    assert_eq!(
        world.verdict("team/a", "10.1.0.2", TCP, 80),
        Verdict::Allow(AllowReason::Internal)
    );
    assert_eq!(world.project().desired.destinations.len(), 1);
}

#[test]
fn a_pod_of_the_nodes_network_that_nobody_knows_yet_is_held_where_such_pods_are() {
    let around = Cgroup { id: 99, level: 1 };
    let unknown = |policies: &[&str]| {
        let policies = (0..)
            .zip(policies)
            .map(|(number, spec)| policy(&format!("p{number}"), spec));
        let mut world = World::new(&[cluster(), policies.collect()].concat());
        world.facts.around_pods = vec![around, Cgroup { id: 98, level: 40 }];
        let desired = world.project().desired;
        assert!(!desired.endpoints.contains_key(&Identity::Cgroup(98)));
        let endpoint = desired.endpoints.get(&Identity::Cgroup(around.id)).copied();
        assert_eq!(endpoint.is_some(), desired.cgroup_levels & 1 << around.level != 0);
        endpoint.map(|endpoint| (endpoint.is_subject(), endpoint.is_audited(), endpoint.rejects()))
    };
    let (enforced, audited) = (
        "  subjects: {hostNetwork: true}",
        "  mode: Audit\n  subjects: {hostNetwork: true}",
    );
    assert_eq!(unknown(&["  {}"]), None);
    assert_eq!(unknown(&[audited]), Some((true, true, false)));
    assert_eq!(unknown(&[audited, enforced]), Some((true, false, false)));
}
