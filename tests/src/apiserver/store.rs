//! The objects, and what has lately happened to them.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use axum::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::kinds::{Id, Kinds, Resource};

/// Changes that are kept for watches that begin in the past.
const HISTORY: usize = 50_000;

/// Namespace, empty where there is none, and name.
pub(super) type Key = (String, String);

/// An object as it was written.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) value: Value,
    /// The same as text, so that a list of thousands is cheap.
    json: Bytes,
}

impl Stored {
    fn new(mut value: Value, version: u64) -> Self {
        value["metadata"]["resourceVersion"] = json!(version.to_string());
        Self {
            json: Bytes::from(value.to_string()),
            value,
        }
    }

    /// As text, in one of the versions that the resource has. They differ in their names only.
    pub(super) fn json(&self, api_version: &str) -> Bytes {
        if self.value["apiVersion"] == api_version {
            return self.json.clone();
        }
        Bytes::from(self.value(api_version).to_string())
    }

    /// As a value, in one of the versions that the resource has.
    pub(super) fn value(&self, api_version: &str) -> Value {
        let mut value = self.value.clone();
        value["apiVersion"] = json!(api_version);
        value
    }
}

/// Something that happened.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) version: u64,
    pub(super) id: Id,
    /// What was there.
    pub(super) old: Option<Arc<Stored>>,
    /// What is there.
    pub(super) new: Option<Arc<Stored>>,
}

/// All objects.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) kinds: Kinds,
    objects: BTreeMap<Id, BTreeMap<Key, Arc<Stored>>>,
    history: VecDeque<Change>,
    /// The version up to which changes are forgotten.
    forgotten: u64,
    version: watch::Sender<u64>,
}

impl Store {
    pub(super) fn new() -> Self {
        Self {
            kinds: Kinds::builtin(),
            objects: BTreeMap::new(),
            history: VecDeque::new(),
            forgotten: 0,
            // Not a number that a test could take for a count of its own.
            version: watch::Sender::new(1000),
        }
    }

    pub(super) fn version(&self) -> u64 {
        *self.version.borrow()
    }

    /// Tells of every new version.
    pub(super) fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    pub(super) fn get(&self, id: &Id, key: &Key) -> Option<&Arc<Stored>> {
        self.objects.get(id)?.get(key)
    }

    /// All objects of a resource by namespace and name.
    pub(super) fn all(&self, id: &Id) -> impl Iterator<Item = (&Key, &Arc<Stored>)> {
        self.objects.get(id).into_iter().flatten()
    }

    /// Those from a place on.
    pub(super) fn after(&self, id: &Id, place: &Bound<Key>) -> impl Iterator<Item = (&Key, &Arc<Stored>)> {
        let range = (place.as_ref(), Bound::Unbounded);
        self.objects
            .get(id)
            .into_iter()
            .flat_map(move |objects| objects.range(range))
    }

    /// Writes an object, unless it is what is there.
    pub(super) fn put(&mut self, resource: &Resource, key: Key, value: Value) -> Arc<Stored> {
        let id = resource.id();
        let old = self.get(&id, &key).cloned();
        if let Some(old) = &old
            && same(&old.value, &value)
        {
            return Arc::clone(old);
        }
        let new = Arc::new(Stored::new(value, self.version() + 1));
        self.objects
            .entry(id.clone())
            .or_default()
            .insert(key, Arc::clone(&new));
        if id.plural == "customresourcedefinitions"
            && let Some(resource) = Resource::custom(&new.value)
        {
            self.kinds.add(resource);
        }
        self.record(id, old, Some(Arc::clone(&new)));
        new
    }

    /// Takes an object away, and all that cannot be without it.
    pub(super) fn remove(&mut self, id: &Id, key: &Key) -> Option<Arc<Stored>> {
        let old = self.objects.get_mut(id)?.remove(key)?;
        let last = Arc::new(Stored::new(old.value.clone(), self.version() + 1));
        self.record(id.clone(), Some(Arc::clone(&last)), None);
        if id.plural == "customresourcedefinitions"
            && let Some(resource) = Resource::custom(&last.value)
        {
            let id = resource.id();
            self.remove_where(&id, |_| true);
            self.kinds.remove(&id);
        }
        if *id == Id::new("", "namespaces") {
            let ids: Vec<_> = self.objects.keys().cloned().collect();
            for id in &ids {
                self.remove_where(id, |(namespace, _)| *namespace == key.1);
            }
        }
        Some(last)
    }

    fn remove_where(&mut self, id: &Id, which: impl Fn(&Key) -> bool) {
        let keys: Vec<_> = self
            .all(id)
            .map(|(key, _)| key.clone())
            .filter(|key| which(key))
            .collect();
        for key in &keys {
            self.remove(id, key);
        }
    }

    fn record(&mut self, id: Id, old: Option<Arc<Stored>>, new: Option<Arc<Stored>>) {
        let version = self.version() + 1;
        self.history.push_back(Change {
            version,
            id,
            old,
            new,
        });
        while self.history.len() > HISTORY {
            self.forgotten = self
                .history
                .pop_front()
                .map_or(self.forgotten, |change| change.version);
        }
        self.version.send_replace(version);
    }

    /// What has happened to a resource since `version`, if that is known.
    pub(super) fn since(&self, version: u64, id: &Id) -> Option<Vec<Change>> {
        if version < self.forgotten {
            return None;
        }
        let first = self.history.partition_point(|change| change.version <= version);
        let changes = self.history.range(first..).filter(|change| change.id == *id);
        Some(changes.cloned().collect())
    }

    /// The oldest version that a watch may begin at.
    pub(super) fn oldest(&self) -> u64 {
        self.forgotten
    }

    /// Forgets what has happened. Versions go on as they do in etcd, and every one that was given out is too old.
    pub(super) fn forget(&mut self) {
        let version = self.version() + 1;
        self.history.clear();
        self.forgotten = version;
        self.version.send_replace(version);
    }
}

/// Whether nothing differs but when somebody has said so.
fn same(old: &Value, new: &Value) -> bool {
    let plain = |value: &Value| {
        let mut value = value.clone();
        for manager in value["metadata"]["managedFields"]
            .as_array_mut()
            .into_iter()
            .flatten()
        {
            manager["time"] = Value::Null;
        }
        value["metadata"]["resourceVersion"] = Value::Null;
        value
    };
    old.get("spec") == new.get("spec") && old.get("status") == new.get("status") && plain(old) == plain(new)
}
