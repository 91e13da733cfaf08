//! What a runtime asks for, and what it is told.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rstest::rstest;
use serde_json::json;
use sluice_tests::{
    PATIENCE, Proxy,
    bench::addresses::{REGISTERED, UNREGISTERED},
    cni::NETWORK,
    command,
    kubelet::{Driver, Kubelet, Process},
    ztunnel::Ztunnel,
};

use crate::common::{PERMITTED, Stand, manifest, policy, refused, text};

#[rstest]
#[case::ptp("1.0.0", "ptp")]
#[case::bridge("1.0.0", "bridge")]
#[case::as_kindnet_speaks("0.3.1", "ptp")]
#[case::older("0.4.0", "bridge")]
fn a_pod_is_enforced_from_its_first_packet(#[case] version: &str, #[case] primary: &str) -> Result<()> {
    let stand = Stand::start(version, primary)?;
    let (sandbox, result) = stand.pod("client")?;
    for to in REGISTERED {
        stand.arrives(&sandbox, to, PERMITTED)?;
        ensure!(
            !stand.leaves(&sandbox, to, 53)?,
            "a port that is not permitted is open"
        );
    }
    for to in UNREGISTERED {
        ensure!(!stand.leaves(&sandbox, to, PERMITTED)?, "{to} was reached");
    }
    ensure!(
        result["cniVersion"] == version,
        "the result is of another version: {result}"
    );
    let endpoint = stand.endpoint("client")?;
    let given = result["ips"].as_array().context("no addresses")?;
    ensure!(given.len() == 2, "one address of each family: {result}");
    for (given, known) in given
        .iter()
        .zip(endpoint["addresses"].as_array().context("none")?)
    {
        let given = given["address"].as_str().context("no address")?;
        let known = known.as_str().context("no address")?;
        ensure!(given.starts_with(&format!("{known}/")), "{given} became {known}");
    }
    if version != "0.3.1" {
        stand.runtime.check(&sandbox, &result)??;
    }
    stand.runtime.del(&sandbox, &result)??;
    ensure!(
        stand.agent.status()?["announced"] == 0,
        "a deleted pod is still announced"
    );
    // Once more is no error.
    stand.runtime.del(&sandbox, &result)??;
    Ok(())
}

#[test]
fn the_result_is_passed_on_as_it_came() -> Result<()> {
    let stand = Stand::start("1.0.0", "ptp")?;
    let (sandbox, result) = stand.pod("client")?;
    let plugin = stand.plugin("1.1.0")?;
    let mut odd = result.clone();
    odd["cniVersion"] = "1.1.0".into();
    odd["unknown"] = json!({"b": [1, 2.50], "a": null});
    let text = stand.runtime.run("ADD", &plugin, Some(&odd), Some(&sandbox))??;
    let expected = odd.to_string();
    ensure!(text.trim_end() == expected, "{odd} was passed on as {text}");
    // There is no plugin before it.
    let outcome = stand.runtime.run("ADD", &plugin, None, Some(&sandbox))?;
    refused(outcome, 7, "chained")?;
    let plugin = stand.plugin("0.2.0")?;
    refused(
        stand.runtime.run("ADD", &plugin, Some(&odd), Some(&sandbox))?,
        1,
        "0.2.0",
    )?;
    let version = stand.runtime.run(
        "VERSION",
        &json!({"type": "sluice-cni", "cniVersion": "1.0.0"}),
        None,
        None,
    )??;
    ensure!(version.contains("\"1.1.0\"]"), "{version}");
    Ok(())
}

#[test]
fn a_pod_waits_until_the_cluster_tells_of_it() -> Result<()> {
    let stand = Stand::start("1.0.0", "ptp")?;
    let sandbox = stand.sandbox("late", "uid-late")?;
    let since = Instant::now();
    let outcome = stand.runtime.add(&sandbox)?;
    refused(outcome, 11, "no such pod on this node")?;
    ensure!(since.elapsed() >= Duration::from_secs(4), "it did not wait");
    stand.runtime.del(&sandbox, &json!({}))?.ok();
    // A pod of the same name that was there before.
    stand.declare("late", "uid-before")?;
    let sandbox = stand.sandbox_of("late", "uid-late", "late-again")?;
    refused(
        stand.runtime.add(&sandbox)?,
        11,
        "another pod of this name (yet): uid uid-before, not uid-late",
    )?;
    stand.runtime.del(&sandbox, &json!({}))?.ok();
    let sandbox = stand.sandbox_of("late", "uid-late", "late-at-last")?;
    let outcome = thread::scope(|scope| {
        let added = scope.spawn(|| stand.runtime.add(&sandbox));
        thread::sleep(Duration::from_secs(1));
        stand.declare("late", "uid-late")?;
        added
            .join()
            .map_err(|_| anyhow::anyhow!("the runtime has panicked"))?
    })?;
    outcome?;
    stand.arrives(&sandbox, REGISTERED[0], PERMITTED)?;
    Ok(())
}

#[test]
fn without_a_policy_nobody_waits() -> Result<()> {
    let stand = Stand::prepare(&[])?;
    stand.runtime.configure(&stand.runtime.network("1.0.0", "ptp"))?;
    let stand = stand.run()?;
    let sandbox = stand.sandbox("client", "uid")?;
    let since = Instant::now();
    stand.runtime.add(&sandbox)??;
    ensure!(
        since.elapsed() < Duration::from_secs(4),
        "it waited for an object that nobody needs"
    );
    stand.arrives(&sandbox, UNREGISTERED[0], 53)?;
    // A policy finds it where it was announced.
    stand.declare("client", "uid")?;
    stand.bench.state().policy(&policy())?;
    let deadline = Instant::now() + PATIENCE;
    while stand.leaves(&sandbox, UNREGISTERED[0], 53)? || !stand.leaves(&sandbox, REGISTERED[0], PERMITTED)? {
        ensure!(
            Instant::now() < deadline,
            "it is not enforced: {}",
            stand.endpoint("client")?
        );
    }
    Ok(())
}

#[test]
fn without_the_agent_pods_wait_and_can_be_deleted() -> Result<()> {
    let mut stand = Stand::start("1.0.0", "ptp")?;
    let (before, result) = stand.pod("before")?;
    let plugin = stand.plugin("1.1.0")?;
    stand.runtime.run("STATUS", &plugin, None, None)??;
    stand.agent.kill()?;
    stand.declare("client", "uid")?;
    let sandbox = stand.sandbox("client", "uid")?;
    let socket = stand.agent.run_dir().join("agent.sock");
    refused(stand.runtime.add(&sandbox)?, 11, text(&socket)?)?;
    let outcome = stand.runtime.run("STATUS", &plugin, None, None)?;
    refused(outcome, 50, "is `sluice agent` running")?;
    stand.runtime.del(&sandbox, &json!({}))?.ok();
    stand.runtime.del(&before, &result)??;
    drop(before);
    stand.agent.restart()?;
    ensure!(
        stand.agent.status()?["announced"] == 0,
        "a pod that was deleted meanwhile is still announced"
    );
    let sandbox = stand.sandbox_of("client", "uid", "again")?;
    stand.runtime.add(&sandbox)??;
    stand.arrives(&sandbox, REGISTERED[0], PERMITTED)?;
    Ok(())
}

#[test]
fn the_next_agent_knows_who_was_announced() -> Result<()> {
    let mut stand = Stand::start("1.0.0", "bridge")?;
    let (sandbox, result) = stand.pod("client")?;
    stand.agent.kill()?;
    stand.arrives(&sandbox, REGISTERED[0], PERMITTED)?;
    stand.agent.restart()?;
    let endpoint = stand.endpoint("client")?;
    ensure!(endpoint["pending"].is_null(), "it was forgotten: {endpoint}");
    stand.arrives(&sandbox, REGISTERED[0], PERMITTED)?;
    stand.runtime.check(&sandbox, &result)??;
    Ok(())
}

#[test]
fn what_the_runtime_no_longer_knows_is_forgotten() -> Result<()> {
    let stand = Stand::start("1.0.0", "ptp")?;
    let (one, result) = stand.pod("one")?;
    let (other, _) = stand.pod("other")?;
    let mut plugin = stand.plugin("1.1.0")?;
    refused(
        stand.runtime.run("GC", &plugin, None, None)?,
        7,
        "valid-attachments",
    )?;
    plugin["cni.dev/valid-attachments"] = json!([{"containerID": one.id, "ifname": "eth0"}]);
    let mut elsewhere = plugin.clone();
    elsewhere["name"] = format!("not-{NETWORK}").into();
    stand.runtime.run("GC", &elsewhere, None, None)??;
    ensure!(
        stand.agent.status()?["announced"] == 2,
        "another network's were forgotten"
    );
    stand.runtime.run("GC", &plugin, None, None)??;
    ensure!(
        stand.agent.status()?["announced"] == 1,
        "what is not valid was kept"
    );
    stand.runtime.check(&one, &result)??;
    let ours = stand.plugin("1.0.0")?;
    let outcome = stand.runtime.run("CHECK", &ours, Some(&result), Some(&other))?;
    refused(outcome, 100, "announced, and deleted since")
}

#[test]
fn what_was_announced_and_is_there_no_more_is_looked_for() -> Result<()> {
    let stand = Stand::start("1.0.0", "ptp")?;
    let kubelet = Kubelet::start(&stand.bench, Driver::Systemd)?;
    let (sandbox, result) = stand.pod("client")?;
    let other = stand.sandbox("other", "uid-other")?;
    let cgroup = kubelet.pod("uid-client")?;
    let container = cgroup.container(&"e5".repeat(32))?;
    let _process = Process::start(&container, &sandbox.netns)?;
    let before = stand.endpoint("client")?;
    // As when the number of the process that the path names is another's.
    let path = sandbox.netns.path();
    let none: Option<&str> = None;
    umount2(path, MntFlags::MNT_DETACH)?;
    mount(Some(other.netns.path()), path, none, MsFlags::MS_BIND, none)?;
    let given = result["ips"][0]["address"].as_str().context("no address")?;
    let (address, _) = given.split_once('/').context("no prefix")?;
    let declared = manifest("client", "uid-client").replace(
        "{phase: Pending}",
        &format!("{{phase: Running, podIPs: [{{ip: {address}}}]}}"),
    );
    stand.bench.state().write("pod-client", &declared)?;
    // The node tells of a change: what was seen at the path is looked at again.
    stand
        .bench
        .node()
        .run(|| command::ip("addr add 192.0.2.200/32 dev lo\n"))??;
    let deadline = Instant::now() + PATIENCE;
    while stand.agent.status()?["announced"] != 0 || !stand.endpoint("client")?["pending"].is_null() {
        ensure!(Instant::now() < deadline, "{}", stand.endpoint("client")?);
        thread::sleep(Duration::from_millis(20));
    }
    let found = stand.endpoint("client")?;
    ensure!(
        found["devices"] == before["devices"] && found["addresses"] == json!([address]),
        "{before} became {found}"
    );
    stand.comes_to_leave(&sandbox, REGISTERED[0], PERMITTED)
}

#[test]
fn an_address_that_is_not_inside_is_not_believed() -> Result<()> {
    let stand = Stand::start("1.0.0", "ptp")?;
    let (sandbox, mut result) = stand.pod("client")?;
    result["ips"] = json!([{"address": "10.244.0.250/24"}]);
    let plugin = stand.plugin("1.0.0")?;
    let outcome = stand.runtime.run("ADD", &plugin, Some(&result), Some(&sandbox))?;
    refused(
        outcome,
        11,
        "10.244.0.250 is said to be its address, and is not inside",
    )
}

#[test]
fn a_captured_pod_waits_for_its_proxy() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("zds");
    let stand = Stand::prepare(&["--ambient", "--zds-socket", text(&socket)?])?;
    stand.runtime.configure(&stand.runtime.network("1.0.0", "ptp"))?;
    stand
        .bench
        .state()
        .namespace("app", &[("istio.io/dataplane-mode", "ambient")])?;
    let stand = stand.run()?;
    stand.declare("client", "uid")?;
    let sandbox = stand.sandbox("client", "uid")?;
    let outcome = stand.runtime.add(&sandbox)?;
    refused(outcome, 11, "capture (in-pod): waits for ztunnel")?;
    stand.runtime.del(&sandbox, &json!({}))?.ok();
    drop(sandbox);
    let proxy = Proxy::on_node(&stand.bench)?;
    let ztunnel = Ztunnel::connect(&proxy, &socket)?;
    let sandbox = stand.sandbox_of("client", "uid", "again")?;
    let outcome = thread::scope(|scope| {
        let added = scope.spawn(|| stand.runtime.add(&sandbox));
        while !added.is_finished() {
            // It is told of all and of this one; whatever it is asked, it agrees.
            if ztunnel.request().is_ok() {
                ztunnel.acknowledge()?;
            }
            if stand.endpoint("client")?["enrolment"] == "enrolled" {
                break;
            }
        }
        added
            .join()
            .map_err(|_| anyhow::anyhow!("the runtime has panicked"))?
    })?;
    outcome?;
    Ok(())
}

#[test]
fn an_excluded_namespace_does_not_wait_and_is_under_the_rules() -> Result<()> {
    let stand = Stand::prepare(&["--cni-no-wait-namespace", "app"])?;
    stand.bench.state().policy(&policy())?;
    stand.runtime.configure(&stand.runtime.network("1.0.0", "ptp"))?;
    let mut stand = stand.run()?;
    let sandbox = stand.sandbox("client", "uid")?;
    stand.runtime.add(&sandbox)??;
    // Nobody knows it: not even what is permitted to all passes.
    ensure!(
        !stand.leaves(&sandbox, REGISTERED[0], PERMITTED)?,
        "an unknown pod has sent"
    );
    stand.declare("client", "uid")?;
    stand.comes_to_leave(&sandbox, REGISTERED[0], PERMITTED)?;
    stand.agent.kill()?;
    let sandbox = stand.sandbox("other", "uid-other")?;
    stand.runtime.add(&sandbox)??;
    ensure!(
        !stand.leaves(&sandbox, REGISTERED[0], PERMITTED)?,
        "without the agent an unknown pod has sent"
    );
    Ok(())
}
