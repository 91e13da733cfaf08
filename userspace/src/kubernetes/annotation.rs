//! The annotation by which Istio's control plane knows that a pod is captured: without it others send to the pod in plain
//! text, past its proxy's listener for encrypted calls.
//!
//! It is set when ztunnel has said that it serves the pod, as the last step of capture, and taken away as the last step when
//! capture ends. Only from pods that an agent of this node has put it on: another's mesh may have annotated the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1 as core;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::sync::watch;
use tracing::{info, warn};

use super::{Failures, is_status};
use crate::{
    agent::published::{Pod, Published, REDIRECTION_ANNOTATION, Redirection},
    facts::PodName,
    whole_file,
};

/// After how long what was written is written again, if the pod is not seen to have it.
const AGAIN: Duration = Duration::from_secs(30);

/// What a pod's annotation is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Change {
    pod: PodName,
    uid: String,
    /// `None` takes it away.
    to: Option<Redirection>,
}

/// Keeps the annotations of this node's pods as they should be.
pub async fn run(client: Client, run_dir: PathBuf, mut published: watch::Receiver<Arc<Published>>) {
    let mut ours = Ours::open(&run_dir);
    let mut sent: BTreeMap<String, (Option<Redirection>, Instant)> = BTreeMap::new();
    let mut failures = Failures::new("writing the annotation of a captured pod");
    loop {
        let now = published.borrow_and_update().clone();
        let mut wait = AGAIN;
        if now.applied {
            sent.retain(|_, (_, at)| at.elapsed() < AGAIN);
            ours.update(&now, |uid| sent.contains_key(uid));
            for change in changes(&now, &ours.uids) {
                if sent.get(&change.uid).is_some_and(|(to, _)| *to == change.to) {
                    continue;
                }
                if let Err(error) = write(&client, &change).await {
                    wait = failures.one_more(&error);
                    break;
                }
                failures.none();
                info!(pod = %change.pod, to = change.to.map(Redirection::word), "annotated for Istio's control plane");
                sent.insert(change.uid, (change.to, Instant::now()));
            }
        }
        tokio::select! {
            changed = published.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// What is to be written.
fn changes(published: &Published, ours: &BTreeSet<String>) -> Vec<Change> {
    let change = |(name, pod): (&PodName, &Pod)| {
        let uid = pod.uid.clone()?;
        let annotated = pod.annotated.as_deref();
        let to = match (annotated, pod.redirection) {
            // A proxy that starts again, or an agent, goes on serving it: what is captured stays announced.
            (Some("enabled"), Some(_)) | (Some("pending"), Some(Redirection::Pending)) | (None, None) => {
                return None;
            }
            (Some(_), None) if !ours.contains(&uid) => return None,
            (_, to) => to,
        };
        Some(Change {
            pod: name.clone(),
            uid,
            to,
        })
    };
    published.pods.iter().filter_map(change).collect()
}

async fn write(client: &Client, change: &Change) -> kube::Result<()> {
    let pods: Api<core::Pod> = Api::namespaced(client.clone(), &change.pod.namespace);
    // With its uid, it is refused for another pod of the same name.
    let patch = json!({
        "metadata": {
            "uid": change.uid,
            "annotations": {REDIRECTION_ANNOTATION: change.to.map(Redirection::word)},
        },
    });
    let written = pods
        .patch_status(&change.pod.name, &PatchParams::default(), &Patch::Merge(&patch))
        .await;
    match written {
        Ok(_) => Ok(()),
        // It is gone, or there is another in its place.
        Err(error) if is_status(&error, 404) || is_status(&error, 409) => Ok(()),
        Err(error) => Err(error),
    }
}

/// The pods that an agent of this node has annotated, kept in a file for the next one.
struct Ours {
    file: PathBuf,
    uids: BTreeSet<String>,
}

impl Ours {
    fn open(run_dir: &Path) -> Self {
        let file = run_dir.join("annotated.json");
        let uids = whole_file::read(&file).unwrap_or_else(|error| {
            warn!(file = %file.display(), %error, "cannot read which pods were annotated: those that are not captured keep it");
            None
        });
        Self {
            file,
            uids: uids.unwrap_or_default(),
        }
    }

    /// Adds those that are to be annotated, before they are, and forgets who is gone or has lost it. What was written a
    /// moment ago may not have been seen yet.
    fn update(&mut self, published: &Published, is_new: impl Fn(&str) -> bool) {
        let stays = |pod: &&Pod| {
            let has = |uid: &String| self.uids.contains(uid) && (pod.annotated.is_some() || is_new(uid));
            pod.redirection.is_some() || pod.uid.as_ref().is_some_and(has)
        };
        let staying = published.pods.values().filter(stays);
        let uids: BTreeSet<_> = staying.filter_map(|pod| pod.uid.clone()).collect();
        if uids == self.uids {
            return;
        }
        if let Err(error) = whole_file::write(&self.file, &uids) {
            warn!(file = %self.file.display(), %error, "cannot write which pods are annotated");
        }
        self.uids = uids;
    }
}
