//! The agent: one loop that looks, decides and applies, again and again.
//!
//! Level-triggered: whatever happens (a file is written, a device appears, a name resolves to another address, somebody
//! asks) only says "look again". A pass reads everything there is and brings the kernel to it.

mod admission;
mod announcements;
mod capturing;
mod describe;
pub mod destinations;
mod enroll;
mod enrolments;
mod explain;
mod find;
mod known_proxies;
pub(crate) mod lock;
mod pass;
mod probe;
pub mod published;
mod snapshot;
pub mod status;
mod telling;
mod translate;
pub mod verdicts;
mod waiting;

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use clap::Args;
use ipnet::IpNet;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tracing::info;

use self::{admission::Answer, pass::Agent, verdicts::Verdicts, waiting::Waiting};
use crate::{
    api::server::{self, Command},
    cni,
    health::{self, Heart, Probes},
    journal::{self, Journal},
    kubernetes::taint,
    metrics,
    names::NameServer,
    node, page,
    project::CaptureSettings,
    source,
};

/// What the agent is told at its start.
#[derive(Clone, Debug, Args)]
pub struct Settings {
    /// Directory of YAML manifests that describe the cluster. Without it there is no cluster: nothing is enforced, and what
    /// is captured is what `sluice enroll` names.
    #[arg(long, env = "SLUICE_STATE", value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// The cluster's API server describes it: found by the file that KUBECONFIG names, or else as a pod of the cluster.
    #[arg(long, env = "SLUICE_KUBERNETES", conflicts_with = "state")]
    pub kubernetes: bool,
    /// The API server of this file's current context; implies --kubernetes.
    #[arg(
        long,
        env = "SLUICE_KUBECONFIG",
        value_name = "FILE",
        conflicts_with = "state"
    )]
    pub kubeconfig: Option<PathBuf>,
    /// Name of this node, as the cluster or the manifests have it.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node: String,
    /// Where programs, maps and links are pinned; mounted if it is not on a BPF file system.
    #[arg(
        long,
        env = "SLUICE_BPFFS",
        default_value = "/sys/fs/bpf/sluice",
        value_name = "DIR"
    )]
    pub bpffs: PathBuf,
    /// The cgroup (v2) below which calls are refused early, and pods are found. Unless it is given: the root, if the agent runs in the network
    /// namespace of process 1, none otherwise.
    #[arg(long, env = "SLUICE_CGROUP_ROOT", value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// The node's processes, by which pods are found that do not say where they are: its /proc, mounted somewhere if the
    /// agent is in a PID namespace of its own.
    #[arg(long, env = "SLUICE_PROC_ROOT", default_value = "/proc", value_name = "DIR")]
    pub proc_root: PathBuf,
    /// A device that leaves the node though it looks like a pod's (a veth); several with commas between.
    #[arg(
        long = "uplink",
        env = "SLUICE_UPLINK",
        value_delimiter = ',',
        value_name = "DEVICE"
    )]
    pub uplinks: Vec<String>,
    /// A range that is inside the cluster though no object says so; several with commas between. Needed where pods do not
    /// get their addresses from their Node's podCIDRs (Calico's IPAM, the VPC networks of clouds) and where the server has
    /// no ServiceCIDRs.
    #[arg(
        long = "internal-cidr",
        env = "SLUICE_INTERNAL_CIDR",
        value_delimiter = ',',
        value_name = "CIDR"
    )]
    pub internal: Vec<IpNet>,
    /// The DNS server to resolve ServiceEntries' names with, instead of those in /etc/resolv.conf.
    #[arg(long, env = "SLUICE_RESOLVER", value_name = "IP[:PORT]")]
    pub resolver: Option<NameServer>,
    /// Where to answer probes: /startupz, /livez and /readyz. Without it nobody can ask over HTTP.
    #[arg(long, env = "SLUICE_HEALTH_ADDRESS", value_name = "IP:PORT")]
    pub health_address: Option<SocketAddr>,
    /// Serve metrics for Prometheus at this address, under /metrics.
    #[arg(long, env = "SLUICE_METRICS_ADDRESS", value_name = "IP:PORT")]
    pub metrics_address: Option<SocketAddr>,
    /// Announce captured pods to Istio's control plane, by the annotation ambient.istio.io/redirection; only with --ambient,
    /// and only from a cluster's API server.
    #[arg(
        long,
        env = "SLUICE_ISTIO_ANNOTATION",
        default_value_t = true,
        action = clap::ArgAction::Set,
        value_name = "BOOL"
    )]
    pub istio_annotation: bool,
    /// Serve a page for people at this address of the loopback device.
    #[arg(long, env = "SLUICE_ADMIN_ADDRESS", value_name = "IP:PORT")]
    pub admin_address: Option<SocketAddr>,
    /// Where verdicts are written down.
    #[command(flatten)]
    pub journal: journal::Settings,
    /// Take the taint sluice.dev/not-ready off this node when the agent is ready, for nodes that come with it to keep pods off
    /// until then.
    #[arg(long, env = "SLUICE_REMOVE_TAINT")]
    pub remove_taint: bool,
    /// Whose connections go to the node proxy.
    #[command(flatten)]
    pub capture: CaptureSettings,
    /// The CNI plugin.
    #[command(flatten)]
    pub cni: cni::Settings,
}

/// The cgroup to hook calls at, if none is named: only a whole node's root, never the root around a node that is but a
/// network namespace.
fn default_cgroup_root(proc: &Path) -> Option<PathBuf> {
    let own = fs::metadata("/proc/self/ns/net").ok()?;
    let first = fs::metadata(proc.join("1/ns/net")).ok()?;
    let same = {
        use std::os::unix::fs::MetadataExt as _;
        (own.dev(), own.ino()) == (first.dev(), first.ino())
    };
    same.then(node::cgroup_mount).flatten()
}

/// Runs until a signal ends it. What is in the kernel stays there.
pub async fn run(mut settings: Settings, run_dir: PathBuf) -> anyhow::Result<()> {
    let _lock = lock::acquire(&run_dir, &settings.node)?;
    if settings.cgroup_root.is_none() {
        settings.cgroup_root = default_cgroup_root(&settings.proc_root);
    }
    if settings.capture.kubelet_cgroup.is_none() {
        settings.capture.kubelet_cgroup = node::kubelet_cgroup(&settings.proc_root);
    }
    let listener = server::bind(&run_dir)?;
    let (heart, probes) = health::heart();
    if settings.remove_taint {
        let client = source::kubernetes::client(settings.kubeconfig.as_deref()).await;
        let client = client.context("--remove-taint")?;
        tokio::spawn(taint::run(client, settings.node.clone(), probes.clone()));
    }
    if let Some(address) = settings.health_address {
        tokio::spawn(probes.serve(Probes::bind(address).await?));
    }
    let metrics = match settings.metrics_address {
        Some(address) => Some(metrics::Server::bind(address).await?),
        None => None,
    };
    let page = match settings.admin_address {
        Some(address) => Some(page::Server::bind(address).await?),
        None => None,
    };
    let verdicts = Arc::new(Verdicts::default());
    if let Some(journal) = Journal::open(&settings.journal)? {
        journal.keep(&verdicts);
    }
    let (commands, asked) = mpsc::channel(16);
    let agent = Agent::start(settings, &run_dir, commands.clone(), Arc::clone(&verdicts)).await?;
    if let Some(metrics) = metrics {
        let occupancy = agent.dataplane.occupancy()?;
        tokio::spawn(metrics.serve(commands.clone(), agent.delays.clone(), occupancy));
    }
    if let Some(page) = page {
        tokio::spawn(page.serve(commands.clone(), Arc::clone(&verdicts)));
    }
    tokio::spawn(server::serve(listener, commands, verdicts));

    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    tokio::select! {
        () = serve(agent, asked, heart) => {}
        _ = terminate.recv() => info!("SIGTERM: ending, the rules stay in the kernel"),
        _ = interrupt.recv() => info!("SIGINT: ending, the rules stay in the kernel"),
    }
    Ok(())
}

/// Passes and answers, in turn.
async fn serve(mut agent: Agent, mut asked: mpsc::Receiver<Command>, heart: Heart) {
    let mut waiting = Waiting::default();
    agent.pass().await;
    loop {
        heart.beat(&agent.status);
        waiting.answer(&agent);
        agent.settle();
        tokio::select! {
            () = agent.changed() => agent.pass().await,
            command = asked.recv() => {
                let Some(command) = command else { return };
                let mut look = answer(&mut agent, command, &mut waiting).await;
                // One pass serves all who have asked by now.
                while let Ok(command) = asked.try_recv() {
                    look |= answer(&mut agent, command, &mut waiting).await;
                }
                if look {
                    agent.pass().await;
                }
            }
            () = waiting.elapsed() => agent.pass().await,
        }
    }
}

/// Answers, or has somebody wait. Whether everything has to be looked at for that.
async fn answer(agent: &mut Agent, command: Command, waiting: &mut Waiting) -> bool {
    match command {
        Command::Status { wait, answer } => {
            waiting.for_readiness(wait.unwrap_or_default(), answer);
            return true;
        }
        Command::Snapshot { answer } => {
            let _ = answer.send(agent.snapshot());
        }
        Command::Overview { answer } => {
            let _ = answer.send(agent.overview());
        }
        Command::Objects { answer } => {
            let _ = answer.send(agent.objects());
        }
        Command::List { what, answer } => {
            // Who asked may have hung up.
            let _ = answer.send(agent.list(what));
        }
        Command::Explain { question, answer } => {
            let _ = answer.send(agent.explain(&question).map_err(|error| format!("{error:#}")));
        }
        Command::Enroll { enrolled, answer } => {
            let done = agent.enroll(enrolled).await;
            let _ = answer.send(done.map_err(|error| format!("{error:#}")));
        }
        Command::Unenroll { netns, answer } => {
            let done = agent.unenroll(&netns).await;
            let _ = answer.send(done.map_err(|error| format!("{error:#}")));
        }
        Command::Cni { request, answer } => match agent.cni(request).await {
            Answer::Later(attachment, wait_ms) => {
                waiting.for_admission(attachment, Duration::from_millis(wait_ms), answer);
                return true;
            }
            Answer::Now(done) => {
                let _ = answer.send(done.map_err(|refusal| refusal.to_string()));
            }
        },
    }
    false
}
