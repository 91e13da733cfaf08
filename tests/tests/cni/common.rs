//! A node with a container runtime.

use std::{
    net::{IpAddr, UdpSocket},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use sluice_tests::{
    Agent, Bench, Capture, Cookie, PATIENCE,
    bench::addresses::REGISTERED,
    cni::{Refused, Runtime, Sandbox},
    command,
    manifest::{NODE, Policy},
};

/// How long the plugin waits, in seconds.
pub(crate) const WAIT: &str = "4";
/// The port that every pod may send to at [`REGISTERED`].
pub(crate) const PERMITTED: u16 = 123;

/// Fields are dropped in this order.
#[derive(Debug)]
pub(crate) struct Stand {
    /// What arrives outside.
    pub(crate) outside: Capture,
    pub(crate) agent: Agent,
    pub(crate) runtime: Runtime,
    pub(crate) bench: Bench,
}

/// Every pod may send datagrams to one destination, and nothing else out of the cluster.
pub(crate) fn policy() -> Policy {
    let exception = |address: &str, len| (format!("{address}/{len}"), "UDP", PERMITTED);
    Policy {
        exceptions: vec![exception(REGISTERED[0], 32), exception(REGISTERED[1], 128)],
        ..Policy::default()
    }
}

impl Stand {
    /// With a network made by this plugin, and a policy.
    pub(crate) fn start(version: &str, primary: &str) -> Result<Self> {
        let stand = Self::prepare(&[])?;
        stand.bench.state().policy(&policy())?;
        stand
            .runtime
            .configure(&stand.runtime.network(version, primary))?;
        stand.run()
    }

    /// With neither, and without the agent.
    pub(crate) fn prepare(more: &[&str]) -> Result<Self> {
        let bench = Bench::create()?;
        let runtime = Runtime::on(bench.node())?;
        let (conf, bin) = (runtime.conf_dir(), runtime.bin_dir());
        let arguments = [
            "--cni-conf-dir",
            text(&conf)?,
            "--cni-bin-dir",
            text(&bin)?,
            "--cni-wait",
            WAIT,
        ];
        let agent = Agent::prepare(&bench)?.with_arguments(&[&arguments, more].concat());
        let outside = bench.capture_outside()?;
        Ok(Self {
            outside,
            agent,
            runtime,
            bench,
        })
    }

    /// Starts the agent.
    pub(crate) fn run(mut self) -> Result<Self> {
        self.agent.restart()?;
        Ok(self)
    }

    /// Declares a pod as the cluster has it before it is started: without addresses.
    pub(crate) fn declare(&self, name: &str, uid: &str) -> Result<()> {
        self.bench
            .state()
            .write(&format!("pod-{name}"), &manifest(name, uid))
    }

    /// What the runtime makes of a pod `app/NAME` before there is a network.
    pub(crate) fn sandbox(&self, name: &str, uid: &str) -> Result<Sandbox> {
        self.sandbox_of(name, uid, name)
    }

    /// The same with another name for the namespace: of a pod there may be several after each other.
    pub(crate) fn sandbox_of(&self, name: &str, uid: &str, netns: &str) -> Result<Sandbox> {
        let netns = self.bench.sandbox(netns)?;
        // As runtimes do before anything else.
        netns.run(|| command::ip("link set lo up\n"))??;
        Ok(Sandbox::of_pod(netns, "app", name, uid))
    }

    /// A declared pod that is admitted.
    pub(crate) fn pod(&self, name: &str) -> Result<(Sandbox, Value)> {
        let uid = format!("uid-{name}");
        self.declare(name, &uid)?;
        let sandbox = self.sandbox(name, &uid)?;
        let result = self.runtime.add(&sandbox)??;
        Ok((sandbox, result))
    }

    /// Asserts that the very next datagram that a sandbox sends leaves the cluster.
    pub(crate) fn arrives(&self, sandbox: &Sandbox, to: &str, port: u16) -> Result<()> {
        let cookie = send(sandbox, to, port)?;
        let seen = self.outside.wait_for_cookie(cookie);
        seen.map(drop)
            .with_context(|| format!("what {} sent to {to} did not arrive", sandbox.id))
    }

    /// Sends one datagram from a sandbox, and says whether it has left the cluster.
    pub(crate) fn leaves(&self, sandbox: &Sandbox, to: &str, port: u16) -> Result<bool> {
        let cookie = send(sandbox, to, port)?;
        // A first packet waits for the answer to a question after its neighbour, and the node's own must not overtake it.
        thread::sleep(Duration::from_millis(50));
        self.bench.flush(&self.outside)?;
        Ok(self.outside.has_received(cookie))
    }

    /// Waits until what a sandbox sends leaves the cluster: its neighbour may have been asked for while nobody knew it, and
    /// is asked for again after a second.
    pub(crate) fn comes_to_leave(&self, sandbox: &Sandbox, to: &str, port: u16) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.leaves(sandbox, to, port)? {
            ensure!(
                Instant::now() < deadline,
                "nothing that {} sends to {to} arrives",
                sandbox.id
            );
        }
        Ok(())
    }

    /// The configuration of our plugin in the network, with another version of the protocol.
    pub(crate) fn plugin(&self, version: &str) -> Result<Value> {
        let plugins = self.runtime.plugins()?;
        let mut plugin = plugins.last().context("no plugins")?.clone();
        ensure!(
            plugin["type"] == "sluice-cni",
            "it is not the last plugin: {plugin}"
        );
        plugin["cniVersion"] = version.into();
        Ok(plugin)
    }

    /// The agent's entry of a pod.
    pub(crate) fn endpoint(&self, name: &str) -> Result<Value> {
        let output = self.agent.command(&["list", "endpoints", "-o", "json"])?;
        let listed: Value = serde_json::from_slice(&output.stdout)?;
        let entries = listed.as_array().context("no list of endpoints")?;
        let entry = entries.iter().find(|entry| entry["pod"]["name"] == name);
        Ok(entry.cloned().unwrap_or_default())
    }
}

fn send(sandbox: &Sandbox, to: &str, port: u16) -> Result<Cookie> {
    let to: IpAddr = to.parse()?;
    let any: IpAddr = if to.is_ipv4() {
        [0; 4].into()
    } else {
        [0_u16; 8].into()
    };
    let cookie = Cookie::unique();
    sandbox.netns.run(|| -> Result<()> {
        let socket = UdpSocket::bind((any, 0))?;
        socket.send_to(&cookie.times(2), (to, port))?;
        Ok(())
    })??;
    Ok(cookie)
}

/// A pod as the cluster has it before it is started.
pub(crate) fn manifest(name: &str, uid: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: app, uid: {uid}, labels: {{app: {name}}}}}
spec: {{nodeName: {NODE}, containers: [{{name: main, image: none}}]}}
status: {{phase: Pending}}
"
    )
}

/// Asserts that a plugin refused, by number and words.
#[track_caller]
pub(crate) fn refused<T: std::fmt::Debug>(outcome: Result<T, Refused>, code: u64, words: &str) -> Result<()> {
    match outcome {
        Err(refused) if refused.code == code && refused.message.contains(words) => Ok(()),
        other => bail!("expected a refusal {code} that says {words:?}, got {other:?}"),
    }
}

pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}
