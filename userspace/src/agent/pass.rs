//! One pass: look at everything, decide, bring the kernel to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ebpf::rules::Enforcement;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tracing::{debug, info, warn};

use super::{
    Settings, announcements::Announcements, capturing::Capturing, enrolments::Enrolments,
    published::Published, status::Status, telling::Teller, translate::Who, verdicts::Verdicts,
};
use crate::{
    api::{self, server::Command},
    cni::Installation,
    dataplane::{self, Dataplane},
    enrolled::Mode,
    facts::{Facts, NetnsCookie},
    metrics::Delays,
    names::{Names, Resolver},
    node::{self, Finder, Node, Role, View},
    problem::{Problem, Severity},
    project::{CaptureSettings, Input, Projection, Proxy, project, wanted_names},
    source::{Kubernetes, Source, Stores, kubernetes},
};

/// Nobody says a word when a program is taken off a device or another is put before it; so it is looked at from time to
/// time.
const LOOK_ANYWAY: Duration = Duration::from_secs(15);

/// Everything that the loop owns.
pub(super) struct Agent {
    pub(super) settings: Settings,
    pub(super) source: Source,
    resolver: Resolver,
    pub(super) node: Node,
    pub(super) finder: Finder,
    pub(super) dataplane: Dataplane,
    pub(super) capturing: Capturing,
    pub(super) enrolments: Enrolments,
    pub(super) announcements: Announcements,
    pub(super) installation: Option<Installation>,
    /// What the operator says of capture, completed by what enrolments say.
    pub(super) capture: CaptureSettings,
    pub(super) proxies: Vec<Proxy>,
    pub(super) progress: BTreeMap<NetnsCookie, String>,
    allowed_wanted: watch::Receiver<usize>,
    pub(super) who: watch::Sender<Arc<Who>>,
    pub(super) published: watch::Sender<Arc<Published>>,
    /// Those who tell the cluster; they end with the agent.
    _telling: Option<JoinSet<()>>,
    pub(super) stores: Stores,
    pub(super) facts: Facts,
    pub(super) names: Arc<Names>,
    pub(super) projection: Projection,
    /// The kernel has the rules of the last look.
    pub(super) loaded: bool,
    pub(super) status: Status,
    pub(super) delays: Delays,
    /// When the source last had everything.
    pub(super) confirmed: Option<Instant>,
    /// It has been said what is taken for the inside of the cluster.
    pub(super) said_internal: bool,
}

impl Agent {
    /// Opens the source, the node and the kernel. Rules that are in the kernel already stay as they are.
    pub(super) async fn start(
        settings: Settings,
        run_dir: &Path,
        commands: mpsc::Sender<Command>,
        verdicts: Arc<Verdicts>,
    ) -> anyhow::Result<Self> {
        let node = Node::open()?;
        let options = dataplane::Options {
            bpffs: settings.bpffs.clone(),
            cgroup_root: settings.cgroup_root.clone(),
        };
        let mut dataplane = Dataplane::open(&options)?;
        learn_cgroup_level(&mut dataplane);
        let enforced = dataplane.enforcement() != Enforcement::Off;
        let source = source(&settings, enforced).await?;
        anyhow::ensure!(
            !(source.is_nothing() && enforced),
            "the rules in the kernel enforce policies, and without --state or --kubernetes there are none: say where they \
             come from, or take them away with `sluice detach`",
        );
        let capturing = Capturing::start(&settings, run_dir, &dataplane)?;
        let enrolments = Enrolments::open(run_dir)?;
        let announcements = Announcements::open(run_dir)?;
        let installation = Installation::start(&settings.cni, &api::socket(run_dir))?;
        let resolver = Resolver::start(settings.resolver)?;
        info!(
            node = settings.node,
            state = ?settings.state,
            kubernetes = matches!(source, Source::Kubernetes(_)),
            generation = dataplane.generation().0,
            cgroup_root = ?settings.cgroup_root,
            "started",
        );
        let (who, _) = watch::channel(Arc::default());
        let (published, told) = watch::channel(Arc::default());
        let options = crate::kubernetes::Options {
            annotate: settings.istio_annotation,
        };
        let telling = source
            .client()
            .map(|client| crate::kubernetes::start(client, options, run_dir, &told, &verdicts));
        let allowed_wanted = verdicts.allowed_wanted();
        tokio::spawn(Teller::new(dataplane.events()?, who.subscribe(), commands, verdicts).run());
        Ok(Self {
            source,
            resolver,
            node,
            finder: Finder::new(settings.proc_root.clone(), settings.cgroup_root.clone()),
            dataplane,
            capturing,
            capture: settings.capture.clone(),
            enrolments,
            announcements,
            installation,
            proxies: Vec::new(),
            progress: BTreeMap::new(),
            allowed_wanted,
            who,
            published,
            _telling: telling,
            stores: Stores::default(),
            facts: Facts::default(),
            names: Arc::default(),
            projection: Projection::default(),
            loaded: false,
            status: Status {
                node: settings.node.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                ..Status::default()
            },
            delays: Delays::default(),
            confirmed: None,
            said_internal: false,
            settings,
        })
    }

    /// Waits until there is reason for another pass.
    pub(super) async fn changed(&mut self) {
        tokio::select! {
            () = self.source.changed() => debug!("the source changed"),
            () = self.node.changed() => debug!("the node changed"),
            () = self.finder.changed() => debug!("there is more to be seen of a pod that was not found"),
            () = self.resolver.changed() => debug!("a name resolves to other addresses"),
            () = self.capturing.changed() => debug!("a proxy came, went or answered"),
            () = rewritten(self.installation.as_mut()) => debug!("a CNI configuration was written"),
            _ = self.allowed_wanted.changed() => debug!("the number of observers changed"),
            () = tokio::time::sleep(LOOK_ANYWAY) => debug!("some time has passed"),
        }
    }

    /// Looks at everything and brings the kernel to it.
    pub(super) async fn pass(&mut self) {
        let seen = Instant::now();
        let mut problems = Vec::new();
        let view = self.look_at_node(&mut problems).await;
        // New devices are covered before anything is known about them. Before the first rules the programs let everything
        // through, as if they were not there.
        self.attach(view.as_ref(), seen, &mut problems);
        let loaded = self.source.load();
        let flawed = loaded
            .problems
            .iter()
            .any(|problem| problem.severity == Severity::Error);
        if !self.source.is_nothing() && loaded.stores.is_complete() && !flawed {
            self.confirmed = Some(seen);
        }
        problems.extend(loaded.problems);
        self.stores = loaded.stores;
        self.keep_plugin(&mut problems);
        self.complete_announced(&mut problems);
        self.resolver.want(wanted_names(&self.stores));
        self.capture.node_proxy_cgroup = self.node_proxy_cgroup();
        self.proxies = self.capturing.connected();
        if let Some(view) = &view {
            self.facts = self.find_pods(view).await;
        }
        self.names = self.resolver.names();
        self.projection = self.with_input(project);
        problems.extend(self.projection.report.problems.iter().cloned());
        self.say_internal();
        let applied = self.stores.is_complete()
            && self.projection.report.knows_inside()
            && view
                .as_ref()
                .is_some_and(|view| self.load(view, seen, &mut problems));
        self.loaded = applied;
        self.observe(&mut problems);
        self.tell_who(view.as_ref());
        self.update_status(view.as_ref(), applied, problems);
        self.publish(applied);
    }

    /// Does what can wait until the rules are in the kernel.
    pub(super) fn settle(&mut self) {
        if let Err(error) = tokio::task::block_in_place(|| self.dataplane.settle()) {
            warn!("{error}; the next change of rules will take longer");
        }
    }

    /// Calls `with` with all that rules are made of, as of the last look.
    pub(super) fn with_input<T>(&self, with: impl FnOnce(&Input<'_>) -> T) -> T {
        with(&Input {
            node: &self.settings.node,
            stores: &self.stores,
            facts: &self.facts,
            names: &self.names,
            internal: &self.settings.internal,
            capture: &self.capture,
            enrolled: self.enrolments.all(),
            proxies: &self.proxies,
        })
    }

    /// The cgroup of the node's proxy: what the operator says, or else what an enrolment says.
    fn node_proxy_cgroup(&self) -> Option<PathBuf> {
        let enrolled = self.enrolments.all().iter();
        let of_node = enrolled.filter(|enrolled| enrolled.mode == Mode::Node);
        let mut named = of_node.flat_map(|enrolled| &enrolled.proxy_cgroups);
        let said = self.settings.capture.node_proxy_cgroup.as_ref();
        said.or_else(|| named.next()).cloned()
    }

    /// The name of this node.
    pub(super) fn node_name(&self) -> &str {
        &self.settings.node
    }

    async fn look_at_node(&mut self, problems: &mut Vec<Problem>) -> Option<View> {
        match self.node.look(&self.settings.uplinks).await {
            Ok(view) => Some(view),
            Err(error) => {
                problems.push(Problem::new(Severity::Error, error.to_string()));
                None
            }
        }
    }

    fn attach(&mut self, view: Option<&View>, seen: Instant, problems: &mut Vec<Problem>) {
        let Some(view) = view else { return };
        let newcomers = self.newcomers(view);
        let devices: Vec<dataplane::Device> = view.links.iter().map(device).collect();
        problems.extend(self.dataplane.sync_devices(&devices).iter().map(severe));
        problems.extend(self.dataplane.mend_cgroup().err().as_ref().map(severe));
        for _ in 0..newcomers {
            self.delays.enforced(seen.elapsed());
        }
    }

    /// How many pods' devices the last look did not see. Those that were there before the agent are none.
    fn newcomers(&self, view: &View) -> usize {
        if self.status.devices.is_empty() {
            return 0;
        }
        let known: BTreeSet<u32> = self.status.devices.iter().map(|device| device.index).collect();
        let pods = view.links.iter().filter(|link| link.role == Role::Pod);
        pods.filter(|link| !known.contains(&link.index.0)).count()
    }

    /// Loads the rules, and has captured pods enrolled around that. `false` if the kernel still has others.
    fn load(&mut self, view: &View, seen: Instant, problems: &mut Vec<Problem>) -> bool {
        let succeeds = self.dataplane.has_predecessor();
        if succeeds {
            // Nobody judges by our rules before they are there.
            if !self.apply(seen, problems) {
                return false;
            }
            problems.extend(self.dataplane.inherit().iter().map(severe));
        }
        let pods = view.links.iter().filter(|link| link.role == Role::Pod);
        let devices = pods.map(|link| link.name.as_str());
        self.capturing
            .prepare(&self.projection.captured, devices, problems);
        if !self.apply(seen, problems) {
            return false;
        }
        if succeeds {
            let devices: Vec<_> = view.links.iter().map(device).collect();
            problems.extend(self.dataplane.succeed(&devices).iter().map(severe));
        }
        let captured = &self.projection.captured;
        self.capturing.finish(captured, &self.dataplane, problems);
        self.progress = self.capturing.progress(captured);
        true
    }

    /// Loads the rules. `false` if the kernel still has others.
    fn apply(&mut self, seen: Instant, problems: &mut Vec<Problem>) -> bool {
        let started = Instant::now();
        match self.dataplane.apply(&self.projection.desired) {
            Ok(None) => true,
            Ok(Some(applied)) => {
                self.delays.implemented(seen.elapsed());
                self.status.loaded_at = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .ok()
                    .map(|age| age.as_secs());
                info!(
                    generation = applied.generation.0,
                    changes = applied.changes,
                    microseconds = started.elapsed().as_micros(),
                    "the kernel has new rules",
                );
                true
            }
            Err(error) => {
                let message = format!("{error}; generation {} stays", self.dataplane.generation().0);
                problems.push(Problem::new(Severity::Error, message));
                false
            }
        }
    }

    fn observe(&mut self, problems: &mut Vec<Problem>) {
        let wanted = *self.allowed_wanted.borrow_and_update() > 0;
        if let Err(error) = self.dataplane.set_observe(wanted) {
            problems.push(Problem::new(Severity::Warning, error.to_string()));
        }
    }
}

/// Learns how deep the cgroups that the agent sees lie below the kernel's root.
fn learn_cgroup_level(dataplane: &mut Dataplane) {
    if node::sees_all_cgroups() {
        return node::set_root_level(Some(0));
    }
    // Without a mount nothing is told by its cgroup.
    let Some(root) = node::cgroup_root() else { return };
    let level = dataplane.cgroup_level(root).unwrap_or_else(|error| {
        warn!("{error}; nothing can be told by its cgroup");
        None
    });
    debug!(root, level, "the root of cgroups");
    node::set_root_level(level);
}

/// Where the objects come from. `enforced`: rules that enforce policies are in the kernel already.
async fn source(settings: &Settings, enforced: bool) -> anyhow::Result<Source> {
    if let Some(path) = &settings.state {
        return Ok(Source::directory(path)?);
    }
    if !settings.kubernetes && settings.kubeconfig.is_none() {
        return Ok(Source::Nothing);
    }
    let client = kubernetes::client(settings.kubeconfig.as_deref()).await?;
    Ok(Source::Kubernetes(Kubernetes::start(
        client,
        &settings.node,
        enforced,
    )))
}

/// Waits until somebody writes a CNI configuration.
async fn rewritten(installation: Option<&mut Installation>) {
    match installation {
        Some(installation) => installation.changed().await,
        None => std::future::pending().await,
    }
}

fn severe(error: &dataplane::Error) -> Problem {
    Problem::new(Severity::Error, error.to_string())
}

fn device(link: &node::Link) -> dataplane::Device {
    dataplane::Device {
        index: link.index,
        name: link.name.clone(),
        role: match link.role {
            Role::Pod => dataplane::Role::Pod,
            Role::Uplink => dataplane::Role::Uplink,
            Role::Passage => dataplane::Role::Passage,
        },
        ethernet: link.ethernet,
    }
}
