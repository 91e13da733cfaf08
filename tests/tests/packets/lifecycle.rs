//! The agent dies, comes back, is doubled, and goes for good.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use sluice::privileges::NEEDED;
use sluice_tests::{
    Frame, Pod, Rig,
    bench::{
        UPLINK,
        addresses::{REGISTERED, UNREGISTERED},
    },
    sys,
};

use crate::common::{LONG, assert_errno, both, connect, rejecting, silent};

/// How many packets had this fate, as the agent counts.
fn count(rig: &Rig, hook: &str, verdict: &str, reason: &str) -> Result<u64> {
    let status = rig.agent.status()?;
    let counters = status["counters"]
        .as_array()
        .context("no counters in the status")?;
    let same = |counter: &&serde_json::Value| {
        counter["hook"] == hook && counter["verdict"] == verdict && counter["reason"] == reason
    };
    Ok(counters
        .iter()
        .find(same)
        .map_or(0, |counter| counter["packets"].as_u64().unwrap_or(0)))
}

fn send_all<'a>(pod: &Pod, frames: impl IntoIterator<Item = &'a Frame>) -> Result<()> {
    frames.into_iter().try_for_each(|frame| pod.send(frame))
}

#[test]
fn the_rules_outlive_the_agent() -> Result<()> {
    let mut rig = Rig::start(&silent())?;
    let before = count(&rig, "pod_out", "deny", "not-gateway")?;
    rig.agent.kill()?;

    let refused: Vec<Frame> = both(UNREGISTERED)
        .into_iter()
        .map(|dst| rig.client.sender().udp(dst, 53))
        .collect();
    send_all(&rig.client, &refused)?;
    for dst in both(REGISTERED) {
        let frame = rig.gateway.sender().syn(dst, 443);
        rig.gateway.send(&frame)?;
        rig.outside
            .wait_for_cookie(frame.cookie())
            .context("the gateway is cut off without the agent")?;
    }
    for frame in &refused {
        rig.did_not_arrive(frame.cookie())?;
    }

    rig.agent.restart()?;
    let after = count(&rig, "pod_out", "deny", "not-gateway")?;
    ensure!(
        after >= before + 2,
        "the programs judged nothing meanwhile: {before}, then {after}"
    );
    // The observer died with the agent it watched.
    rig.events = rig.agent.observe(true)?;
    for dst in both(UNREGISTERED) {
        let frame = rig.client.sender().udp(dst, 53);
        rig.client.send(&frame)?;
        rig.did_not_arrive(frame.cookie())?;
    }
    Ok(())
}

#[test]
fn calls_are_refused_without_the_agent() -> Result<()> {
    let mut rig = Rig::start(&rejecting())?;
    rig.agent.kill()?;
    for dst in both(UNREGISTERED) {
        assert_errno(
            rig.client.run(|| connect(dst, 80, LONG))?,
            libc::EPERM,
            "connect()",
        );
    }
    Ok(())
}

#[test]
fn a_pod_that_starts_without_the_agent_gets_nowhere_external() -> Result<()> {
    let mut rig = Rig::start(&silent())?;
    let before = count(&rig, "node_out", "deny", "not-approved")?;
    rig.agent.kill()?;
    let newcomer = rig.bench.pod("app", "newcomer")?;
    let inside = rig.peer.capture()?;
    let frames: Vec<Frame> = [both(REGISTERED), both(UNREGISTERED)]
        .concat()
        .into_iter()
        .flat_map(|dst| {
            [
                newcomer.sender().udp(dst, 53),
                newcomer.sender().syn(dst, 443),
                newcomer.sender().echo(dst),
            ]
        })
        .collect();
    send_all(&newcomer, &frames)?;
    // Its device works: other pods hear it.
    for dst in rig.peer.addresses() {
        let frame = newcomer.sender().udp(dst, 53);
        newcomer.send(&frame)?;
        inside
            .wait_for_cookie(frame.cookie())
            .context("the new pod reaches nobody at all")?;
    }
    for frame in &frames {
        rig.did_not_arrive(frame.cookie())?;
    }
    rig.agent.restart()?;
    let after = count(&rig, "node_out", "deny", "not-approved")?;
    ensure!(
        after >= before + u64::try_from(frames.len())?,
        "the backstop judged {before}, then {after}"
    );
    Ok(())
}

#[test]
fn a_second_agent_is_refused() -> Result<()> {
    let rig = Rig::start(&silent())?;
    let output = rig.agent.run_second(None)?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success(), "a second agent ran on the same node");
    ensure!(error.contains("another agent"), "it does not say why: {error}");
    rig.refused(
        &rig.client,
        &rig.client.sender().udp(both(UNREGISTERED)[0], 53),
        "not-gateway",
    )
    .map(drop)
}

#[test]
fn detach_leaves_nothing_behind() -> Result<()> {
    let mut rig = Rig::start(&rejecting())?;
    ensure!(
        !pins(&rig.agent.bpffs())?.is_empty(),
        "nothing is pinned while the agent runs"
    );
    rig.agent.kill()?;
    let output = rig.agent.detach()?;
    ensure!(
        output.status.success(),
        "detach failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );

    let left = pins(&rig.agent.bpffs())?;
    ensure!(left.is_empty(), "pins are left: {left:?}");
    for device in [
        UPLINK,
        rig.client.device(),
        rig.peer.device(),
        rig.gateway.device(),
    ] {
        let programs = rig.bench.node().run(|| programs(device))??;
        ensure!(programs == 0, "{programs} programs are left on {device}");
    }
    for dst in both(UNREGISTERED) {
        let frame = rig.client.sender().udp(dst, 53);
        rig.client.send(&frame)?;
        rig.outside
            .wait_for_cookie(frame.cookie())
            .context("something still drops")?;
        // Nobody listens there; what matters is who says so.
        let call = rig.client.run(|| connect(dst, 80, LONG))?;
        assert_errno(call, libc::ECONNREFUSED, "connect() after detach");
    }
    Ok(())
}

/// Programs on a device, of every kind that the kernel can be asked for.
fn programs(device: &str) -> Result<usize> {
    sys::device_index(device)?;
    let mut count = 0;
    for direction in [TcAttachType::Ingress, TcAttachType::Egress] {
        // TCX came with Linux 6.6; below it what remains would show in what is dropped.
        if let Ok((_, programs)) = SchedClassifier::query_tcx(device, direction) {
            count += programs.len();
        }
    }
    Ok(count)
}

/// Everything that is not a directory below this one.
fn pins(directory: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))? {
        let entry = entry?;
        // Every bpffs has iterators of its own: `maps.debug`, `progs.debug`.
        let own = entry
            .path()
            .extension()
            .is_some_and(|extension| extension == "debug");
        if entry.file_type()?.is_dir() {
            found.extend(pins(&entry.path())?);
        } else if !own {
            found.push(entry.path().display().to_string());
        }
    }
    Ok(found)
}

#[test]
fn the_agent_gives_up_what_it_does_not_need() -> Result<()> {
    let rig = Rig::start(&silent())?;
    let pid = rig.agent.pid().context("the agent runs")?;
    let needed = NEEDED
        .iter()
        .fold(0, |set, capability| set | capability.bitmask());
    let threads = fs::read_dir(format!("/proc/{pid}/task"))?;
    let mut seen = 0;
    for thread in threads {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let value = |field: &str| {
            let mut fields = status.lines().filter_map(|line| line.split_once(":\t"));
            fields.find_map(|(name, value)| (name == field).then_some(value))
        };
        for set in ["CapPrm", "CapEff"] {
            let set = value(set).context("no capabilities")?;
            ensure!(u64::from_str_radix(set, 16)? == needed, "{status}");
        }
        ensure!(value("CapInh") == Some("0000000000000000"), "{status}");
        ensure!(value("NoNewPrivs") == Some("1"), "{status}");
        // A filter.
        ensure!(value("Seccomp") == Some("2"), "{status}");
        seen += 1;
    }
    ensure!(seen > 1, "{seen} threads");
    Ok(())
}
