//! The pods that the CNI plugin has announced, kept in a file, so that the next agent knows them too.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::{
    api::{Announcement, Attachment},
    facts::{NetnsCookie, PodNetwork},
    node,
    objects::Pod,
    source::Stores,
    whole_file,
};

/// A pod of which the container runtime has told, as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Announced {
    #[serde(flatten)]
    pub(super) announcement: Announcement,
    /// The namespace that its path led to. Another that is there later is not the pod's.
    pub(super) cookie: NetnsCookie,
    /// Those of its addresses that were not found inside.
    pub(super) missing: Vec<IpAddr>,
}

impl Announced {
    /// Whether this object is the pod. Of a static pod the runtime has another uid than the cluster.
    fn is(&self, pod: &Pod) -> bool {
        let Announcement { pod: name, uid, .. } = &self.announcement;
        let own = [pod.uid.clone(), pod.kubelet_uid.as_ref().map(ToString::to_string)];
        let same = |uid| own.contains(&Some(uid)) || own == [None, None];
        pod.name == *name && !pod.host_network && uid.clone().is_none_or(same)
    }

    /// What was found at its path, if that is still what was announced.
    pub(super) fn confirm(&self, found: PodNetwork) -> Result<PodNetwork, node::Error> {
        match &found {
            PodNetwork::Own { netns, .. } if *netns == self.cookie => Ok(found),
            PodNetwork::Own { .. } | PodNetwork::Host { .. } => {
                Err(node::Error::Replaced(self.announcement.netns.clone()))
            }
        }
    }
}

/// The announced pods.
#[derive(Debug)]
pub(super) struct Announcements {
    file: PathBuf,
    /// The newest last.
    held: Vec<Announced>,
}

impl Announcements {
    /// Reads what the last agent has left in the run directory.
    pub(super) fn open(run_dir: &Path) -> anyhow::Result<Self> {
        let file = run_dir.join("announced.json");
        let held = whole_file::read(&file)
            .with_context(|| format!("cannot read {}, the pods that CNI has announced", file.display()))?;
        Ok(Self {
            file,
            held: held.unwrap_or_default(),
        })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    /// The one of this attachment.
    pub(super) fn get(&self, attachment: &Attachment) -> Option<&Announced> {
        let mut held = self.held.iter();
        held.find(|announced| announced.announcement.attachment == *attachment)
    }

    /// The newest of this pod.
    pub(super) fn of(&self, pod: &Pod) -> Option<&Announced> {
        self.held.iter().rfind(|announced| announced.is(pod))
    }

    /// Adds one, in the place of what was known of its attachment.
    pub(super) fn add(&mut self, announced: Announced) -> anyhow::Result<()> {
        let attachment = announced.announcement.attachment.clone();
        let mut held = self.held.clone();
        held.retain(|known| known.announcement.attachment != attachment);
        held.push(announced);
        self.replace(held)
    }

    /// Forgets one. It may be forgotten already.
    pub(super) fn remove(&mut self, attachment: &Attachment) -> anyhow::Result<()> {
        self.retain(|announced| announced.announcement.attachment != *attachment)
    }

    /// Forgets all of a network but these.
    pub(super) fn keep(&mut self, network: &str, valid: &[Attachment]) -> anyhow::Result<()> {
        self.retain(|announced| {
            let attachment = &announced.announcement.attachment;
            attachment.network != network || valid.contains(attachment)
        })
    }

    /// Forgets those whose namespace is gone: somebody may be deleted while there is no agent to be told.
    pub(super) fn prune(&mut self) -> anyhow::Result<()> {
        self.retain(|announced| announced.announcement.netns.exists())
    }

    /// Gives pods the addresses that they were announced with: before its first container runs, nobody has told the cluster
    /// of them, and a new sandbox has others than the one before.
    pub(super) fn complete(&self, stores: &mut Stores) {
        for announced in &self.held {
            let Some(pod) = stores.pods.get_mut(&announced.announcement.pod) else {
                continue;
            };
            let mut found = announced.announcement.addresses.clone();
            found.retain(|address| !announced.missing.contains(address));
            if announced.is(pod) && !found.is_empty() && found != pod.addresses {
                Arc::make_mut(pod).object.addresses = found;
            }
        }
    }

    fn retain(&mut self, keep: impl Fn(&Announced) -> bool) -> anyhow::Result<()> {
        let mut held = self.held.clone();
        held.retain(keep);
        if held.len() == self.held.len() {
            return Ok(());
        }
        self.replace(held)
    }

    /// What could not be written down does not count.
    fn replace(&mut self, held: Vec<Announced>) -> anyhow::Result<()> {
        whole_file::write(&self.file, &held)
            .with_context(|| format!("cannot write {}", self.file.display()))?;
        self.held = held;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        facts::PodName,
        node::PodUid,
        objects::{Mesh, Stored},
        problem::Origin,
        source::AnyObject,
    };

    fn announced(container: &str, uid: Option<&str>, address: &str) -> Announced {
        Announced {
            announcement: Announcement {
                attachment: Attachment {
                    network: "pods".to_owned(),
                    container_id: container.to_owned(),
                    ifname: "eth0".to_owned(),
                },
                pod: name(),
                uid: uid.map(str::to_owned),
                netns: "/proc/self/ns/net".into(),
                addresses: vec![address.parse().expect("an address")],
            },
            cookie: NetnsCookie(7),
            missing: Vec::new(),
        }
    }

    fn name() -> PodName {
        PodName {
            namespace: "a".to_owned(),
            name: "b".to_owned(),
        }
    }

    fn pod(uid: Option<&str>, host_network: bool) -> Pod {
        Pod {
            name: name(),
            uid: uid.map(str::to_owned),
            labels: std::collections::BTreeMap::new(),
            node: Some("n".to_owned()),
            host_network,
            addresses: Vec::new(),
            finished: false,
            netns: None,
            cgroup: None,
            proxy_cgroup: None,
            kubelet_uid: PodUid::new("hash"),
            sidecar_container: None,
            workload: None,
            service_account: "default".to_owned(),
            mesh: Mesh::default(),
        }
    }

    fn opened() -> (tempfile::TempDir, Announcements) {
        let directory = tempfile::tempdir().expect("a directory");
        let announcements = Announcements::open(directory.path()).expect("an empty directory");
        (directory, announcements)
    }

    #[test]
    fn the_next_agent_knows_them_until_they_are_gone() {
        let (directory, mut first) = opened();
        let one = announced("c1", Some("u1"), "10.0.0.1");
        let mut gone = announced("c2", None, "10.0.0.2");
        gone.announcement.netns = "/nowhere".into();
        first.add(one.clone()).expect("it can be written");
        first.add(gone).expect("it can be written");
        let mut next = Announcements::open(directory.path()).expect("what the first has written");
        assert_eq!(next.len(), 2);
        next.prune().expect("it can be written");
        assert_eq!(next.get(&one.announcement.attachment), Some(&one));
        assert_eq!(next.len(), 1);
        next.remove(&one.announcement.attachment)
            .expect("it can be written");
        next.remove(&one.announcement.attachment)
            .expect("it is gone already");
        let last = Announcements::open(directory.path()).expect("an empty list");
        assert_eq!(last.len(), 0);
    }

    #[test]
    fn of_a_network_only_what_is_valid_stays() {
        let (_directory, mut announcements) = opened();
        let (one, two) = (
            announced("c1", None, "10.0.0.1"),
            announced("c2", None, "10.0.0.2"),
        );
        let mut other = announced("c3", None, "10.0.0.3");
        other.announcement.attachment.network = "other".to_owned();
        for announced in [&one, &two, &other] {
            announcements.add(announced.clone()).expect("it can be written");
        }
        let valid = [two.announcement.attachment.clone()];
        announcements.keep("pods", &valid).expect("it can be written");
        assert_eq!(announcements.held, [two, other]);
    }

    #[rstest::rstest]
    #[case::same(Some("u1"), Some("u1"), false, true)]
    #[case::static_pod(Some("hash"), Some("u1"), false, true)]
    #[case::another(Some("u1"), Some("u2"), false, false)]
    #[case::runtime_without(None, Some("u2"), false, true)]
    #[case::on_the_nodes_network(Some("u1"), Some("u1"), true, false)]
    fn a_pod_is_told_by_its_uid(
        #[case] announced_uid: Option<&str>,
        #[case] uid: Option<&str>,
        #[case] host_network: bool,
        #[case] is_it: bool,
    ) {
        let (_directory, mut announcements) = opened();
        let announced = announced("c1", announced_uid, "10.0.0.1");
        announcements.add(announced).expect("it can be written");
        assert_eq!(announcements.of(&pod(uid, host_network)).is_some(), is_it);
    }

    #[test]
    fn a_manifest_without_a_uid_is_told_by_its_name() {
        let manifest = Pod {
            kubelet_uid: None,
            ..pod(None, false)
        };
        assert!(announced("c1", Some("u1"), "10.0.0.1").is(&manifest));
    }

    #[test]
    fn the_newest_sandbox_has_the_say_and_only_what_was_found_inside_counts() {
        let (_directory, mut announcements) = opened();
        let add = |announcements: &mut Announcements, announced| {
            announcements.add(announced).expect("it can be written");
        };
        add(&mut announcements, announced("c1", Some("u1"), "10.0.0.1"));
        let mut new = announced("c2", Some("u1"), "10.0.0.2");
        new.announcement
            .addresses
            .push("10.0.0.3".parse().expect("an address"));
        new.missing = vec!["10.0.0.3".parse().expect("an address")];
        add(&mut announcements, new);
        let mut stores = Stores::default();
        let origin = Origin::line(Arc::from(Path::new("pods.yaml")), 1);
        let object = Stored {
            object: pod(Some("u1"), false),
            origin,
        };
        stores
            .insert(AnyObject::Pod(Arc::new(object)))
            .expect("it is new");
        announcements.complete(&mut stores);
        let expected: Vec<IpAddr> = vec!["10.0.0.2".parse().expect("an address")];
        assert_eq!(stores.pods[&name()].addresses, expected);
    }
}
