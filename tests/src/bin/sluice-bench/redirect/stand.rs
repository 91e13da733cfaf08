//! A contender as it stands: its bench, its proxy, its redirect.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Result, ensure};
use ebpf::rules::ABI;
use sluice_tests::{
    Agent, Bench, Pod,
    bench::{
        addresses::{NODE_V4, REGISTERED},
        ip,
    },
    cgroup::Cgroup,
    command,
    manifest::NODE,
    netns::on_thread,
};

use crate::redirect::{
    Cpus,
    contender::{Contender, Iptables, Place, Way},
    load::{self, Load, Sample},
    pin,
    sink::{PORT, Sink},
};

/// Port that the application asks for. Nobody listens there.
const ASKED_PORT: u16 = 80;

/// Fields are dropped in this order.
#[derive(Debug)]
pub(crate) struct Stand {
    target: SocketAddr,
    cpus: Cpus,
    agent: Option<Agent>,
    sink: Sink,
    pod: Pod,
    _proxy: Cgroup,
    _bench: Bench,
}

impl Stand {
    /// Builds everything and starts the proxy.
    pub(crate) fn build(contender: &Contender, cpus: Cpus) -> Result<Self> {
        let Contender { name: _, place, way } = *contender;
        let bench = Bench::create()?;
        let pod = bench.pod("app", "client")?;
        let proxy = bench.cgroup().child("proxy")?;
        let netns = match place {
            Place::Pod => pod.netns(),
            Place::Node => bench.node(),
        };
        let sink = on_thread(|| {
            proxy.join()?;
            netns.enter()?;
            Sink::start(cpus.proxy, place == Place::Node)
        })?;
        let own = match place {
            Place::Pod => pod.v4(),
            Place::Node => ip(NODE_V4),
        };
        let asked = SocketAddr::new(ip(REGISTERED[0]), ASKED_PORT);
        let (target, agent) = match way {
            Way::Uncaptured => (SocketAddr::new(own, PORT), None),
            Way::Enrolled => (asked, Some(enroll(&bench, &pod, &proxy, place)?)),
            Way::Sidecar => (asked, Some(inject(&bench, &pod, &proxy)?)),
            Way::Redirect(iptables) => {
                redirect(&bench, &pod, place, iptables)?;
                (asked, None)
            }
            Way::Tproxy(iptables) => {
                tproxy(&bench, &pod, iptables)?;
                (asked, None)
            }
        };
        Ok(Self {
            target,
            cpus,
            agent,
            sink,
            pod,
            _proxy: proxy,
            _bench: bench,
        })
    }

    /// Where the agent's programs are pinned, if there is one.
    pub(crate) fn programs(&self) -> Option<PathBuf> {
        let agent = self.agent.as_ref()?;
        Some(agent.bpffs().join(format!("v{ABI}/programs")))
    }

    /// Applies the load from the pod, and checks that every connection of it was the proxy's.
    pub(crate) fn measure(&self, load: &Load) -> Result<Sample> {
        let before = self.sink.accepted();
        let sample = self.pod.run(|| {
            pin(self.cpus.load)?;
            load::apply(load, self.target)
        })??;
        let (accepted, made) = (self.sink.accepted() - before, load.connections());
        ensure!(
            accepted == made,
            "of {made} connections {accepted} came to the proxy: this is no measurement of the way there"
        );
        Ok(sample)
    }
}

/// An agent, and the pod's network namespace enrolled with it.
fn enroll(bench: &Bench, pod: &Pod, proxy: &Cgroup, place: Place) -> Result<Agent> {
    let (netns, proxy) = (
        pod.netns().path().display().to_string(),
        proxy.path().display().to_string(),
    );
    let port = PORT.to_string();
    let (mode, arguments): (_, &[&str]) = match place {
        Place::Pod => ("in-pod", &[]),
        Place::Node => ("node", &["--node-proxy", &port, "--node-proxy-cgroup", &proxy]),
    };
    let mut agent = Agent::prepare(bench)?.quiet().with_arguments(arguments);
    agent.restart()?;
    let output = agent.command(&[
        "enroll",
        "--netns",
        &netns,
        "--mode",
        mode,
        "--proxy-cgroup",
        &proxy,
    ])?;
    ensure!(
        output.status.success(),
        "`sluice enroll` failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(agent)
}

/// An agent, and a manifest that says that the pod has a sidecar.
fn inject(bench: &Bench, pod: &Pod, proxy: &Cgroup) -> Result<Agent> {
    let (name, namespace, addr) = (pod.name(), pod.namespace(), pod.v4());
    let (netns, proxy) = (pod.netns().path().display(), proxy.path().display());
    bench.state().write(
        "pod",
        &format!(
            r#"apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}
  uid: {name}
  annotations:
    sidecar.istio.io/status: "{{}}"
    sluice.dev/netns: "{netns}"
    sluice.dev/proxy-cgroup: "{proxy}"
spec:
  nodeName: {NODE}
  containers:
  - {{name: main, image: none}}
  - {{name: istio-proxy, image: none, args: [proxy, sidecar]}}
status: {{phase: Running, podIP: "{addr}", podIPs: [{{ip: "{addr}"}}]}}
"#
        ),
    )?;
    let mut agent = Agent::prepare(bench)?.quiet().with_arguments(&["--sidecar"]);
    agent.restart()?;
    Ok(agent)
}

fn redirect(bench: &Bench, pod: &Pod, place: Place, iptables: Iptables) -> Result<()> {
    match place {
        // The one rule of Istio's chain that outbound connections meet.
        Place::Pod => pod.netns().run(|| {
            restore(
                iptables,
                &format!(
                    "*nat
-A OUTPUT ! -d 127.0.0.1/32 -p tcp -m mark ! --mark 0x539/0xfff -j REDIRECT --to-ports {PORT}
COMMIT
"
                ),
            )
        })?,
        Place::Node => bench.node().run(|| {
            let device = pod.device();
            restore(
                iptables,
                &format!(
                    "*nat
-A PREROUTING -i {device} -p tcp -j REDIRECT --to-ports {PORT}
COMMIT
"
                ),
            )
        })?,
    }
}

/// As in the kernel's Documentation/networking/tproxy.rst.
fn tproxy(bench: &Bench, pod: &Pod, iptables: Iptables) -> Result<()> {
    bench.node().run(|| {
        let device = pod.device();
        restore(
            iptables,
            &format!(
                "*mangle
-A PREROUTING -i {device} -p tcp -j TPROXY --on-port {PORT} --tproxy-mark 0x1/0x1
COMMIT
"
            ),
        )?;
        command::ip("rule add fwmark 0x1/0x1 lookup 100\nroute add local 0.0.0.0/0 dev lo table 100\n")
    })?
}

fn restore(iptables: Iptables, rules: &str) -> Result<()> {
    command::run(iptables.restore(), &[], rules).map(drop)
}
