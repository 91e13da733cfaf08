//! What a look at all processes costs.

use std::fs;

use anyhow::{Context as _, Result};
use sluice_tests::{
    in_guest,
    kubelet::{Driver, Process},
};

use crate::common::{Manifest, Stand, UIDS};

/// Processes of each pod.
const CONTAINERS: usize = 3;

#[test]
fn a_pod_among_many_is_found() -> Result<()> {
    let pods = if in_guest() { 20 } else { 500 };
    let stand = Stand::start(Driver::Systemd, &[])?;
    let pod = stand.bench.pod("app", "client")?;
    let other = stand.bench.pod("app", "other")?;
    let mut cgroups = Vec::new();
    let mut processes = Vec::new();
    for number in 0..pods {
        let uid = format!("00000000-0000-4000-8000-{number:012}");
        let cgroup = stand.kubelet.pod(&uid)?;
        for container in 0..CONTAINERS {
            let container = cgroup.container(&format!("{number:032x}{container:032x}"))?;
            processes.push(Process::start(&container, other.netns())?);
            cgroups.push(container);
        }
        // The pod's own, after its containers'.
        cgroups.push(cgroup.into_cgroup());
    }
    let cgroup = stand.kubelet.pod(UIDS[0])?;
    let container = cgroup.container(crate::common::CONTAINERS[0])?;
    let _process = Process::start(&container, pod.netns())?;
    stand.declare(&pod, UIDS[0], &Manifest::default())?;
    let found = stand.found(&pod)?;
    let log = fs::read_to_string(stand.agent.log())?;
    let walk = log
        .lines()
        .rev()
        .find(|line| line.contains("looked at all processes"));
    println!(
        "found {found:?} after it was declared, among {} others' processes",
        processes.len()
    );
    println!("{}", walk.context("no walk in the log")?);
    Ok(())
}
