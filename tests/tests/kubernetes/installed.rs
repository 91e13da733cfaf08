//! The life of an installation on a node: what the agent does to the cluster, with the rights that it is given and no more.

use std::{collections::BTreeSet, net::SocketAddr, path::Path, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sluice_tests::{
    Proxy,
    bench::addresses::{NODE_V4, UNREGISTERED},
    bench::ip,
    http,
    ztunnel::{Request, Ztunnel},
};

use crate::common::{NODE_PATH, Stand, Started, eventually};

const TAINT: &str = "sluice.dev/not-ready";
const MODE: &str = "istio.io/dataplane-mode";
const REDIRECTION: &str = "ambient.istio.io/redirection";
const METRICS: u16 = 9464;

#[test]
fn the_agent_does_what_its_roles_grant_and_nothing_else() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("zds");
    let metrics = SocketAddr::new(ip(NODE_V4), METRICS);
    let mut stand = Stand::prepare(&[
        "--remove-taint",
        "--ambient",
        "--zds-socket",
        socket.to_str().context("a path that is no text")?,
        "--metrics-address",
        &metrics.to_string(),
    ])?;
    let client = stand.pod("client")?;
    nothing_is_enforced_while_no_range_is_known(&mut stand, &client)?;
    a_pod_outside_of_all_ranges_is_told_of(&mut stand)?;
    the_taint_is_taken_off(&stand)?;
    the_first_denial_is_an_event(&stand, &client)?;
    a_gateway_that_is_not_there_is_told_of(&stand, metrics)?;
    an_edited_policy_finds_its_gateway_at_once(&stand)?;
    capture_is_announced(&stand, &client, &socket)?;
    no_right_is_missing_and_none_is_idle(&stand)
}

/// A node as it comes: tainted, and with no range for its pods.
fn nothing_is_enforced_while_no_range_is_known(stand: &mut Stand, client: &Started) -> Result<()> {
    let taints = json!([{"key": "other", "effect": "NoSchedule"}, {"key": TAINT, "effect": "NoSchedule"}]);
    let spec = json!({"spec": {"podCIDRs": null, "taints": taints}});
    stand.server.patch(NODE_PATH, &spec)?;
    stand.agent.spawn()?;
    eventually("it says that no range of pods is known", || {
        Ok(stand
            .problems()
            .contains("no range of pods is known")
            .then_some(()))
    })?;
    let outside = stand.bench.capture_outside()?;
    let frame = client.pod.sender().udp(ip(UNREGISTERED[0]), 53);
    client.pod.send(&frame)?;
    ensure!(
        outside.wait_for_cookie(frame.cookie()).is_some(),
        "there are no rules, and something is dropped"
    );
    // Long enough for who would take the taint off by the agent's being there.
    thread::sleep(Duration::from_secs(2));
    let status = stand.agent.status()?;
    ensure!(
        status["ready"] == false && status["generation"] == 0,
        "{status:#}"
    );
    ensure!(has_taint(stand)?, "the taint is gone, and nothing is enforced");
    Ok(())
}

fn a_pod_outside_of_all_ranges_is_told_of(stand: &mut Stand) -> Result<()> {
    let with = |ranges: &[&str]| json!({"spec": {"podCIDRs": ranges}});
    let words = "is in no range that is known to be inside the cluster";
    stand.server.patch(NODE_PATH, &with(&["10.245.0.0/24"]))?;
    eventually("it says that a pod is in no range", || {
        let problems = stand.problems();
        Ok((problems.contains(words) && problems.contains("client")).then_some(()))
    })?;
    stand
        .server
        .patch(NODE_PATH, &with(&["10.244.0.0/24", "fd00:10:244::/64"]))?;
    eventually("all pods are in a range", || {
        Ok((!stand.problems().contains(words)).then_some(()))
    })?;
    let status = stand.agent.settle()?;
    ensure!(status["state"] == "enforcing", "{status:#}");
    Ok(())
}

fn the_taint_is_taken_off(stand: &Stand) -> Result<()> {
    eventually("the taint is gone", || Ok((!has_taint(stand)?).then_some(())))?;
    let node = stand.server.get(NODE_PATH)?;
    ensure!(
        node["spec"]["taints"] == json!([{"key": "other", "effect": "NoSchedule"}]),
        "{node:#}"
    );
    Ok(())
}

fn has_taint(stand: &Stand) -> Result<bool> {
    let node = stand.server.get(NODE_PATH)?;
    let mut taints = node["spec"]["taints"].as_array().into_iter().flatten();
    Ok(taints.any(|taint| taint["key"] == TAINT))
}

fn the_first_denial_is_an_event(stand: &Stand, client: &Started) -> Result<()> {
    let outside = stand.bench.capture_outside()?;
    // The agent may not have found its process yet; then it is refused as somebody whom nobody knows.
    let event = eventually("the denial is an event", || {
        let frame = client.pod.sender().udp(ip(UNREGISTERED[0]), 53);
        client.pod.send(&frame)?;
        stand.bench.flush(&outside)?;
        ensure!(!outside.has_received(frame.cookie()), "it got out");
        stand.event("app", "EgressDenied")
    })?;
    assert_eq!(event["regarding"]["uid"], *client.uid);
    assert_eq!(event["reportingInstance"], "node-1");
    let note = event["note"].as_str().unwrap_or_default();
    let words = format!("denied to {}:53/UDP", UNREGISTERED[0]);
    ensure!(
        note.contains(&words) && note.contains("EgressPolicy one-way-out"),
        "{note}"
    );
    Ok(())
}

fn a_gateway_that_is_not_there_is_told_of(stand: &Stand, metrics: SocketAddr) -> Result<()> {
    eventually("the condition says so", || {
        Ok((stand.condition("Degraded")? == "True GatewayNotFound").then_some(()))
    })?;
    assert_eq!(stand.condition("Accepted")?, "True Accepted");
    let event = eventually("an event says so", || stand.event("default", "GatewayNotFound"))?;
    assert_eq!(event["regarding"]["kind"], "EgressPolicy");
    assert_eq!(event["regarding"]["name"], "one-way-out");
    let scraped = stand
        .bench
        .node()
        .run(|| http::get(metrics, &metrics.to_string(), "/metrics"))??;
    let line = "sluice_policy_condition{policy=\"one-way-out\",condition=\"gateways_found\"} 0";
    ensure!(scraped.body.contains(line), "{}", scraped.body);
    Ok(())
}

/// The pods that it names now were watched by nobody before.
fn an_edited_policy_finds_its_gateway_at_once(stand: &Stand) -> Result<()> {
    for name in ["waypoint", "other"] {
        stand.server.apply_object(&json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "namespace": "egress", "name": name,
                "labels": {"gateway.networking.k8s.io/gateway-name": name},
            },
            "spec": {"nodeName": "node-2", "containers": [{"name": "main", "image": "none"}]},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.244.0.200"}]},
        }))?;
    }
    eventually("the gateway is found", || {
        Ok((stand.condition("Degraded")? == "False AsExpected").then_some(()))
    })?;
    let names = |name: &str| json!({"spec": {"gateways": [{"namespace": "egress", "gateway": name}]}});
    let policy = "/apis/sluice.dev/v1alpha1/egresspolicies/one-way-out";
    let missing = || -> Result<usize> {
        let log = std::fs::read_to_string(stand.agent.log())?;
        Ok(log.matches("no pod is gateway").count())
    };
    let before = missing()?;
    stand.server.patch(policy, &names("other"))?;
    eventually("the change is in force", || {
        let status = stand.server.get(policy)?;
        let (wanted, seen) = (
            &status["metadata"]["generation"],
            &status["status"]["nodes"][0]["observedGeneration"],
        );
        Ok((wanted == seen).then_some(()))
    })?;
    ensure!(
        missing()? == before,
        "a gateway was missed that there had been all the time"
    );
    // The same event once more is a series.
    stand.server.patch(policy, &names("nobody"))?;
    eventually("the event is counted", || {
        let event = stand.event("default", "GatewayNotFound")?;
        Ok(event.filter(|event| event["series"]["count"].is_u64()))
    })
    .map(drop)
}

fn capture_is_announced(stand: &Stand, client: &Started, socket: &Path) -> Result<()> {
    let path = "/api/v1/namespaces/app/pods/client";
    let label = |value: Option<&str>| json!({"metadata": {"labels": {MODE: value}}});
    let becomes = |value: Option<&str>| {
        eventually("the annotation is right", || {
            let pod = stand.server.get(path)?;
            let annotation = pod["metadata"]["annotations"][REDIRECTION].as_str();
            Ok((annotation == value).then_some(()))
        })
    };
    stand.server.patch(path, &label(Some("ambient")))?;
    becomes(Some("pending"))?;
    let proxy = Proxy::in_pod(&stand.bench, &client.pod)?;
    let ztunnel = Ztunnel::connect(&proxy, socket)?;
    let served = ztunnel.snapshot()?;
    ensure!(
        matches!(&served[..], [Request::Add { uid, .. }] if *uid == client.uid),
        "{served:?}"
    );
    becomes(Some("enabled"))?;
    stand.server.patch(path, &label(None))?;
    ensure!(ztunnel.request()? == Request::Del(client.uid.clone()));
    ztunnel.acknowledge()?;
    becomes(None)
}

fn no_right_is_missing_and_none_is_idle(stand: &Stand) -> Result<()> {
    let granted = granted(stand)?;
    // The Lease is renewed every ten seconds.
    let idle = || {
        let asked: BTreeSet<_> = stand
            .server
            .asked()
            .into_iter()
            .map(|asked| [asked.group, asked.resource, asked.verb.name().to_owned()])
            .collect();
        granted.difference(&asked).cloned().collect::<Vec<_>>()
    };
    let all_used = eventually("every right is used", || Ok(idle().is_empty().then_some(())));
    all_used.with_context(|| format!("rights that nobody needs: {:?}", idle()))?;
    let refused: Vec<_> = stand
        .server
        .asked()
        .into_iter()
        .filter(|asked| !asked.allowed)
        .collect();
    ensure!(refused.is_empty(), "rights that are missing: {refused:#?}");
    Ok(())
}

/// Group, resource and verb of everything that a role grants.
fn granted(stand: &Stand) -> Result<BTreeSet<[String; 3]>> {
    let mut granted = BTreeSet::new();
    for kind in ["clusterroles", "namespaces/sluice-system/roles"] {
        let roles = stand
            .server
            .get(&format!("/apis/rbac.authorization.k8s.io/v1/{kind}"))?;
        let roles = roles["items"].as_array().context("no list of roles")?.clone();
        ensure!(!roles.is_empty(), "no {kind}");
        for rule in roles.iter().filter_map(|role| role["rules"].as_array()).flatten() {
            for group in words(rule, "apiGroups")? {
                for resource in words(rule, "resources")? {
                    for verb in words(rule, "verbs")? {
                        granted.insert([group.clone(), resource.clone(), verb]);
                    }
                }
            }
        }
    }
    Ok(granted)
}

fn words(rule: &Value, field: &str) -> Result<Vec<String>> {
    let words = rule[field]
        .as_array()
        .with_context(|| format!("{rule} has no {field}"))?;
    Ok(words
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect())
}
