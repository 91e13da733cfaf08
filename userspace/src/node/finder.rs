//! Finding the network namespaces of pods, and holding on to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
};

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{
    Error, Node, View,
    cgroups::PodCgroups,
    kubepods::{ContainerId, PodUid},
    pace::Pace,
    processes::{self, Process, Processes, Walk},
    unfound::{Unfound, list},
};
use crate::facts::{Cgroup, Depth, NetnsCookie, PodNetwork};

/// A pod to find.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Which.
    pub uid: PodUid,
    /// Its addresses, of which its network namespace must have one.
    pub addresses: Vec<IpAddr>,
    /// How much of the inside is asked for.
    pub depth: Depth,
}

/// Where a pod's network namespace was found.
#[derive(Debug)]
struct Held {
    path: PathBuf,
    netns: NetnsCookie,
    /// The pod's addresses at that time.
    addresses: Vec<IpAddr>,
}

/// Finds pods of which only the cluster's objects are known.
pub struct Finder {
    proc: PathBuf,
    cgroup_root: Option<PathBuf>,
    held: BTreeMap<PodUid, Held>,
    walk: Walk,
    /// It was made for this pass.
    is_fresh: bool,
    pace: Pace,
    reasons: BTreeMap<PodUid, String>,
}

impl Finder {
    /// `proc` shows the node's processes; `cgroup_root` is where the pods are, if that is not the whole node.
    pub fn new(proc: PathBuf, cgroup_root: Option<PathBuf>) -> Self {
        Self {
            proc,
            cgroup_root,
            held: BTreeMap::new(),
            walk: Walk::default(),
            is_fresh: false,
            pace: Pace::default(),
            reasons: BTreeMap::new(),
        }
    }

    /// Waits until there is more to be seen of a pod that was not found. May be dropped and called again at any time.
    pub async fn changed(&mut self) {
        loop {
            let Some(due) = self.pace.due() else {
                return std::future::pending().await;
            };
            tokio::time::sleep_until(due).await;
            let before = std::mem::take(&mut self.walk);
            self.look();
            let is_worth_it = |uid: &PodUid| {
                let of_pod = |walk: &Walk| walk.pods.get(uid).cloned();
                // What is in a namespace changes without a word.
                let now = of_pod(&self.walk);
                now != of_pod(&before) || now.is_some_and(|now| !now.namespaces.is_empty())
            };
            if self.pace.sought().any(is_worth_it) {
                self.is_fresh = true;
                return;
            }
        }
    }

    /// Finds the network namespaces of these pods, which have one of their own. One walk through `/proc` serves all that
    /// are new; those that were found before are held, and cost none.
    pub async fn find(
        &mut self,
        wanted: &[Wanted],
        node: &mut Node,
        view: &View,
    ) -> BTreeMap<PodUid, Result<PodNetwork, String>> {
        let mut found = BTreeMap::new();
        let mut sought = Vec::new();
        for pod in wanted {
            let result = if pod.addresses.is_empty() {
                Err(Unfound::NoAddress)
            } else if let Some(network) = self.held(pod, node, view).await {
                Ok(network)
            } else {
                sought.push(pod);
                continue;
            };
            found.insert(pod.uid.clone(), result.map_err(|reason| reason.to_string()));
        }
        let known: BTreeSet<_> = wanted.iter().map(|pod| &pod.uid).collect();
        self.held.retain(|uid, _| known.contains(uid));
        let is_fresh = std::mem::take(&mut self.is_fresh);
        let is_due = self.pace.is_due(&sought, view);
        if is_due {
            self.look();
        }
        if is_due || is_fresh {
            self.reasons.clear();
        }
        for pod in sought {
            let known = self.reasons.get(&pod.uid).cloned();
            let result = match known {
                Some(reason) => Err(reason),
                None => self
                    .seek(pod, node, view)
                    .await
                    .map_err(|reason| reason.to_string()),
            };
            match &result {
                Ok(_) => self.pace.found(&pod.uid),
                Err(reason) => drop(self.reasons.insert(pod.uid.clone(), reason.clone())),
            }
            found.insert(pod.uid.clone(), result);
        }
        found
    }

    /// The cgroup of a pod, by which one in the node's network namespace is told.
    pub fn host(&self, pod: &PodUid) -> Result<(PathBuf, Cgroup), Error> {
        self.cgroups()?.of_pod(pod)
    }

    /// The cgroups around those of all pods.
    pub fn around_pods(&self) -> Vec<Cgroup> {
        self.cgroups()
            .map(|cgroups| cgroups.around_pods())
            .unwrap_or_default()
    }

    /// The cgroup of a pod's container.
    pub fn container(&self, pod: &PodUid, container: &ContainerId) -> Result<(PathBuf, Cgroup), Error> {
        self.cgroups()?.of_container(pod, container)
    }

    fn cgroups(&self) -> Result<PodCgroups, Error> {
        PodCgroups::open(&self.proc, self.cgroup_root.as_deref())
    }

    /// Looks at all processes.
    fn look(&mut self) {
        let below = self.cgroup_root.as_deref().map(PodCgroups::below_root);
        let started = Instant::now();
        let below = below.unwrap_or_default();
        let sought: BTreeSet<_> = self.pace.sought().cloned().collect();
        let walked = tokio::task::block_in_place(|| processes::walk(&self.proc, &below, &sought));
        self.walk = walked.unwrap_or_else(|error| {
            warn!(
                "cannot look for the processes of pods in {}: {error}",
                self.proc.display()
            );
            Walk::default()
        });
        self.pace.looked();
        debug!(
            processes = self.walk.seen,
            sought = sought.len(),
            found = self.walk.pods.len(),
            microseconds = started.elapsed().as_micros(),
            "looked at all processes",
        );
    }

    /// A pod that was found before and is still there.
    async fn held(&mut self, pod: &Wanted, node: &mut Node, view: &View) -> Option<PodNetwork> {
        let held = self.held.get(&pod.uid)?;
        if held.addresses == pod.addresses
            && let Ok(network) = node.pod(&held.path, view, pod.depth).await
            && matches!(&network, PodNetwork::Own { netns, .. } if *netns == held.netns)
        {
            return Some(network);
        }
        let held = self.held.remove(&pod.uid)?;
        node.forget(&held.path);
        None
    }

    /// Looks where its processes are, the oldest first: younger ones may be on their way through.
    async fn seek(&mut self, pod: &Wanted, node: &mut Node, view: &View) -> Result<PodNetwork, Unfound> {
        let nothing = Processes::default();
        let of_pod = self.walk.pods.get(&pod.uid).unwrap_or(&nothing).clone();
        let mut first = None;
        for process in of_pod.oldest() {
            match self.look_into(pod, process, node, view).await {
                Ok(network) => return Ok(network),
                Err(reason) => drop(first.get_or_insert(reason)),
            }
        }
        Err(first.unwrap_or_else(|| self.none(pod, of_pod.of_node)))
    }

    fn none(&self, pod: &Wanted, of_node: usize) -> Unfound {
        let (uid, proc) = (pod.uid.clone(), self.proc.clone());
        let Walk { seen, unclear, .. } = self.walk;
        match (of_node, unclear) {
            (0, 0) => Unfound::NoProcess { uid, proc, seen },
            (0, _) => Unfound::Unclear {
                uid,
                proc,
                seen,
                unclear,
            },
            _ => Unfound::OfNode(of_node),
        }
    }

    /// Holds on to the network namespace of a process if it has one of the pod's addresses.
    async fn look_into(
        &mut self,
        pod: &Wanted,
        process: Process,
        node: &mut Node,
        view: &View,
    ) -> Result<PodNetwork, Unfound> {
        let path = process.netns(&self.proc);
        // The number may be another process's by now.
        node.forget(&path);
        let network = node.pod(&path, view, pod.depth.max(Depth::Addresses)).await?;
        let PodNetwork::Own { netns, inside, .. } = &network else {
            return Err(Error::Own(path).into());
        };
        if !pod
            .addresses
            .iter()
            .any(|address| inside.addresses.contains(address))
        {
            return Err(Unfound::Elsewhere {
                pid: process.pid(),
                has: list(&inside.addresses),
                wanted: pod.addresses.clone(),
            });
        }
        if !process.runs(&self.proc) {
            node.forget(&path);
            return Err(Unfound::Ended(process.pid()));
        }
        info!(pod = %pod.uid, netns = netns.0, path = %path.display(), "found");
        let held = Held {
            path,
            netns: *netns,
            addresses: pod.addresses.clone(),
        };
        self.held.insert(pod.uid.clone(), held);
        Ok(network)
    }
}
