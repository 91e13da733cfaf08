//! A pod of a cluster: what tenants write on it says nothing of where it is.

use anyhow::{Context as _, Result};
use sluice_tests::{
    ApiServer, Bench,
    kubelet::{Driver, Process},
    manifest::NODE,
};

use crate::common::{CONTAINERS, Stand};

/// What every cluster has.
const CLUSTER: &str = include_str!("../../../deploy/base/crds.yaml");

#[test]
fn a_pod_of_a_cluster_is_found_where_it_is_and_not_where_it_says() -> Result<()> {
    let bench = Bench::create()?;
    let server = ApiServer::start_in(bench.node())?;
    server.apply(CLUSTER)?;
    server.apply(&format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: {NODE}}}\nspec: {{podCIDRs: [10.244.0.0/24]}}\n"
    ))?;
    let (pod, other) = (bench.pod("app", "client")?, bench.pod("app", "other")?);
    server.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: app}\n")?;
    server.apply(&format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: client, namespace: app, annotations: {{sluice.dev/netns: {}}}}}
spec: {{nodeName: {NODE}, containers: [{{name: main, image: none}}]}}
status: {{phase: Running, podIPs: [{{ip: {}}}]}}
",
        other.netns().path().display(),
        pod.v4(),
    ))?;
    let written = server.get("/api/v1/namespaces/app/pods/client")?;
    let uid = written["metadata"]["uid"].as_str().context("a pod has a uid")?;

    let stand = Stand::watching(Driver::Systemd, &server, bench)?;
    stand.unfound(&pod, "is in its cgroup")?;
    let cgroups = stand.kubelet.pod(uid)?;
    let container = cgroups.container(CONTAINERS[0])?;
    let _process = Process::start(&container, pod.netns())?;
    stand.found(&pod)?;
    let entry = stand.agent.endpoint(&pod)?;
    assert_eq!(entry["devices"][0]["name"], pod.device(), "{entry:#}");
    Ok(())
}
