//! Finding on the node what the objects and the enrolments name.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use tracing::{info, warn};

use super::{announcements::Announced, pass::Agent};
use crate::{
    enrolled::Enrolled,
    facts::{Cgroup, Depth, Facts, PodName, PodNetwork},
    node::{self, PodUid, View, Wanted},
    objects::{Pod, Stored},
    project,
};

impl Agent {
    /// Finds where the packets of this node's pods and of enrolled namespaces come from.
    pub(super) async fn find_pods(&mut self, view: &View) -> Facts {
        let mut facts = Facts {
            own_addresses: view.addresses.clone(),
            netns: node::cookie().ok(),
            around_pods: self.finder.around_pods(),
            ..Facts::default()
        };
        self.find_cgroups(&mut facts);
        let pods = self.stores.pods.values();
        let local = pods.filter(|pod| pod.is_local(&self.settings.node) && !pod.finished);
        let local: Vec<_> = local.cloned().collect();
        let mut wanted: BTreeMap<PodUid, (PodName, Wanted)> = BTreeMap::new();
        let mut stale = Vec::new();
        let mut named: BTreeMap<&PodUid, usize> = BTreeMap::new();
        let confirmed = local.iter().filter(|pod| pod.is_confirmed());
        for uid in confirmed.filter_map(|pod| pod.kubelet_uid.as_ref()) {
            *named.entry(uid).or_default() += 1;
        }
        for pod in &local {
            let depth = self.depth(pod);
            if let Some(announced) = self.announcements.of(pod) {
                let path = &announced.announcement.netns;
                let found = self.node.pod(path, view, depth).await;
                let found = found.and_then(|found| announced.confirm(found));
                if found.is_ok() || !is_gone(announced).await {
                    let found = found.map_err(|error| error.to_string());
                    facts.pods.insert(pod.name.clone(), found);
                    continue;
                }
                stale.push(announced.announcement.attachment.clone());
            }
            let found = match Place::of(pod) {
                Place::Host(_) | Place::Unknown(_) if !pod.is_confirmed() => {
                    let reason = "the kubelet has not said yet that it is its pod (status.podIPs)";
                    facts.pods.insert(pod.name.clone(), Err(reason.to_owned()));
                    continue;
                }
                Place::Host(uid) | Place::Unknown(uid) if named.get(uid).is_some_and(|pods| *pods > 1) => {
                    let reason = format!("several pods say that they are the kubelet's pod {uid}");
                    facts.pods.insert(pod.name.clone(), Err(reason));
                    continue;
                }
                Place::Cgroup(path) => node::cgroup(path).map(|cgroup| host((path.clone(), cgroup))),
                Place::Host(uid) => self.finder.host(uid).map(host),
                Place::Netns(path) => self.node.pod(path, view, depth).await,
                Place::Unknown(uid) if !self.is_enrolled(pod) => {
                    let pod = (
                        pod.name.clone(),
                        Wanted {
                            uid: uid.clone(),
                            addresses: pod.addresses.clone(),
                            depth,
                        },
                    );
                    wanted.insert(uid.clone(), pod);
                    continue;
                }
                Place::Unknown(_) | Place::Nowhere => continue,
            };
            let found = found.map_err(|error| error.to_string());
            facts.pods.insert(pod.name.clone(), found);
        }
        let sought: Vec<_> = wanted.values().map(|(_, pod)| pod.clone()).collect();
        for (uid, found) in self.finder.find(&sought, &mut self.node, view).await {
            if let Some((name, _)) = wanted.remove(&uid) {
                facts.pods.insert(name, found);
            }
        }
        for attachment in stale {
            info!(
                container = attachment.container_id,
                "what CNI announced is there no more"
            );
            // Written or not, it is not there: the next look says so again.
            if let Err(error) = self.announcements.remove(&attachment) {
                warn!("{error:#}");
            }
        }
        for Enrolled { netns: path, .. } in self.enrolments.all() {
            // A path may lead to another namespace than the last time.
            self.node.forget(path);
            let found = self.node.pod(path, view, Depth::Routes).await;
            let found = found.map_err(|error| error.to_string());
            facts.enrolled.insert(path.clone(), found);
        }
        facts
    }

    /// Finds the cgroups of proxies: those that somebody names, and those of sidecars.
    fn find_cgroups(&self, facts: &mut Facts) {
        let pods = || self.stores.pods.values();
        let of_pods = pods().filter_map(|pod| pod.proxy_cgroup.as_ref());
        let enrolled = self.enrolments.all().iter();
        let of_enrolled = enrolled.flat_map(|enrolled| &enrolled.proxy_cgroups);
        for path in self.capture.cgroups().chain(of_pods).chain(of_enrolled) {
            let found = node::cgroup(path).map_err(|error| error.to_string());
            facts.cgroups.insert(path.clone(), found);
        }
        let local = pods().filter(|pod| pod.is_local(&self.settings.node) && !pod.finished);
        for pod in local.filter(|_| self.capture.sidecar) {
            let (Some(uid), None, Some(_)) = (&pod.kubelet_uid, &pod.proxy_cgroup, &pod.mesh.sidecar) else {
                continue;
            };
            let found = match &pod.sidecar_container {
                Some(container) => self
                    .finder
                    .container(uid, container)
                    .map_err(|error| error.to_string()),
                None => Err("its container has not been started yet".to_owned()),
            };
            let found = found.map(|(path, cgroup)| {
                facts.cgroups.insert(path.clone(), Ok(cgroup));
                path
            });
            facts.sidecars.insert(pod.name.clone(), found);
        }
    }

    /// How much of the inside of its network namespace is asked for.
    fn depth(&self, pod: &Pod) -> Depth {
        let namespace = self.stores.namespaces.get(&pod.name.namespace);
        let labels = namespace.map(|namespace| &namespace.labels);
        project::depth(pod, labels, self.enrolments.all(), &self.capture)
    }

    /// Whether somebody has enrolled a namespace as this pod.
    fn is_enrolled(&self, pod: &Stored<Pod>) -> bool {
        let mut enrolled = self.enrolments.all().iter();
        enrolled.any(|how| how.name.as_ref() == Some(&pod.name))
    }
}

/// Whether something else is by now, or nothing, where a pod was announced.
async fn is_gone(announced: &Announced) -> bool {
    match node::inside(&announced.announcement.netns).await {
        Ok((cookie, _)) => cookie != announced.cookie,
        Err(error) => error.is_elsewhere(),
    }
}

/// What is known of where a pod is.
enum Place<'a> {
    /// Its cgroup.
    Cgroup(&'a PathBuf),
    /// It is in the node's network namespace.
    Host(&'a PodUid),
    /// Its network namespace.
    Netns(&'a PathBuf),
    /// It has a network namespace of its own.
    Unknown(&'a PodUid),
    /// Nothing.
    Nowhere,
}

impl<'a> Place<'a> {
    fn of(pod: &'a Arc<Stored<Pod>>) -> Self {
        match (pod.host_network, &pod.cgroup, &pod.netns, &pod.kubelet_uid) {
            (true, Some(path), _, _) => Self::Cgroup(path),
            (true, None, _, Some(uid)) => Self::Host(uid),
            (false, _, Some(path), _) => Self::Netns(path),
            (false, _, None, Some(uid)) => Self::Unknown(uid),
            (_, _, _, None) => Self::Nowhere,
        }
    }
}

fn host((path, cgroup): (PathBuf, Cgroup)) -> PodNetwork {
    PodNetwork::Host { cgroup, path }
}
