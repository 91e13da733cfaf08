//! What the capture scenes are played on: another node, with pods of every mode. Nothing on it translates addresses.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{
    Agent, Bench, Events, Pod,
    bench::{addresses::REGISTERED, ip},
    cgroup::Cgroup,
    command,
    example::{self, Example},
    netns::Netns,
    server::{self, Place, Server},
};
use tempfile::TempDir;

use super::{access_log::AccessLog, web::Web};
use crate::stage::{self, Ingredients, REGISTERED_HOST};

/// Where a proxy takes the calls of pods.
pub(super) const OUTBOUND: u16 = 15001;
/// Where a proxy inside a pod takes calls to it.
pub(super) const INBOUND: u16 = 15006;
/// Where a resolver inside a pod takes its questions.
pub(super) const DNS: u16 = 15053;
/// Where pods serve.
pub(super) const SERVED: u16 = 8080;
/// What the sidecar's pod excludes, and what is beside it.
pub(super) const EXCLUDED: &str = "10.10.0.4";
pub(super) const INCLUDED: &str = "10.10.0.5";
/// What the resolver inside a pod says of the registered host: addresses as Istio allocates them, which no network has.
pub(super) const ALLOCATED: [&str; 2] = ["240.240.0.1", "2001:2::1"];

/// The namespace whose pods are the node proxy's.
const CAPTURED_NAMESPACE: &str = "apiVersion: v1
kind: Namespace
metadata:
  name: edge
  labels: {kubernetes.io/metadata.name: edge, sluice.dev/capture: node}
---
apiVersion: v1
kind: Namespace
metadata:
  name: app
  labels: {kubernetes.io/metadata.name: app}
---
apiVersion: v1
kind: Namespace
metadata:
  name: istio-system
  labels: {kubernetes.io/metadata.name: istio-system}
";

/// Dropped in this order: agent first, network last.
#[derive(Debug)]
pub(super) struct Stage {
    /// Verdicts, those that let something through included.
    pub(super) events: Events,
    pub(super) agent: Agent,
    _gateway_server: Server,
    _webs: Vec<Web>,
    /// `edge/client`: its proxy is the node's.
    pub(super) client: Pod,
    /// `app/ambient`: its proxy is inside, told by `sluice enroll`.
    pub(super) ambient: Pod,
    /// `istio-workload/hammer`: its proxy is a container of it.
    pub(super) hammer: Pod,
    /// `app/neighbour`: nobody's.
    pub(super) neighbour: Pod,
    /// The way out of the cluster.
    pub(super) gateway: Pod,
    pub(super) node_cgroup: Cgroup,
    pub(super) ambient_cgroup: Cgroup,
    pub(super) sidecar_cgroup: Cgroup,
    pub(super) bench: Bench,
    pub(super) folder: TempDir,
    envoy: PathBuf,
}

impl Stage {
    /// Everything but the proxies.
    pub(super) fn build(ingredients: &Ingredients) -> Result<Self> {
        let folder =
            TempDir::with_prefix("sluice-demo-").context("making a folder for configurations and logs")?;
        let bench = Bench::create()?;
        let example = Example::open(&ingredients.sidecar, "")?;
        let mut pods = example.pods(&bench)?;
        let policy = example.declare(&bench, &pods)?;
        bench.state().write(example::POLICY, &policy)?;
        let hammer = example::take(&mut pods, "hammer")?;
        let (_, sidecar_cgroup) = hammer.proxy.context("the example's pod has no sidecar")?;
        let hammer = hammer.pod;
        let client = bench.pod("edge", "client")?;
        let ambient = bench.pod("app", "ambient")?;
        let neighbour = bench.pod("app", "neighbour")?;
        let gateway = bench.pod("istio-system", "istio-egressgateway")?;
        let node_cgroup = bench.cgroup().child("node-proxy")?;
        let ambient_cgroup = bench.cgroup().child("ambient-proxy")?;

        for pod in [&client, &ambient, &neighbour, &gateway] {
            bench.state().declare(pod)?;
        }
        bench.state().write("captured-namespaces", CAPTURED_NAMESPACE)?;
        bench
            .state()
            .register(REGISTERED_HOST, &REGISTERED, &[(80, "HTTP")])?;
        bench.outside().run(|| {
            command::ip(&format!(
                "addr add {EXCLUDED} dev lo\naddr add {INCLUDED} dev lo\n"
            ))
        })??;

        let mut webs = vec![bench.outside().run(|| Web::start(80))??];
        for pod in [&ambient, &neighbour] {
            webs.push(pod.run(|| Web::start(SERVED))??);
        }
        let config = folder.path().join("capture-gateway.yaml");
        fs::write(&config, include_str!("config/gateway.yaml"))
            .with_context(|| format!("cannot write {}", config.display()))?;
        let mut gateway_server = Server::start(
            Place::Pod(&gateway),
            "capture-gateway",
            server::envoy(&ingredients.envoy, &config),
            folder.path(),
        )?;
        gateway_server.wait_for(80)?;

        let cgroup = node_cgroup.path().display().to_string();
        let port = OUTBOUND.to_string();
        let mut agent = Agent::prepare(&bench)?
            .with_arguments(&["--sidecar", "--node-proxy", &port, "--node-proxy-cgroup", &cgroup])
            .quiet();
        agent.restart()?;
        let events = agent.observe(true)?;
        Ok(Self {
            events,
            agent,
            _gateway_server: gateway_server,
            _webs: webs,
            client,
            ambient,
            hammer,
            neighbour,
            gateway,
            node_cgroup,
            ambient_cgroup,
            sidecar_cgroup,
            bench,
            folder,
            envoy: ingredients.envoy.clone(),
        })
    }

    /// Folders of its own.
    pub(super) fn folders(&self) -> Vec<PathBuf> {
        stage::folders(&self.agent, &self.bench, &self.folder)
    }

    /// The node's proxy, a real Envoy.
    pub(super) fn node_envoy(&self) -> Result<Proxy> {
        let [v4, v6] = self.gateway.addresses();
        let config = include_str!("config/node-proxy.yaml")
            .replace("GATEWAY_V4", &v4.to_string())
            .replace("GATEWAY_V6", &v6.to_string());
        self.envoy(
            "envoy-node",
            &config,
            self.bench.node(),
            &self.node_cgroup,
            &[OUTBOUND],
        )
    }

    /// Whether an `HAProxy` can run: it is built for processors with `cmpxchg16b`, which an emulated machine of `cargo
    /// xtask vm` does not have.
    pub(super) fn has_haproxy() -> Result<bool> {
        let version = Command::new("haproxy").arg("-v").output();
        let version = version.context("cannot run haproxy: is it installed?")?;
        Ok(version.status.signal() != Some(libc::SIGILL))
    }

    /// Another one, a real `HAProxy`.
    pub(super) fn node_haproxy(&self) -> Result<Proxy> {
        let name = "haproxy-node";
        let config = self.folder.path().join("node-proxy.haproxy");
        fs::write(&config, include_str!("config/node-proxy.haproxy"))
            .with_context(|| format!("cannot write {}", config.display()))?;
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&config);
        let place = Place::Cgroup(self.bench.node(), &self.node_cgroup);
        let mut server = Server::start(place, name, command, self.folder.path())?;
        server.wait_for(OUTBOUND)?;
        let log = AccessLog::at(server.log());
        Ok(Proxy { _server: server, log })
    }

    /// A real Envoy inside a pod.
    pub(super) fn pod_envoy(&self, name: &str, pod: &Pod, cgroup: &Cgroup) -> Result<Proxy> {
        let config = include_str!("config/pod-proxy.yaml");
        self.envoy(name, config, pod.netns(), cgroup, &[OUTBOUND, INBOUND])
    }

    fn envoy(
        &self,
        name: &str,
        config: &str,
        netns: &Netns,
        cgroup: &Cgroup,
        ports: &[u16],
    ) -> Result<Proxy> {
        let folder = self.folder.path();
        let log = folder.join(format!("{name}-access.log"));
        let path = folder.join(format!("{name}.yaml"));
        fs::write(&path, config.replace("/dev/stdout", &log.display().to_string()))
            .with_context(|| format!("cannot write {}", path.display()))?;
        let mut command = server::envoy(&self.envoy, &path);
        // The access log is buffered for so long.
        command.args(["--file-flush-interval-msec", "20"]);
        let mut server = Server::start(Place::Cgroup(netns, cgroup), name, command, folder)?;
        for port in ports {
            server.wait_for(*port)?;
        }
        Ok(Proxy {
            _server: server,
            log: AccessLog::at(&log),
        })
    }

    /// A resolver inside the enrolled pod, where ztunnel has its own.
    pub(super) fn pod_resolver(&self) -> Result<Server> {
        let hosts = [(REGISTERED_HOST, ALLOCATED)];
        let mut server = Server::start(
            Place::Cgroup(self.ambient.netns(), &self.ambient_cgroup),
            "dns-ambient",
            server::dnsmasq(["127.0.0.1", "::1"], DNS, &hosts, None),
            self.folder.path(),
        )?;
        server.wait_for(DNS)?;
        Ok(server)
    }

    /// Runs `sluice` with these arguments; an error has what it said.
    pub(super) fn sluice(&self, arguments: &[&str]) -> Result<()> {
        let output = self.agent.command(arguments)?;
        ensure!(
            output.status.success(),
            "`sluice {}` failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(())
    }

    /// An address and the port of a pod's server.
    pub(super) fn served(pod: &Pod) -> [SocketAddr; 2] {
        pod.addresses()
            .map(|address: IpAddr| SocketAddr::new(address, SERVED))
    }

    /// Addresses of the internet's server.
    pub(super) fn web(addresses: [&str; 2]) -> [SocketAddr; 2] {
        addresses.map(|address| SocketAddr::new(ip(address), 80))
    }
}

/// A proxy that runs until this is dropped.
#[derive(Debug)]
pub(super) struct Proxy {
    _server: Server,
    pub(super) log: AccessLog,
}
