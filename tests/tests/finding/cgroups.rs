//! What is told by its cgroup: pods in the node's network namespace, and sidecars.

use std::net::UdpSocket;

use anyhow::{Context as _, Result};
use sluice_tests::{
    Agent,
    bench::addresses::UNREGISTERED,
    bench::ip,
    cgroup::Cgroup,
    frame::Cookie,
    kubelet::{Driver, Process},
    netns::on_thread,
};

use crate::common::{CONTAINERS, Manifest, Stand, UIDS};

#[test]
fn a_pod_in_the_nodes_network_is_found_by_its_cgroup_and_held() -> Result<()> {
    for driver in [Driver::Systemd, Driver::Cgroupfs] {
        let stand = Stand::start(driver, &[])?;
        let pod = stand.bench.host_pod("app", "agent")?;
        stand.declare(&pod, UIDS[0], &Manifest::default())?;
        stand.unfound(&pod, "there is no cgroup of pod")?;
        let cgroups = stand.kubelet.pod(UIDS[0])?;
        let container = cgroups.container(CONTAINERS[0])?;
        // Whoever is in a pod is not the node, whichever pod it is.
        assert!(!stand.gets_out(&container)?);
        // Nobody tells of a cgroup; the next pass finds it.
        stand.agent.status()?;
        stand.found(&pod)?;

        assert!(!stand.gets_out(&container)?);
    }
    Ok(())
}

#[test]
fn on_a_node_that_is_a_container_a_pod_in_its_network_is_held_too() -> Result<()> {
    let stand = Stand::start_with(Driver::Systemd, Agent::nested)?;
    let pod = stand.bench.host_pod("app", "agent")?;
    let cgroups = stand.kubelet.pod(UIDS[0])?;
    let container = cgroups.container(CONTAINERS[0])?;
    assert!(!stand.gets_out(&container)?);
    stand.declare(&pod, UIDS[0], &Manifest::default())?;
    stand.found(&pod)?;
    assert!(!stand.gets_out(&container)?);
    Ok(())
}

impl Stand {
    /// Whether what a process of this container sends from the node's network arrives outside.
    fn gets_out(&self, container: &Cgroup) -> Result<bool> {
        let outside = self.bench.capture_outside()?;
        let (cookie, dst) = (Cookie::unique(), ip(UNREGISTERED[0]));
        on_thread(|| -> Result<()> {
            container.join()?;
            self.bench.node().enter()?;
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            // It is refused at once, or the packet is dropped on the uplink.
            let _ = socket.send_to(&cookie.times(2), (dst, 53));
            Ok(())
        })?;
        self.bench.flush(&outside)?;
        Ok(outside.has_received(cookie))
    }
}

#[test]
fn a_sidecar_is_found_by_its_container() -> Result<()> {
    let stand = Stand::start(Driver::Systemd, &["--sidecar"])?;
    let pod = stand.bench.pod("app", "client")?;
    let cgroups = stand.kubelet.pod(UIDS[0])?;
    let (main, proxy) = (
        cgroups.container(CONTAINERS[0])?,
        cgroups.container(CONTAINERS[1])?,
    );
    let _process = Process::start(&main, pod.netns())?;
    let manifest = Manifest {
        annotations: "sidecar.istio.io/status: injected".to_owned(),
        init_containers: "{name: istio-proxy, image: none, restartPolicy: Always, args: [proxy, sidecar]}",
        init_statuses: format!(
            "{{name: istio-proxy, image: none, imageID: none, ready: true, restartCount: 0, containerID: \
             \"containerd://{}\"}}",
            CONTAINERS[1]
        ),
        ..Manifest::default()
    };
    stand.declare(&pod, UIDS[0], &manifest)?;
    stand.found(&pod)?;
    stand.wait_for(&pod, "captured", |entry| entry["capture"] == "sidecar")?;
    let listed = stand.agent.command(&["list", "captures", "-o", "json"])?;
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).context("no JSON")?;
    let proxies = &listed[0]["proxy_cgroups"];
    assert_eq!(*proxies, serde_json::json!([proxy.path()]), "{listed}");
    Ok(())
}
