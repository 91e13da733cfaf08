//! Whoever says that he is another pod is not believed.

use anyhow::Result;
use sluice_tests::kubelet::{Driver, Process};

use crate::common::{CONTAINERS, Manifest, Stand, UIDS};

/// Of a manifest on the node.
const HASH: &str = "5f8a1c0d9b7e4a3f2c6d8e1b0a9f7c5d";

#[test]
fn a_cgroup_inside_a_pods_is_no_other_pod() -> Result<()> {
    let stand = Stand::start(Driver::Cgroupfs, &[])?;
    let (evil, victim) = (stand.bench.pod("app", "evil")?, stand.bench.pod("app", "victim")?);
    let cgroups = stand.kubelet.pod(UIDS[0])?;
    let own = cgroups.container(CONTAINERS[0])?;
    // Below its own cgroup a pod may make what it likes.
    let pods = own.child("kubepods")?;
    let class = pods.child("burstable")?;
    let forged = class.child(&format!("pod{}", UIDS[1]))?;
    let inner = forged.child(CONTAINERS[1])?;
    // It may even have the other's address.
    evil.netns()
        .run(|| sluice_tests::command::ip(&format!("addr add {}/32 dev eth0\n", victim.v4())))??;
    let _process = Process::start(&inner, evil.netns())?;
    stand.declare(&evil, UIDS[0], &Manifest::default())?;
    stand.declare(&victim, UIDS[1], &Manifest::default())?;
    stand.found(&evil)?;
    stand.unfound(&victim, "is in its cgroup")?;
    Ok(())
}

#[test]
fn a_process_in_another_pods_namespace_is_not_believed() -> Result<()> {
    let stand = Stand::start(Driver::Systemd, &[])?;
    let (pod, other) = (
        stand.bench.pod("app", "client")?,
        stand.bench.pod("app", "other")?,
    );
    let cgroups = stand.kubelet.pod(UIDS[0])?;
    let container = cgroups.container(CONTAINERS[0])?;
    let _process = Process::start(&container, other.netns())?;
    stand.declare(&pod, UIDS[0], &Manifest::default())?;
    stand.unfound(
        &pod,
        &format!("none of its addresses ({}, {})", pod.v4(), pod.v6()),
    )?;
    Ok(())
}

#[test]
fn a_process_on_the_node_is_no_pods() -> Result<()> {
    let stand = Stand::start(Driver::Systemd, &[])?;
    let pod = stand.bench.pod("app", "client")?;
    let cgroups = stand.kubelet.pod(UIDS[0])?;
    let container = cgroups.container(CONTAINERS[0])?;
    let _process = Process::start(&container, stand.bench.node())?;
    stand.declare(&pod, UIDS[0], &Manifest::default())?;
    stand.unfound(&pod, "in the node's own network namespace")
}

#[test]
fn a_forged_mirror_is_no_static_pod_in_the_nodes_network() -> Result<()> {
    let stand = Stand::start(Driver::Systemd, &[])?;
    let (pod, evil) = (
        stand.bench.host_pod("app", "static")?,
        stand.bench.host_pod("app", "evil")?,
    );
    let _cgroup = stand.kubelet.pod(HASH)?;
    let mirror = |without_address| Manifest {
        annotations: format!("kubernetes.io/config.mirror: {HASH}"),
        owners: "{apiVersion: v1, kind: Node, name: node-1, uid: a}",
        without_address,
        ..Manifest::default()
    };
    // Before the kubelet has written its own.
    stand.declare(&evil, UIDS[1], &mirror(true))?;
    stand.unfound(&evil, "the kubelet has not said yet")?;
    stand.declare(&pod, UIDS[0], &mirror(false))?;
    stand.found(&pod)?;
    stand.unfound(&evil, "the kubelet has not said yet")
}

#[test]
fn a_static_pod_is_found_by_the_hash_of_its_manifest() -> Result<()> {
    let stand = Stand::start(Driver::Systemd, &[])?;
    let (pod, evil) = (
        stand.bench.pod("app", "static")?,
        stand.bench.pod("app", "thief")?,
    );
    let other = stand.bench.pod("app", "other")?;
    let cgroups = [stand.kubelet.pod(HASH)?, stand.kubelet.pod(UIDS[2])?];
    let [container, container_of_other] = [
        cgroups[0].container(CONTAINERS[0])?,
        cgroups[1].container(CONTAINERS[2])?,
    ];
    let _process = Process::start(&container, pod.netns())?;
    let _process_of_other = Process::start(&container_of_other, other.netns())?;
    stand.declare(&other, UIDS[2], &Manifest::default())?;
    let mirror = |owners| Manifest {
        annotations: format!("kubernetes.io/config.mirror: {HASH}"),
        owners,
        ..Manifest::default()
    };
    let of_node = "{apiVersion: v1, kind: Node, name: node-1, uid: a}";
    stand.declare(&pod, UIDS[0], &mirror(of_node))?;
    stand.found(&pod)?;
    // To say so oneself is nothing, and to write such a mirror gets nobody anything: neither what is the other's, nor that it
    // is taken from him. Its status is written by the kubelet alone, which knows no such pod.
    stand.declare(&evil, UIDS[1], &mirror(""))?;
    stand.unfound(&evil, &format!("is in its cgroup (pod{})", UIDS[1]))?;
    for hash in [HASH, UIDS[2]] {
        let forged = Manifest {
            annotations: format!("kubernetes.io/config.mirror: {hash}"),
            without_address: true,
            ..mirror(of_node)
        };
        stand.declare(&evil, UIDS[1], &forged)?;
        stand.unfound(&evil, "the kubelet has not said yet")?;
        stand.found(&pod)?;
        stand.found(&other)?;
    }
    // The kubelet does not say it of two pods; if it does, nobody knows which it is.
    stand.declare(&evil, UIDS[1], &mirror(of_node))?;
    stand.unfound(&evil, "several pods say")?;
    stand.unfound(&pod, "several pods say")?;
    stand.found(&other).map(drop)
}
