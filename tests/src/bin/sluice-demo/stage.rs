//! Everything that stands on the stage: node, pods, gateway, resolver, internet, agent.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{
    Agent, Bench, Capture, Pod,
    bench::addresses::{REGISTERED, UNREGISTERED},
    command,
    echo::Echo,
    example::{self, Example},
    server::{Place, Server, dnsmasq, envoy},
};
use tempfile::TempDir;

/// The host that the example registers.
pub(crate) const REGISTERED_HOST: &str = "httpbin.org";
/// A host that nobody registers.
pub(crate) const OTHER_HOST: &str = "other.example";
/// The internet's own resolver.
pub(crate) const WORLD_DNS: [&str; 2] = ["203.0.113.53", "2001:db8:ffff::53"];
/// The Service in front of the gateway, as the example has it.
pub(crate) const GATEWAY_SERVICE: [&str; 2] = ["10.96.0.80", "fd00:10:96::80"];
/// The Service in front of the cluster's resolver.
pub(crate) const DNS_SERVICE: [&str; 2] = ["10.96.0.10", "fd00:10:96::10"];
/// Where pods answer each other.
pub(crate) const ECHO_PORT: u16 = 7;

/// What the demonstration is made of.
#[derive(Debug)]
pub(crate) struct Ingredients {
    pub(crate) envoy: PathBuf,
    pub(crate) certificates: PathBuf,
    /// The example of the egress gateway.
    pub(crate) example: PathBuf,
    /// The example of a sidecar with an excluded range.
    pub(crate) sidecar: PathBuf,
}

/// Dropped in this order: agent first, network last.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) agent: Agent,
    pub(crate) outside: Capture,
    _echo: Echo,
    servers: Vec<Server>,
    pub(crate) client: Pod,
    pub(crate) neighbour: Pod,
    pub(crate) gateway: Pod,
    _resolver: Pod,
    pub(crate) bench: Bench,
    policy: String,
    pub(crate) folder: TempDir,
}

impl Stage {
    /// Everything but the agent's process, without a policy.
    pub(crate) fn build(ingredients: &Ingredients) -> Result<Self> {
        let folder =
            TempDir::with_prefix("sluice-demo-").context("making a folder for configurations and logs")?;
        let bench = Bench::create()?;
        let example = Example::open(&ingredients.example, "")?;
        let mut pods = example.pods(&bench)?;
        let policy = example.declare(&bench, &pods)?;
        let mut take = |name| anyhow::Ok(example::take(&mut pods, name)?.pod);
        let client = take("client-a")?;
        let neighbour = take("client-b")?;
        let gateway = take("waypoint")?;
        let resolver = take("resolver")?;
        bench.node().run(|| command::nft(KUBE_PROXY))??;
        bench.outside().run(|| {
            let [v4, v6] = WORLD_DNS;
            command::ip(&format!("addr add {v4} dev lo\naddr add {v6} dev lo nodad\n"))
        })??;

        let servers = start_servers(&bench, &gateway, &resolver, ingredients, folder.path())?;
        let echo = Echo::start(neighbour.netns(), &neighbour.addresses(), &[ECHO_PORT])?;
        let outside = bench.capture_outside()?;
        let agent = Agent::prepare(&bench)?
            .with_arguments(&["--resolver", WORLD_DNS[0]])
            .quiet();
        Ok(Self {
            agent,
            outside,
            _echo: echo,
            servers,
            client,
            neighbour,
            gateway,
            _resolver: resolver,
            bench,
            policy,
            folder,
        })
    }

    /// Puts the example's policy in force, with these words of it replaced, and waits until the kernel holds it.
    pub(crate) fn set_policy(&mut self, replaced: &[(&str, &str)]) -> Result<()> {
        let mut policy = self.policy.clone();
        for (from, to) in replaced {
            ensure!(
                policy.contains(from),
                "the example's policy does not say `{from}`"
            );
            policy = policy.replace(from, to);
        }
        self.bench.state().write(example::POLICY, &policy)?;
        self.agent.settle().map(drop)
    }

    /// A pod that is made now.
    pub(crate) fn new_pod(&self) -> Result<Pod> {
        self.bench.pod("app", "late")
    }

    /// Declares it, as the cluster would have.
    pub(crate) fn declare_new_pod(&self, pod: &Pod) -> Result<()> {
        self.bench.state().declare(pod)
    }

    /// Folders of its own; a file system is mounted in one of them.
    pub(crate) fn folders(&self) -> Vec<PathBuf> {
        folders(&self.agent, &self.bench, &self.folder)
    }

    /// Logs of the programs on stage.
    pub(crate) fn logs(&self) -> impl Iterator<Item = &Path> {
        self.servers.iter().map(Server::log)
    }
}

/// What an agent, a bench and its programs have written to.
pub(crate) fn folders(agent: &Agent, bench: &Bench, folder: &TempDir) -> Vec<PathBuf> {
    let bpffs = agent.bpffs();
    [bpffs.parent(), Some(bench.state().path()), Some(folder.path())]
        .into_iter()
        .flatten()
        .map(Path::to_owned)
        .collect()
}

/// What kube-proxy does for the example's Services.
const KUBE_PROXY: &str = "
table inet kube-proxy {
  chain services {
    type nat hook prerouting priority dstnat
    ip daddr 10.96.0.80 tcp dport 80 dnat ip to 10.244.0.12:80
    ip6 daddr fd00:10:96::80 tcp dport 80 dnat ip6 to [fd00:10:244::c]:80
    ip daddr 10.96.0.10 meta l4proto { tcp, udp } th dport 53 dnat ip to 10.244.0.13:53
    ip6 daddr fd00:10:96::10 meta l4proto { tcp, udp } th dport 53 dnat ip6 to [fd00:10:244::d]:53
    ip daddr 10.96.0.10 udp dport 5353 dnat ip to 10.244.0.13:5353
    ip6 daddr fd00:10:96::10 udp dport 5353 dnat ip6 to [fd00:10:244::d]:5353
  }
}
";

fn start_servers(
    bench: &Bench,
    gateway: &Pod,
    resolver: &Pod,
    ingredients: &Ingredients,
    folder: &Path,
) -> Result<Vec<Server>> {
    let internet = Place::Netns(bench.outside());
    let certificates = &ingredients.certificates;
    let config = |name: &str, text: &str| -> Result<Command> {
        let path = folder.join(format!("envoy-{name}.yaml"));
        fs::write(
            &path,
            text.replace("CERTIFICATES", &certificates.display().to_string()),
        )
        .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(envoy(&ingredients.envoy, &path))
    };
    let web = config("internet", include_str!("config/internet.yaml"))?;
    let proxy = config("gateway", include_str!("config/gateway.yaml"))?;
    let hosts = [(REGISTERED_HOST, REGISTERED), (OTHER_HOST, UNREGISTERED)];
    let redirected = [(REGISTERED_HOST, GATEWAY_SERVICE)];
    let pod = resolver.addresses().map(|address| address.to_string());
    let pod = [pod[0].as_str(), pod[1].as_str()];
    let mut servers = Vec::new();
    // All at once: most of their time is starting.
    for (place, name, command, port) in [
        (internet, "internet", web, 443),
        (Place::Pod(gateway), "gateway", proxy, 80),
        (internet, "dns-world", dnsmasq(WORLD_DNS, 53, &hosts, None), 53),
        (
            Place::Pod(resolver),
            "dns-cluster",
            dnsmasq(pod, 53, &redirected, Some(WORLD_DNS[0])),
            53,
        ),
        (
            Place::Pod(resolver),
            "dns-cluster-world",
            dnsmasq(pod, 5353, &[], Some(WORLD_DNS[0])),
            5353,
        ),
    ] {
        servers.push((Server::start(place, name, command, folder)?, port));
    }
    servers
        .into_iter()
        .map(|(mut server, port)| server.wait_for(port).map(|()| server))
        .collect()
}

/// An address and a port.
///
/// # Panics
///
/// If the address is none.
pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip(address), port)
}

/// An address.
///
/// # Panics
///
/// If it is none.
pub(crate) fn ip(address: &str) -> IpAddr {
    sluice_tests::bench::ip(address)
}
