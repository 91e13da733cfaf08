//! Pods that send before they have a device, and what of that gets out.

use std::{
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use sluice_tests::{
    Agent, Bench, Capture, Newcomer, PATIENCE,
    bench::{
        addresses::{NODE_V4, NODE_V6, UNREGISTERED},
        ip,
    },
    command,
    manifest::NODE,
    netns::Netns,
    newcomer,
};

/// How many pods are there at the same time.
const TOGETHER: usize = 20;
/// How many are made at the same time.
const WORKERS: usize = 4;
/// How long they go on sending.
const WHILE: Duration = Duration::from_millis(100);

/// A node and what arrives outside of it.
pub(crate) struct Node<'a> {
    pub(crate) bench: &'a Bench,
    pub(crate) outside: &'a Capture,
}

/// A pod that sends.
struct Sending {
    newcomer: Newcomer,
    manifest: String,
    // After the sender, which lives in it.
    _netns: Netns,
}

impl Node<'_> {
    /// Asserts that what a pod sends arrives outside, while nothing is enforced: there is a way, and it is watched.
    pub(crate) fn is_open(&self) -> Result<()> {
        let pod = start(self.bench, 0)?;
        let deadline = Instant::now() + PATIENCE;
        while newcomer::leaked(self.outside) == 0 {
            ensure!(
                Instant::now() < deadline,
                "nothing arrives outside, whoever sends it"
            );
            thread::sleep(WHILE);
        }
        pod.newcomer.end()?;
        self.settle()?;
        self.outside.clear();
        Ok(())
    }

    /// Has pods come and go. `disturb` is called before each round of them and when they are there; it gets the manifests of
    /// half of them, of which the cluster may now tell the agent. Asserts that each has sent, and that nothing arrives outside.
    pub(crate) fn is_closed(
        &self,
        what: &str,
        pods: Range<usize>,
        mut disturb: impl FnMut(&str) -> Result<()>,
    ) -> Result<()> {
        let (all, mut packets) = (pods.len(), 0);
        for first in pods.clone().step_by(TOGETHER) {
            disturb("")?;
            let round = first..pods.end.min(first + TOGETHER);
            packets += self.round(round, &mut disturb)?;
            self.settle()?;
            let leaked = newcomer::leaked(self.outside);
            ensure!(leaked == 0, "{what}: {leaked} packets got out");
            self.outside.clear();
        }
        eprintln!("{what}: {all} pods, {packets} packets sent, 0 outside");
        Ok(())
    }

    /// One round of them. Returns how many packets they have sent.
    fn round(&self, pods: Range<usize>, disturb: &mut dyn FnMut(&str) -> Result<()>) -> Result<u64> {
        let next = AtomicUsize::new(pods.start);
        let work = || -> Result<Vec<Sending>> {
            let mut made = Vec::new();
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= pods.end {
                    return Ok(made);
                }
                made.push(start(self.bench, index)?);
            }
        };
        let made: Vec<Sending> = thread::scope(|scope| -> Result<_> {
            let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
            let mut made = Vec::new();
            for worker in workers {
                made.extend(worker.join().map_err(|_| anyhow!("a worker has panicked"))??);
            }
            Ok(made)
        })?;
        let known = made.iter().step_by(2).map(|pod| pod.manifest.as_str());
        disturb(&known.collect::<String>())?;
        thread::sleep(WHILE);
        let mut sent = 0;
        for Sending { newcomer, .. } in &made {
            newcomer.wait_for(1)?;
        }
        for Sending { newcomer, .. } in made {
            sent += newcomer.end()?;
        }
        Ok(sent)
    }

    /// Waits until what was sent has arrived, or will not.
    fn settle(&self) -> Result<()> {
        // A packet may wait for the answer to a question after a neighbour.
        thread::sleep(WHILE);
        self.bench.flush(self.outside)
    }
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
metadata: {{name: {name}, namespace: app, annotations: {{sluice.dev/netns: {path}}}}}
spec: {{nodeName: {NODE}, containers: [{{name: main, image: none}}]}}
status: {{phase: Running, podIP: \"{v4}\", podIPs: [{{ip: \"{v4}\"}}, {{ip: \"{v6}\"}}]}}
"
    );
    Ok(Sending {
        newcomer,
        manifest,
        _netns: netns,
    })
}

/// Asserts that as many packets were refused, wherever.
pub(crate) fn were_dropped(agent: &Agent, pods: usize) -> Result<()> {
    let status = agent.status()?;
    let counters = status["counters"].as_array().context("no counters")?;
    let denied = counters.iter().filter(|count| count["verdict"] == "deny");
    let dropped: u64 = denied.filter_map(|count| count["packets"].as_u64()).sum();
    eprintln!("packets dropped by sluice: {dropped}");
    ensure!(
        dropped >= u64::try_from(pods)?,
        "{pods} pods have sent, and only {dropped} packets were dropped"
    );
    Ok(())
}
