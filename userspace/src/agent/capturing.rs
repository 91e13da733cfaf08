//! Capture, beyond the rules: the pods' side, the cgroups of the proxies, the hand-over to ztunnel.
//!
//! In this order: what is to be inside a pod is put there; the rules are loaded; the pod is handed over; only then is it
//! enrolled. The other way round it goes back.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use tracing::info;

use super::{Settings, known_proxies::KnownProxies};
use crate::{
    dataplane::{self, Dataplane, ProxyCgroup},
    facts::NetnsCookie,
    inpod::{self, Keeper, Wanted},
    node,
    problem::{Problem, Severity},
    project::{CaptureMode, Captured, CapturedPod, Proxy},
    zds::{self, Progress},
};

/// How far the capture of a pod is: all of it.
pub(super) const ENROLLED: &str = "enrolled";

/// What captures, beside the programs.
pub(super) struct Capturing {
    keeper: Keeper,
    records: PathBuf,
    inside: BTreeMap<NetnsCookie, Wanted>,
    failed: BTreeMap<NetnsCookie, String>,
    zds: Option<zds::Server>,
    handles: BTreeMap<NetnsCookie, Arc<OwnedFd>>,
    /// Those whose questions are answered; what an earlier agent left is not known.
    proxies: Option<BTreeSet<ProxyCgroup>>,
    /// Whether the node's routing may be there, by this agent or the last.
    routing: bool,
    /// The proxies that have connected, here or with an agent before this one.
    known: KnownProxies,
    /// Cgroups of those that are connected, as they were told by; the rules of this pass know them.
    connected: BTreeSet<PathBuf>,
}

impl Capturing {
    /// Takes over what the last agent left inside pods; it stays until the first look.
    pub(super) fn start(settings: &Settings, run_dir: &Path, dataplane: &Dataplane) -> anyhow::Result<Self> {
        let records = inpod::records(run_dir);
        let keeper = Keeper::start(
            dataplane::attach_mode(),
            dataplane.links(),
            &records,
            dataplane.pod_programs()?,
        )?;
        let zds = if settings.capture.ambient {
            let socket = &settings.capture.zds_socket;
            let server = zds::Server::bind(socket)?;
            info!(socket = %socket.display(), "waiting for ztunnel");
            Some(server)
        } else {
            None
        };
        Ok(Self {
            keeper,
            records,
            inside: BTreeMap::new(),
            failed: BTreeMap::new(),
            zds,
            handles: BTreeMap::new(),
            proxies: None,
            routing: true,
            known: KnownProxies::open(run_dir),
            connected: BTreeSet::new(),
        })
    }

    /// Waits until a proxy comes, goes or answers.
    pub(super) async fn changed(&mut self) {
        match &mut self.zds {
            Some(zds) => zds.changed().await,
            None => std::future::pending().await,
        }
    }

    /// The proxies that have connected, by their cgroups. One that has lost its connection goes on serving its pods, and
    /// is a proxy for as long as its cgroup is there.
    pub(super) fn connected(&mut self) -> Vec<Proxy> {
        let Some(zds) = &mut self.zds else {
            return Vec::new();
        };
        let Some(root) = node::cgroup_mount() else {
            return Vec::new();
        };
        let proxies = zds.state().proxies.into_iter();
        self.connected = proxies.filter_map(|proxy| proxy.peer.cgroup).collect();
        let connected = self.connected.iter().filter_map(|cgroup| {
            let path = root.join(cgroup.strip_prefix("/").ok()?);
            let cgroup = node::cgroup(&path).ok()?;
            Some(Proxy { cgroup, path })
        });
        self.known.with(connected)
    }

    /// Before the rules: puts into new pods what is to be inside them.
    pub(super) fn prepare<'a>(
        &mut self,
        captured: &Captured,
        devices: impl IntoIterator<Item = &'a str>,
        problems: &mut Vec<Problem>,
    ) {
        let mut wanted = inside(captured);
        let leaving = self
            .inside
            .iter()
            .filter(|(netns, _)| !wanted.contains_key(netns));
        let leaving: Vec<_> = leaving.map(|(netns, wanted)| (*netns, wanted.clone())).collect();
        wanted.extend(leaving);
        self.want(wanted);
        for reason in self.failed.values() {
            problems.push(Problem::new(Severity::Error, reason.clone()));
        }
        if uses_node(captured) {
            self.routing = true;
            match inpod::put_node_routing(&self.records) {
                Ok(0) => {}
                Ok(added) => info!(added, "the node's routing leads redirected packets to the proxy"),
                Err(error) => problems.push(Problem::new(Severity::Error, error.to_string())),
            }
            problems.extend(inpod::node_problems(devices));
        }
    }

    /// After the rules: takes out of pods what is no longer wanted, has the proxies' questions answered, and hands over.
    pub(super) fn finish(&mut self, captured: &Captured, dataplane: &Dataplane, problems: &mut Vec<Problem>) {
        self.want(inside(captured));
        if self.routing && !uses_node(captured) {
            let errors = inpod::take_node_routing(&self.records);
            self.routing = !errors.is_empty();
            for error in errors {
                problems.push(Problem::new(Severity::Warning, error.to_string()));
            }
        }
        let proxies = captured.values().flat_map(|pod| &pod.proxies);
        let proxies: BTreeSet<_> = proxies
            .map(|proxy| ProxyCgroup {
                id: proxy.cgroup.id,
                path: proxy.path.clone(),
            })
            .collect();
        if self.proxies.as_ref() != Some(&proxies) {
            let errors = dataplane.sync_proxies(&proxies);
            self.proxies = errors.is_empty().then_some(proxies);
            for error in errors {
                problems.push(Problem::new(Severity::Error, error.to_string()));
            }
        }
        self.hand_over(captured, problems);
        problems.extend(self.keeper.problems());
    }

    fn want(&mut self, wanted: BTreeMap<NetnsCookie, Wanted>) {
        if wanted == self.inside && self.failed.is_empty() {
            return;
        }
        let outcome = tokio::task::block_in_place(|| self.keeper.want(wanted.clone()));
        self.failed = match outcome {
            Ok(outcome) => outcome
                .into_iter()
                .filter_map(|(netns, done)| Some((netns, done.err()?.to_string())))
                .collect(),
            Err(error) => wanted.keys().map(|netns| (*netns, error.to_string())).collect(),
        };
        self.inside = wanted;
    }

    fn hand_over(&mut self, captured: &Captured, problems: &mut Vec<Problem>) {
        self.handles.retain(|netns, _| captured.contains_key(netns));
        let Some(zds) = &self.zds else { return };
        let mut workloads = BTreeMap::new();
        for (cookie, pod) in captured {
            let Some(workload) = &pod.workload else { continue };
            // What is not ready inside would be past the proxy.
            if self.failed.contains_key(cookie) {
                continue;
            }
            let descriptor = match self.handles.get(cookie) {
                Some(handle) => Ok(Arc::clone(handle)),
                None => open(pod, *cookie),
            };
            let netns = match descriptor {
                Ok(descriptor) => {
                    self.handles.insert(*cookie, Arc::clone(&descriptor));
                    Some(zds::Netns {
                        descriptor,
                        cookie: *cookie,
                    })
                }
                Err(error) => {
                    problems.push(Problem::new(Severity::Error, format!("{error:#}")));
                    None
                }
            };
            let handed = zds::Workload {
                pod: workload.pod.clone(),
                service_account: workload.service_account.clone(),
                netns,
            };
            workloads.insert(workload.uid.clone(), handed);
        }
        zds.admit(self.connected.clone());
        zds.want(workloads);
    }

    /// How far capture of each pod is: `enrolled`, or what it waits for.
    pub(super) fn progress(&mut self, captured: &Captured) -> BTreeMap<NetnsCookie, String> {
        let state = self.zds.as_mut().map(zds::Server::state).unwrap_or_default();
        let progress = captured.iter().map(|(cookie, pod)| {
            let word = match (self.failed.get(cookie), &pod.workload) {
                (Some(reason), _) => reason.clone(),
                (None, None) => ENROLLED.to_owned(),
                (None, Some(workload)) => match state.workloads.get(&workload.uid) {
                    Some(Progress::Acked(netns)) if netns == cookie => ENROLLED.to_owned(),
                    Some(Progress::Refused(reason)) => format!("ztunnel refuses it: {reason}"),
                    Some(Progress::Acked(_) | Progress::Pending) | None => "waits for ztunnel".to_owned(),
                },
            };
            (*cookie, word)
        });
        progress.collect()
    }

    /// How often something inside a pod had to be mended.
    pub(super) fn repairs(&self) -> u64 {
        self.keeper.repairs().total()
    }
}

/// Whether anybody's calls go to a proxy on the node.
fn uses_node(captured: &Captured) -> bool {
    captured.values().any(|pod| pod.mode == CaptureMode::Node)
}

/// What is to be inside the pods whose proxy is there.
fn inside(captured: &Captured) -> BTreeMap<NetnsCookie, Wanted> {
    let inside = captured.iter().filter(|(_, pod)| pod.mode != CaptureMode::Node);
    inside
        .map(|(cookie, pod)| {
            let wanted = Wanted {
                name: pod.name.clone(),
                netns: pod.netns.clone(),
                inbound: pod.inbound,
                virtual_interfaces: pod.virtual_interfaces.clone(),
                excluded_interfaces: pod.excluded_interfaces.clone(),
            };
            (*cookie, wanted)
        })
        .collect()
}

fn open(pod: &CapturedPod, cookie: NetnsCookie) -> anyhow::Result<Arc<OwnedFd>> {
    let file = node::open_netns(&pod.netns, cookie).with_context(|| pod.name.clone())?;
    Ok(Arc::new(file))
}
