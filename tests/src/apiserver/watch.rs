//! Watches: what has happened and what happens, a line of JSON each.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use axum::body::Bytes;
use serde_json::{Value, json};
use tokio::{
    sync::watch::Receiver,
    time::{Instant, Interval, interval_at, sleep_until},
};

use super::{
    Shared,
    call::Call,
    faults::Faults,
    kinds::Resource,
    list,
    refusal::Refusal,
    selectors::Selector,
    store::{Change, Store, Stored},
};

/// Marks the bookmark behind which the list has been sent.
const END_OF_LIST: &str = "k8s.io/initial-events-end";
/// Longer than any test.
const FOREVER: Duration = Duration::from_hours(1);

/// A watch that is under way.
pub(super) struct Watch {
    shared: Arc<Shared>,
    call: Call,
    resource: Arc<Resource>,
    selector: Selector,
    api_version: String,
    /// All up to here has been sent.
    cursor: u64,
    lines: VecDeque<Bytes>,
    versions: Receiver<u64>,
    faults: Receiver<Faults>,
    /// Of the faults: when it changes, this watch ends.
    epoch: u64,
    bookmarks: Option<Interval>,
    deadline: Instant,
    ended: bool,
}

impl Watch {
    pub(super) fn begin(shared: &Arc<Shared>, call: Call) -> Result<Self, Refusal> {
        let store = shared.store();
        let target = &call.target;
        let resource = store
            .kinds
            .find(&target.group, &target.version, &target.plural)
            .ok_or_else(Refusal::unserved)?;
        let faults = shared.faults.subscribe();
        let (epoch, pause) = {
            let faults = faults.borrow();
            (faults.epoch, faults.bookmark_interval)
        };
        let patience = call
            .query
            .number("timeoutSeconds")?
            .map_or(FOREVER, Duration::from_secs);
        let wants_bookmarks = call.query.is_true("allowWatchBookmarks");
        let mut watch = Self {
            shared: Arc::clone(shared),
            selector: list::selector(resource, &call)?,
            api_version: resource.api_version(&target.version),
            resource: Arc::clone(resource),
            cursor: 0,
            lines: VecDeque::new(),
            versions: store.versions(),
            faults,
            epoch,
            bookmarks: wants_bookmarks.then(|| interval_at(Instant::now() + pause, pause)),
            deadline: Instant::now() + patience,
            ended: false,
            call,
        };
        watch.start(&store)?;
        drop(store);
        Ok(watch)
    }

    /// Finds where it begins: at a version, or with all that is there.
    fn start(&mut self, store: &Store) -> Result<(), Refusal> {
        let wanted = self.call.query.number("resourceVersion")?.unwrap_or(0);
        let streams_list = self.call.query.is_true("sendInitialEvents");
        if streams_list && self.call.query.get("resourceVersionMatch") != "NotOlderThan" {
            let message = "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to \
                           NotOlderThan";
            return Err(Refusal::bad_request(message));
        }
        let current = store.version();
        if wanted > current {
            return Err(Refusal::too_large(wanted, current));
        }
        if wanted > 0 && !streams_list {
            if wanted < store.oldest() {
                return Err(too_old(wanted, store));
            }
            self.cursor = wanted;
            return Ok(());
        }
        self.cursor = current;
        for stored in list::select(store, &self.resource, &self.call)? {
            self.send("ADDED", &stored);
        }
        if streams_list && self.bookmarks.is_some() {
            self.bookmark(&json!({END_OF_LIST: "true"}));
        }
        Ok(())
    }

    /// The next line; none when it has ended.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        loop {
            // The sender is in what is shared, which this has a share of.
            let _ = self.faults.wait_for(|faults| !faults.stalled).await;
            if self.faults.borrow_and_update().epoch != self.epoch {
                return None;
            }
            if let Some(line) = self.lines.pop_front() {
                return Some(line);
            }
            if self.ended {
                return None;
            }
            self.versions.mark_unchanged();
            self.read();
            if !self.lines.is_empty() {
                continue;
            }
            tokio::select! {
                _ = self.versions.changed() => {}
                _ = self.faults.changed() => {}
                () = tick(self.bookmarks.as_mut()) => self.bookmark(&json!({})),
                () = sleep_until(self.deadline) => return None,
            }
        }
    }

    /// Reads what has happened since.
    fn read(&mut self) {
        let shared = Arc::clone(&self.shared);
        let store = shared.store();
        let Some(changes) = store.since(self.cursor, &self.resource.id()) else {
            let error = too_old(self.cursor, &store);
            self.line("ERROR", error.status().to_string().as_bytes());
            self.ended = true;
            return;
        };
        self.cursor = store.version();
        // Its kind is served no longer.
        let target = &self.call.target;
        self.ended = store
            .kinds
            .find(&target.group, &target.version, &target.plural)
            .is_none();
        drop(store);
        for change in &changes {
            self.tell(change);
        }
    }

    /// Tells of a change as it is seen through the selector.
    fn tell(&mut self, change: &Change) {
        let accepts = |stored: &&Arc<Stored>| {
            let namespace = stored.value["metadata"]["namespace"].as_str().unwrap_or_default();
            list::is_within(namespace, &self.call) && self.selector.accepts(&stored.value)
        };
        let old = change.old.as_ref().filter(accepts);
        let new = change.new.as_ref().filter(accepts);
        match (old, new) {
            (None, None) => {}
            (None, Some(new)) => self.send("ADDED", new),
            (Some(_), Some(new)) => self.send("MODIFIED", new),
            // What is gone from sight tells when it went.
            (Some(old), None) => {
                let mut last = old.value(&self.api_version);
                last["metadata"]["resourceVersion"] = json!(change.version.to_string());
                self.line("DELETED", last.to_string().as_bytes());
            }
        }
    }

    fn send(&mut self, kind: &str, stored: &Stored) {
        let json = stored.json(&self.api_version);
        self.line(kind, &json);
    }

    fn bookmark(&mut self, annotations: &Value) {
        let mut metadata = json!({"resourceVersion": self.cursor.to_string(), "creationTimestamp": null});
        if annotations
            .as_object()
            .is_some_and(|annotations| !annotations.is_empty())
        {
            metadata["annotations"] = annotations.clone();
        }
        let object =
            json!({"kind": self.resource.kind, "apiVersion": self.api_version, "metadata": metadata});
        self.line("BOOKMARK", object.to_string().as_bytes());
    }

    fn line(&mut self, kind: &str, object: &[u8]) {
        let head = format!("{{\"type\":\"{kind}\",\"object\":");
        self.lines
            .push_back(Bytes::from([head.as_bytes(), object, b"}\n"].concat()));
    }
}

async fn tick(interval: Option<&mut Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

fn too_old(version: u64, store: &Store) -> Refusal {
    Refusal::expired(format!(
        "too old resource version: {version} ({})",
        store.oldest()
    ))
}
