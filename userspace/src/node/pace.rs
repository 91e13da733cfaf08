//! When to look again for pods that were not found.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use tokio::time::Instant;

use super::{View, finder::Wanted, kubepods::PodUid};

/// How long at first. Between a pod's device and its first process a runtime takes some 50 ms.
const FIRST: Duration = Duration::from_millis(20);
/// How long at the most.
const LAST: Duration = Duration::from_secs(10);

/// Looks at once where there is something new, and then less and less often: a pod may never come.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// What is known of the pods that were not found.
    sought: BTreeMap<PodUid, Vec<IpAddr>>,
    /// The devices that were there.
    devices: BTreeSet<u32>,
    pause: Duration,
    due: Option<Instant>,
}

impl Pace {
    /// When to look again, if there is somebody to look for.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Who was not found.
    pub(super) fn sought(&self) -> impl Iterator<Item = &PodUid> {
        self.sought.keys()
    }

    /// Whether to look for these now.
    pub(super) fn is_due(&mut self, pods: &[&Wanted], view: &View) -> bool {
        let devices: BTreeSet<u32> = view.links.iter().map(|link| link.index.0).collect();
        let is_known = |pod: &&Wanted| self.sought.get(&pod.uid) == Some(&pod.addresses);
        let is_news = !devices.is_subset(&self.devices) || !pods.iter().all(is_known);
        self.devices = devices;
        if is_news {
            self.pause = Duration::ZERO;
        }
        let is_due = self.due.is_none_or(|due| due <= Instant::now());
        let sought = pods.iter().map(|pod| (pod.uid.clone(), pod.addresses.clone()));
        self.sought = sought.collect();
        self.rest();
        !pods.is_empty() && (is_news || is_due)
    }

    /// This one was found.
    pub(super) fn found(&mut self, pod: &PodUid) {
        self.sought.remove(pod);
        self.rest();
    }

    /// One look has been taken.
    pub(super) fn looked(&mut self) {
        self.pause = (self.pause * 2).clamp(FIRST, LAST);
        self.due = Some(Instant::now() + self.pause);
    }

    fn rest(&mut self) {
        if self.sought.is_empty() {
            self.due = None;
        }
    }
}

#[cfg(test)]
#[path = "tests/pace.rs"]
mod tests;
