use super::*;
use crate::{problem::Origin, project::explain};

fn with(extra: &str) -> World {
    World::new(&[&cluster(), extra].concat())
}

#[test]
fn a_gateway_that_nobody_is_is_told() {
    let spec = "  gateways: [{namespace: egress, gateway: nobody}, {namespace: x, podSelector: {}}]";
    insta::assert_snapshot!(with(&policy("p", spec)).problems().join("\n"), @r#"
    warning EgressPolicy p: no pod is gateway egress/nobody, spec.gateways[1] (a podSelector in x); all external traffic of its subjects is blocked
    info EgressPolicy p: there is no Gateway egress/nobody; its pods count all the same
    "#);
    let one = format!("{WAYPOINT}  - {{namespace: x, podSelector: {{}}}}").replace(
        "[{namespace: egress, gateway: waypoint}]",
        "\n  - {namespace: egress, gateway: waypoint}",
    );
    insta::assert_snapshot!(with(&policy("p", &one)).problems().join("\n"), @r#"
    warning EgressPolicy p: no pod is spec.gateways[1] (a podSelector in x); the others remain
    info EgressPolicy p: there is no Gateway egress/waypoint; its pods count all the same
    "#);
}

#[test]
fn a_policy_that_cuts_off_the_resolver_is_told() {
    let service = "---
apiVersion: v1
kind: Service
metadata: {namespace: kube-system, name: kube-dns}
spec: {clusterIP: 10.2.0.10, selector: {dns: mine}}
";
    for label in ["k8s-app: kube-dns", "dns: mine"] {
        let resolver = pod("kube-system/coredns", "10.1.0.53", label);
        let dns = |spec: &str| {
            with(&[service, &resolver, &policy("p", spec)].concat())
                .problems()
                .join("\n")
        };
        assert!(
            dns("  {}").contains("cuts off the cluster's resolver (Pod kube-system/coredns)"),
            "{label}"
        );
        assert!(dns("  mode: Audit").contains("would cut off"));
        let exception = |port: u16| {
            format!(
                "  exceptions: [{{name: x, podSelector: {{}}, to: [{{cidr: 192.0.2.53/32}}], ports: [{{protocol: UDP, port: {port}}}]}}]"
            )
        };
        assert_eq!(dns(&exception(53)), "");
        assert!(
            dns(&exception(123)).contains("resolver"),
            "an exception for something else"
        );
        assert_eq!(dns("  subjects: {podSelector: {matchLabels: {app: a}}}"), "");
    }
}

#[test]
fn an_unknown_inside_is_told_loudly() {
    let mut world = World::new(&policy("p", "  {}"));
    world.internal.clear();
    world.facts.own_addresses.insert(ip("192.0.2.1"));
    insta::assert_snapshot!(world.problems().join("\n"), @"error EgressPolicy p: nothing is known of the inside of the cluster (no Node, Pod or Service with an address); rules are not loaded before --internal-cidr says which addresses pods and Services have");
    world.internal.push("0.0.0.0/0".parse().expect("a prefix"));
    insta::assert_snapshot!(world.problems().join("\n"), @"error 0.0.0.0/0 counts as inside the cluster, so that nothing is external");
}

/// The folder of a test has another name each time.
fn in_one_file(origin: &mut Origin) {
    if let Origin::File(place) = origin {
        place.file = std::path::Path::new("all.yaml").into();
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "it is the JSON that is long")]
fn its_json_is_a_contract() {
    let world = with(&policy("p", WAYPOINT));
    let mut report = world.project().report;
    for endpoint in &mut report.endpoints {
        endpoint.policy_id = endpoint.policy_id.map(|_| 1);
        in_one_file(&mut endpoint.origin);
    }
    in_one_file(&mut report.policies[0].origin);
    for origin in report
        .problems
        .iter_mut()
        .filter_map(|problem| problem.origin.as_mut())
    {
        in_one_file(origin);
    }
    report.endpoints.truncate(1);
    let json = serde_json::to_string_pretty(&report).expect("JSON");
    insta::assert_snapshot!(json, @r#"
    {
      "node": "this",
      "complete": true,
      "enforcement": "enforce",
      "endpoints": [
        {
          "pod": {
            "namespace": "egress",
            "name": "gw"
          },
          "addresses": [
            "10.1.0.3"
          ],
          "devices": [
            {
              "index": 1,
              "name": "veth1",
              "mac": [
                2,
                0,
                0,
                0,
                0,
                1
              ],
              "bridged": false
            }
          ],
          "host_network": false,
          "role": "gateway",
          "policies": [
            {
              "policy": "p",
              "role": "gateway",
              "effective": true
            }
          ],
          "mode": "enforce",
          "on_deny": "reject",
          "policy_id": 1,
          "pending": null,
          "capture": null,
          "not_captured": "off",
          "origin": {
            "file": "all.yaml",
            "line": 22
          }
        }
      ],
      "policies": [
        {
          "name": "p",
          "mode": "enforce",
          "gateway_destinations": "registry",
          "on_deny": "reject",
          "gateways": [
            {
              "namespace": "egress",
              "gateway": "waypoint",
              "gateway_exists": false,
              "pods": [
                {
                  "pod": {
                    "namespace": "egress",
                    "name": "gw"
                  },
                  "node": "this",
                  "addresses": [
                    "10.1.0.3"
                  ]
                }
              ]
            }
          ],
          "subjects": 2,
          "conditions": [
            {
              "name": "gateways_found",
              "ok": true,
              "message": null
            },
            {
              "name": "resolver_reachable",
              "ok": true,
              "message": null
            },
            {
              "name": "internal_known",
              "ok": true,
              "message": null
            }
          ],
          "origin": {
            "file": "all.yaml",
            "line": 37
          }
        }
      ],
      "totals": {
        "service_entries": 1,
        "service_entries_without_effect": 0,
        "internal_ranges": 4
      },
      "ignored": [],
      "problems": [
        {
          "severity": "info",
          "object": {
            "kind": "EgressPolicy",
            "name": "p"
          },
          "origin": {
            "file": "all.yaml",
            "line": 37
          },
          "message": "there is no Gateway egress/waypoint; its pods count all the same"
        }
      ]
    }
    "#);
    let back: crate::project::Report = serde_json::from_str(&json).expect("the same");
    assert_eq!(back, report);
}

#[test]
fn explains_which_objects_have_a_say() {
    let spec = format!(
        "{WAYPOINT}  exceptions:\n  - {{name: time, podSelector: {{}}, to: [{{cidr: 192.0.2.0/24, except: [192.0.2.128/25]}}], ports: [{{protocol: UDP, port: 123}}]}}"
    );
    let world = with(&[policy("p", &spec), policy("audit", "  mode: Audit")].concat());
    let words = |pod: &str, destination: &str, protocol: Protocol, port: u16| {
        let explanation =
            explain(&world.input(), &pod_name(pod), ip(destination), protocol, port).expect("a pod");
        let mut words = Vec::new();
        for range in &explanation.internal {
            words.push(format!("inside {} {:?}", range.range, range.source));
        }
        for policy in &explanation.policies {
            words.push(format!(
                "{} {:?} effective={} permits={}",
                policy.policy, policy.role, policy.effective, policy.permits
            ));
            for contribution in &policy.because {
                let because = serde_json::to_value(&contribution.because).expect("JSON");
                words.push(format!(
                    "  {} {:?} {:?} {}",
                    because["kind"], because["name"], contribution.ports, contribution.permits
                ));
            }
        }
        words.join("\n")
    };
    insta::assert_snapshot!(words("team/a", "192.0.2.1", UDP, 123), @r#"
    audit Subject effective=false permits=false
    p Subject effective=true permits=true
      "exception" String("time") ["123/UDP"] true
    "#);
    insta::assert_snapshot!(words("team/a", "192.0.2.1", UDP, 53), @r#"
    audit Subject effective=false permits=false
    p Subject effective=true permits=false
      "exception" String("time") ["123/UDP"] false
    "#);
    insta::assert_snapshot!(words("team/a", "192.0.2.129", UDP, 123), @r#"
    audit Subject effective=false permits=false
    p Subject effective=true permits=false
      "excepted" String("time") [] false
    "#);
    insta::assert_snapshot!(words("team/a", "10.1.0.2", TCP, 80), @r#"
    inside 10.0.0.0/8 Configured
    inside 10.1.0.2/32 PodAddress
    audit Subject effective=false permits=false
    p Subject effective=true permits=false
    "#);
    insta::assert_snapshot!(words("egress/gw", "198.51.100.1", TCP, 443), @r#"
    audit Subject effective=false permits=false
    p Gateway effective=true permits=true
      "service_entry" Object {"name": String("web"), "namespace": String("egress")} ["443/TCP"] true
    "#);
    assert_eq!(
        explain(&world.input(), &pod_name("no/body"), ip("192.0.2.1"), TCP, 1),
        None
    );
}
