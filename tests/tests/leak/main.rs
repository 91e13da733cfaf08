//! Pods whose first act is a packet, without the CNI plugin: whatever the agent is doing, none gets out.

use std::{
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use sluice_tests::{
    Agent, Bench, Capture, Newcomer,
    bench::{
        addresses::{NODE_V4, NODE_V6, UNREGISTERED},
        ip,
    },
    command,
    manifest::{NODE, Policy},
    netns::Netns,
    newcomer,
};

/// How many pods are there at the same time.
const TOGETHER: usize = 20;
/// How many are made at the same time.
const WORKERS: usize = 4;
/// How long they go on sending.
const WHILE: Duration = Duration::from_millis(100);

/// What the agent does while pods come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Agents {
    Up,
    Down,
    Restarting,
}

impl fmt::Display for Agents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Restarting => "restarting",
        })
    }
}

/// A pod that sends.
struct Sending {
    newcomer: Newcomer,
    manifest: String,
    // After the sender, which lives in it.
    _netns: Netns,
}

#[test]
fn no_first_packet_gets_out() -> Result<()> {
    let pods = newcomer::how_many(1000);
    let bench = Bench::create()?;
    let outside = bench.capture_outside()?;
    let mut agent = Agent::start(&bench)?;
    // The way is there: without a policy they are heard outside.
    let (_, sent) = round(&bench, 0, 1, || Ok(()))?;
    settle(&bench, &outside)?;
    ensure!(
        sent > 0 && newcomer::leaked(&outside) > 0,
        "nothing arrives outside, whoever sends it"
    );
    bench.state().policy(&Policy::default())?;
    agent.settle()?;
    outside.clear();

    let modes = [Agents::Up, Agents::Down, Agents::Restarting];
    let mut totals = [(0, 0); 3];
    let (mut made, mut turn) = (1, 0);
    while made <= pods {
        let mode = modes[turn % modes.len()];
        let count = TOGETHER.min(pods + 1 - made);
        match mode {
            Agents::Up => agent.restart()?,
            Agents::Down => agent.kill()?,
            Agents::Restarting => {
                agent.kill()?;
                agent.spawn()?;
            }
        }
        let restart = || match mode {
            Agents::Restarting => {
                agent.kill()?;
                agent.spawn()
            }
            Agents::Up | Agents::Down => Ok(()),
        };
        let (fewest, sent) = round(&bench, made, count, restart)?;
        ensure!(fewest > 0, "a pod has sent nothing (agent {mode})");
        settle(&bench, &outside)?;
        let leaked = newcomer::leaked(&outside);
        ensure!(leaked == 0, "{leaked} packets got out (agent {mode})");
        outside.clear();
        let (pods, packets) = &mut totals[turn % modes.len()];
        *pods += count;
        *packets += sent;
        made += count;
        turn += 1;
    }
    agent.restart()?;
    let dropped = dropped(&agent)?;
    for (mode, (pods, packets)) in modes.iter().zip(totals) {
        eprintln!("agent {mode}: {pods} pods, {packets} packets sent, 0 outside");
    }
    eprintln!("packets dropped by sluice: {dropped}");
    ensure!(
        dropped >= u64::try_from(pods)?,
        "{pods} pods have sent, and only {dropped} packets were dropped"
    );
    Ok(())
}

/// Pods come, send, become known to the cluster (every other one) and go. Returns how many packets the most silent of them
/// has sent, and how many all have.
fn round(
    bench: &Bench,
    first: usize,
    count: usize,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<(u64, u64)> {
    let next = AtomicUsize::new(first);
    let work = || -> Result<Vec<Sending>> {
        let mut made = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= first + count {
                return Ok(made);
            }
            made.push(start(bench, index)?);
        }
    };
    let pods: Vec<Sending> = thread::scope(|scope| -> Result<_> {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        let mut pods = Vec::new();
        for worker in workers {
            pods.extend(worker.join().map_err(|_| anyhow!("a worker has panicked"))??);
        }
        Ok(pods)
    })?;
    let known: String = pods.iter().step_by(2).map(|pod| pod.manifest.as_str()).collect();
    bench.state().write("newcomers", &known)?;
    meanwhile()?;
    thread::sleep(WHILE);
    let mut sent = Vec::new();
    for pod in pods {
        pod.newcomer.wait_for(1)?;
        sent.push(pod.newcomer.end()?);
    }
    bench.state().remove("newcomers")?;
    Ok((sent.iter().min().copied().unwrap_or_default(), sent.iter().sum()))
}

/// Makes a pod that sends before it has a device.
fn start(bench: &Bench, index: usize) -> Result<Sending> {
    let name = format!("n{index}");
    let netns = bench.sandbox(&name)?;
    let newcomer = Newcomer::start(&netns, &UNREGISTERED.map(ip))?;
    let number = 10 + index % 200;
    let (v4, v6) = (format!("10.244.0.{number}"), format!("fd00:10:244::{number:x}"));
    let inside = netns.name();
    bench.node().run(|| {
        command::ip(&format!(
            "link add {name} type veth peer name eth0 netns {inside}
addr add 169.254.1.1/32 dev {name} scope link
addr add fe80::1/64 dev {name} nodad
link set {name} up
route add {v4}/32 dev {name} src {NODE_V4}
route add {v6}/128 dev {name} src {NODE_V6}
"
        ))
    })??;
    netns.run(|| {
        command::ip(&format!(
            "link set lo up
addr add {v4}/32 dev eth0
addr add {v6}/128 dev eth0 nodad
link set eth0 up
route add 169.254.1.1 dev eth0 scope link
route add default via 169.254.1.1 dev eth0
route add default via fe80::1 dev eth0
"
        ))
    })??;
    let path = netns.path().display().to_string();
    let manifest = format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: app, uid: {name}, annotations: {{sluice.dev/netns: {path}}}}}
spec: {{nodeName: {NODE}}}
status: {{phase: Running, podIP: \"{v4}\", podIPs: [{{ip: \"{v4}\"}}, {{ip: \"{v6}\"}}]}}
"
    );
    Ok(Sending {
        newcomer,
        manifest,
        _netns: netns,
    })
}

/// Waits until what was sent has arrived, or will not.
fn settle(bench: &Bench, outside: &Capture) -> Result<()> {
    // A packet may wait for the answer to a question after a neighbour.
    thread::sleep(WHILE);
    bench.flush(outside)
}

/// How many packets were refused, anywhere.
fn dropped(agent: &Agent) -> Result<u64> {
    let status = agent.status()?;
    let counters = status["counters"].as_array().context("no counters")?;
    let denied = counters.iter().filter(|count| count["verdict"] == "deny");
    Ok(denied.filter_map(|count| count["packets"].as_u64()).sum())
}
