use rstest::rstest;

use super::*;
use crate::project::{registry, wanted_names};

fn gateway(spec: &str) -> World {
    World::new(&[cluster(), service_entry("e", spec), policy("p", WAYPOINT)].concat())
        .resolve("api.example", &["203.0.113.5", "2001:db8::5"])
        .resolve(
            "alias.example",
            &["203.0.113.6", "169.254.169.254", "127.0.0.1", "fd00:ec2::254"],
        )
}

#[rstest]
#[case::none("addresses: [203.0.113.0/28]\n  ports: [{number: 80, protocol: HTTP}]", &["203.0.113.1 tcp 80"], &["203.0.113.1 udp 80", "203.0.113.16 tcp 80"])]
#[case::none_knows_no_names("resolution: NONE\n  ports: [{number: 80}]", &[], &["203.0.113.5 tcp 80"])]
#[case::udp("addresses: [203.0.113.1]\n  ports: [{number: 53, protocol: UDP}]", &["203.0.113.1 udp 53"], &["203.0.113.1 tcp 53"])]
#[case::target_port("resolution: DNS\n  ports: [{number: 80, protocol: HTTP, targetPort: 443}]", &["203.0.113.5 tcp 443", "2001:db8::5 tcp 443"], &["203.0.113.5 tcp 80"])]
#[case::target_port_zero("resolution: DNS\n  ports: [{number: 80, targetPort: 0}]", &["203.0.113.5 tcp 80"], &[])]
#[case::no_ports("resolution: DNS", &[], &["203.0.113.5 tcp 443"])]
#[case::addresses_are_for_clients("resolution: DNS\n  addresses: [203.0.113.9]\n  ports: [{number: 80}]", &["203.0.113.5 tcp 80"], &["203.0.113.9 tcp 80"])]
#[case::allocated("resolution: DNS\n  addresses: [240.240.0.9]\n  ports: [{number: 80}]", &[], &["240.240.0.9 tcp 80"])]
#[case::endpoints("resolution: STATIC\n  addresses: [203.0.113.9]\n  endpoints: [{address: 203.0.113.1}, {address: 'unix:///x'}, {address: api.example}]\n  ports: [{number: 80}]", &["203.0.113.1 tcp 80"], &["203.0.113.9 tcp 80", "203.0.113.5 tcp 80"])]
#[case::static_without("resolution: STATIC\n  addresses: [203.0.113.9]\n  ports: [{number: 80}]", &["203.0.113.9 tcp 80"], &[])]
#[case::endpoint_names("resolution: DNS_ROUND_ROBIN\n  endpoints: [{address: Alias.Example.}, {address: 203.0.113.7}]\n  ports: [{number: 80}]", &["203.0.113.6 tcp 80", "203.0.113.7 tcp 80"], &["203.0.113.5 tcp 80"])]
#[case::endpoint_ports("resolution: STATIC\n  endpoints: [{address: 203.0.113.1, ports: {web: 8080}}, {address: 203.0.113.2}]\n  ports: [{number: 80, name: web}, {number: 81, name: x}]", &["203.0.113.1 tcp 8080", "203.0.113.1 tcp 81", "203.0.113.2 tcp 80"], &["203.0.113.1 tcp 80", "203.0.113.2 tcp 8080"])]
#[case::answers_for_one_link("resolution: DNS\n  endpoints: [{address: alias.example}]\n  ports: [{number: 80}]", &["203.0.113.6 tcp 80"], &["169.254.169.254 tcp 80", "fd00:ec2::254 tcp 80"])]
#[case::declared_for_one_link("resolution: STATIC\n  endpoints: [{address: 169.254.169.254}]\n  ports: [{number: 80}]", &["169.254.169.254 tcp 80"], &[])]
#[case::workloads("resolution: STATIC\n  addresses: [203.0.113.9]\n  workloadSelector: {labels: {app: a}}\n  ports: [{number: 80}]", &[], &["203.0.113.9 tcp 80"])]
fn gateways_go_where_a_proxy_dials(#[case] spec: &str, #[case] may: &[&str], #[case] may_not: &[&str]) {
    let world = gateway(&format!("  hosts: [api.example]\n  {spec}"));
    for (calls, expected) in [(may, true), (may_not, false)] {
        for call in calls {
            let words: Vec<_> = call.split(' ').collect();
            let protocol = if words[1] == "udp" { UDP } else { TCP };
            let port = words[2].parse().expect("a port");
            assert_eq!(
                world.allows("egress/gw", words[0], protocol, port),
                expected,
                "{call}"
            );
        }
    }
}

#[test]
fn entries_with_the_same_ports_are_one_group() {
    let entry = |name: &str, port: u16, addr: &str| {
        service_entry(
            name,
            &format!("  hosts: [a]\n  addresses: [{addr}]\n  ports: [{{number: {port}}}]"),
        )
    };
    let entries = [
        entry("a", 80, "203.0.113.1"),
        entry("b", 80, "203.0.113.2"),
        entry("c", 81, "203.0.113.2"),
    ];
    let yaml = [cluster(), entries.concat(), policy("p", WAYPOINT)].concat();
    let desired = World::new(&yaml).project().desired;
    let sets: std::collections::BTreeSet<_> = desired.destinations.values().collect();
    assert_eq!(sets.len(), 4, "inside; 443; 80; 80 and 81");
    // What was there keeps its numbers when something new comes.
    let more = World::new(&[yaml, entry("d", 82, "203.0.113.4")].concat())
        .project()
        .desired;
    for (prefix, groups) in &desired.destinations {
        assert_eq!(more.destinations[prefix], *groups);
    }
    assert!(more.rules.is_superset(&desired.rules));
}

#[test]
fn names_are_wanted_where_they_are_dialled() {
    let entry = |name: &str, spec: &str| service_entry(name, &format!("  ports: [{{number: 80}}]\n{spec}"));
    let yaml = [
        entry("a", "  hosts: [A.example., '*.b.example']\n  resolution: DNS"),
        entry(
            "c",
            "  hosts: [c.example]\n  resolution: DNS\n  endpoints: [{address: d.example}, {address: 192.0.2.1}]",
        ),
        entry("e", "  hosts: [e.example]\n  resolution: STATIC"),
        service_entry("f", "  hosts: [f.example]\n  resolution: DNS"),
    ];
    let world = World::new(&yaml.concat());
    let wanted: Vec<_> = wanted_names(&world.stores)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(wanted, ["a.example", "d.example"]);
}

#[test]
fn the_registry_says_how_things_stand() {
    let entry = |name: &str, spec: &str| service_entry(name, &format!("  hosts: [{name}.example]\n  {spec}"));
    let yaml = [
        entry(
            "ready",
            "resolution: DNS\n  ports: [{number: 80, targetPort: 443}, {number: 53, protocol: UDP}]",
        ),
        entry("unresolved", "resolution: DNS\n  ports: [{number: 80}]"),
        entry("partly", "resolution: DNS\n  ports: [{number: 80}]")
            .replace("[partly.example]", "[ready.example, x]"),
        entry("wild", "resolution: DYNAMIC_DNS\n  ports: [{number: 80}]")
            .replace("[wild", "['*.wild")
            .replace("ample]", "ample']"),
        entry("no-ports", "addresses: [192.0.2.1]"),
        entry("no-addresses", "ports: [{number: 80}]"),
        entry(
            "workloads",
            "workloadSelector: {}\n  resolution: STATIC\n  ports: [{number: 80}]",
        ),
    ];
    let world = World::new(&yaml.concat()).resolve("ready.example", &["192.0.2.1"]);
    let lines: Vec<_> = registry(&world.input())
        .iter()
        .map(|entry| {
            format!(
                "{} {:?} {:?} {:?}",
                entry.service_entry, entry.addresses, entry.ports, entry.state
            )
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r#"
    egress/no-addresses [] [] NoAddresses
    egress/no-ports [] [] NoPorts
    egress/partly [192.0.2.1/32] ["80/TCP"] PartlyResolved
    egress/ready [192.0.2.1/32] ["443/TCP", "53/UDP"] Ready
    egress/unresolved [] [] Unresolved
    egress/wild [] [] Wildcard
    egress/workloads [] [] Workloads
    "#);
    insta::assert_snapshot!(world.problems().join("\n"), @r#"
    warning ServiceEntry egress/no-addresses: permits nothing: it has no addresses, and resolution: NONE or STATIC needs them
    warning ServiceEntry egress/no-ports: permits nothing: it has no ports
    warning ServiceEntry egress/unresolved: permits nothing yet; not resolved: unresolved.example
    warning ServiceEntry egress/wild: permits nothing: a host with * cannot be resolved; declare the hosts one by one, or addresses with resolution: NONE
    info ServiceEntry egress/partly: not resolved: x
    "#);
}

/// `cargo test --release -p sluice --lib -- --ignored --nocapture hundred_thousand`
#[test]
#[ignore = "prints how long it takes; asserts nothing"]
fn a_hundred_thousand_service_entries() {
    let entry = |n: u32| {
        let [_, b, c, d] = n.to_be_bytes();
        service_entry(
            &format!("e{n}"),
            &format!(
                "  hosts: [h{n}.example]\n  addresses: [100.{b}.{c}.{d}]\n  ports: [{{number: {}}}]",
                443 + n % 7
            ),
        )
    };
    let yaml: String = (0..100_000).map(entry).collect();
    let yaml = [cluster(), policy("p", WAYPOINT), yaml].concat();
    let world = timed("read everything", || World::new(&yaml));
    for _ in 0..3 {
        let desired = timed("project", || world.project()).desired;
        println!(
            "{} destinations, {} rules",
            desired.destinations.len(),
            desired.rules.len()
        );
    }
    timed("registry", || registry(&world.input()));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("all.yaml");
    fs::write(&file, &yaml).expect("written");
    let mut directory = Directory::open(folder.path()).expect("a directory");
    directory.load();
    fs::write(&file, yaml.replace("h50000.example", "other.example")).expect("written");
    timed("read one change", || directory.load());
    timed("read no change", || directory.load());
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = std::time::Instant::now();
    let result = work();
    println!("{what}: {:?}", start.elapsed());
    result
}
