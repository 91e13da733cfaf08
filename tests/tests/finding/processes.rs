//! Pods with a network namespace of their own.

use anyhow::{Context as _, Result};
use sluice_tests::{
    bench::addresses::UNREGISTERED,
    bench::ip,
    kubelet::{Driver, Process},
};

use crate::common::{CONTAINERS, Manifest, Stand, UIDS};

#[test]
fn a_pod_is_found_by_its_process_and_enforced() -> Result<()> {
    for driver in [Driver::Systemd, Driver::Cgroupfs] {
        let stand = Stand::start(driver, &[])?;
        let pod = stand.bench.pod("app", "client")?;
        let cgroups = stand.kubelet.pod(UIDS[0])?;
        let container = cgroups.container(CONTAINERS[0])?;
        let _process = Process::start(&container, pod.netns())?;
        stand.declare(&pod, UIDS[0], &Manifest::default())?;
        stand.found(&pod)?;

        let outside = stand.bench.capture_outside()?;
        let events = stand.agent.observe(false)?;
        let dst = ip(UNREGISTERED[0]);
        let frame = pod.sender().udp(dst, 53);
        // Until the observer is there.
        let event = loop {
            pod.send(&frame)?;
            if let Some(event) = events.all().into_iter().find(|event| event.dst == dst) {
                break event;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        };
        assert_eq!(event.reason, "not-gateway");
        assert_eq!(event.pod.map(|pod| pod.name).as_deref(), Some("client"));
        stand.bench.flush(&outside)?;
        assert!(!outside.has_received(frame.cookie()));
    }
    Ok(())
}

#[test]
fn a_pod_is_found_as_soon_as_it_runs() -> Result<()> {
    let stand = Stand::start(Driver::Systemd, &[])?;
    let pod = stand.bench.pod("app", "client")?;
    let without_address = Manifest {
        without_address: true,
        ..Manifest::default()
    };
    stand.declare(&pod, UIDS[0], &without_address)?;
    stand.unfound(&pod, "no address yet")?;
    stand.declare(&pod, UIDS[0], &Manifest::default())?;
    stand.unfound(&pod, "is in its cgroup")?;
    let container = stand.kubelet.pod(UIDS[0])?;
    let container = (container.container(CONTAINERS[0])?, container);
    let process = Process::start(&container.0, pod.netns())?;
    println!("found {:?} after its first process was there", stand.found(&pod)?);

    // The namespace stays when the process goes; what comes next is another process, and then another namespace.
    drop(process);
    let second = Process::start(&container.0, pod.netns())?;
    stand.bench.pod("app", "other")?;
    stand.found(&pod)?;
    drop(second);
    drop(pod);
    let anew = stand.bench.pod("app", "client")?;
    let _third = Process::start(&container.0, anew.netns())?;
    stand.declare(&anew, UIDS[0], &Manifest::default())?;
    let device = anew.device().to_owned();
    stand.wait_for(&anew, "found by its new device", |entry| {
        entry["devices"][0]["name"] == device.as_str()
    })?;
    Ok(())
}

#[test]
fn the_oldest_process_that_fits_counts() -> Result<()> {
    let stand = Stand::start(Driver::Cgroupfs, &[])?;
    let (pod, other) = (
        stand.bench.pod("app", "client")?,
        stand.bench.pod("app", "other")?,
    );
    let cgroups = stand.kubelet.pod(UIDS[0])?;
    let container = cgroups.container(CONTAINERS[0])?;
    let _first = Process::start(&container, pod.netns())?;
    // On their way through: the node's, and another pod's.
    let _second = Process::start(&container, stand.bench.node())?;
    let _third = Process::start(&container, other.netns())?;
    stand.declare(&pod, UIDS[0], &Manifest::default())?;
    stand.found(&pod)?;
    let entry = stand.agent.endpoint(&pod)?;
    let device = entry["devices"][0]["name"].as_str().context("a device")?;
    assert_eq!(device, pod.device());
    Ok(())
}
