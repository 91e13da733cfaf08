//! Server-side apply, and whose the fields are.
//!
//! As <https://kubernetes.io/docs/reference/using-api/server-side-apply/> tells it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    fields::{self, Fields, Items, Path, Shape},
    meta,
    refusal::Refusal,
};

/// Who writes, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writer<'a> {
    pub(super) manager: &'a str,
    /// `Apply` or `Update`.
    pub(super) operation: &'static str,
    pub(super) api_version: &'a str,
    pub(super) subresource: &'a str,
}

/// What a write through a path may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    All,
    AllButStatus,
    Status,
}

/// Somebody applies something.
#[derive(Debug)]
pub(super) struct Application<'a> {
    pub(super) live: Option<&'a Value>,
    pub(super) wanted: &'a Value,
    pub(super) schema: &'a Value,
    pub(super) writer: Writer<'a>,
    pub(super) force: bool,
    pub(super) reach: Reach,
}

/// An entry of `managedFields`.
#[derive(Clone, Debug)]
struct Entry {
    head: Value,
    fields: Fields,
}

impl Entry {
    fn new(writer: &Writer, fields: Fields) -> Self {
        let mut head = json!({
            "manager": writer.manager,
            "operation": writer.operation,
            "apiVersion": writer.api_version,
            "fieldsType": "FieldsV1",
            "time": meta::now(),
        });
        if !writer.subresource.is_empty() {
            head["subresource"] = json!(writer.subresource);
        }
        Self { head, fields }
    }

    fn is_of(&self, writer: &Writer) -> bool {
        meta::text(&self.head, "manager") == writer.manager
            && meta::text(&self.head, "operation") == writer.operation
            && meta::text(&self.head, "subresource") == writer.subresource
    }

    /// As a conflict names it.
    fn shown(&self) -> String {
        let part = |name| meta::text(&self.head, name);
        let mut shown = format!("\"{}\"", part("manager"));
        if !part("subresource").is_empty() {
            shown = format!("{shown} with subresource \"{}\"", part("subresource"));
        }
        if part("operation") == "Update" {
            shown = format!("{shown} using {}", part("apiVersion"));
        }
        shown
    }

    fn value(&self) -> Value {
        let mut value = self.head.clone();
        value["fieldsV1"] = self.fields.tree();
        value
    }
}

fn entries(object: &Value) -> Vec<Entry> {
    let list = object["metadata"]["managedFields"].as_array();
    list.into_iter()
        .flatten()
        .map(|entry| Entry {
            head: entry.clone(),
            fields: Fields::parse(&entry["fieldsV1"]),
        })
        .collect()
}

/// Writes the entries that own anything.
fn put(object: &mut Value, entries: &[Entry]) {
    let list = entries
        .iter()
        .filter(|entry| !entry.fields.0.is_empty())
        .map(Entry::value)
        .collect();
    object["metadata"]["managedFields"] = Value::Array(list);
}

/// Notes who owns what after a write that is no application: what it has changed is the writer's.
pub(super) fn note(old: Option<&Value>, new: &mut Value, schema: &Value, writer: &Writer) {
    let mut entries = old.map(entries).unwrap_or_default();
    let before = old.map(|old| Fields::of(old, schema)).unwrap_or_default();
    let after = Fields::of(new, schema);
    let differs = |path: &&Path| old.is_none_or(|old| has_changed(old, new, path));
    let changed: BTreeSet<Path> = after.0.iter().filter(differs).cloned().collect();
    let is_lost =
        |path: &Path| changed.contains(path) || (before.0.contains(path) && !after.0.contains(path));
    for entry in &mut entries {
        entry.fields.0.retain(|path| !is_lost(path));
    }
    if !changed.is_empty() {
        let mine = entries.iter().position(|entry| entry.is_of(writer));
        let mut fields = mine.map(|place| entries.remove(place).fields).unwrap_or_default();
        fields.0.extend(changed);
        entries.push(Entry::new(writer, fields));
    }
    put(new, &entries);
}

/// Whether the value at a path is another one. An item of a list is the same as long as it is there.
fn has_changed(old: &Value, new: &Value, path: &Path) -> bool {
    let (old, new) = (fields::get(old, path), fields::get(new, path));
    if path.last().is_some_and(|part| part.starts_with("k:")) {
        old.is_some() != new.is_some()
    } else {
        old != new
    }
}

/// Merges what is applied into what is there, and notes whose it is.
pub(super) fn apply(application: &Application) -> Result<Value, Refusal> {
    let Application {
        live,
        wanted,
        schema,
        writer,
        force,
        reach,
    } = application;
    let wanted = within(wanted, *reach);
    let applied = Fields::of(&wanted, schema);
    let mut entries = live.map(entries).unwrap_or_default();
    let mine = entries.iter().position(|entry| entry.is_of(writer));
    let before = mine.map(|place| entries.remove(place).fields).unwrap_or_default();

    let mut merged = live.cloned().unwrap_or_else(|| json!({}));
    merge(&mut merged, &wanted, Shape::root(schema));
    let differs = |path: &&Path| live.is_none_or(|live| has_changed(live, &merged, path));
    let changed: Vec<&Path> = applied.0.iter().filter(differs).collect();
    let mut conflicts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in &mut entries {
        for path in &changed {
            if entry.fields.0.remove(*path) {
                conflicts
                    .entry(entry.shown())
                    .or_default()
                    .push(fields::shown(path));
            }
        }
    }
    if !conflicts.is_empty() && !force {
        return Err(Refusal::owned_by_others(&conflicts));
    }
    prune(&mut merged, &before, &applied, &entries);
    entries.push(Entry::new(writer, applied));
    put(&mut merged, &entries);
    Ok(merged)
}

/// Only what the path of the request reaches.
fn within(wanted: &Value, reach: Reach) -> Value {
    let mut wanted = wanted.clone();
    let Value::Object(parts) = &mut wanted else {
        return wanted;
    };
    match reach {
        Reach::All => {}
        Reach::AllButStatus => drop(parts.remove("status")),
        Reach::Status => {
            parts.retain(|name, _| ["apiVersion", "kind", "metadata", "status"].contains(&name.as_str()));
            let metadata = parts.get_mut("metadata").and_then(Value::as_object_mut);
            if let Some(metadata) = metadata {
                metadata.retain(|name, _| {
                    !["labels", "annotations", "finalizers", "ownerReferences"].contains(&name.as_str())
                });
            }
        }
    }
    wanted
}

fn merge(live: &mut Value, wanted: &Value, shape: Shape) {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) if !shape.is_atom() => {
            for (name, value) in wanted {
                match live.get_mut(name) {
                    Some(live) => merge(live, value, shape.field(name)),
                    None => drop(live.insert(name.clone(), value.clone())),
                }
            }
        }
        (Value::Array(live), Value::Array(wanted)) => match shape.items() {
            Items::Atomic => live.clone_from(wanted),
            Items::Set => {
                for item in wanted {
                    if !live.contains(item) {
                        live.push(item.clone());
                    }
                }
            }
            Items::Map(keys) => {
                for item in wanted {
                    let key = shape.key(&keys, item);
                    match live.iter_mut().find(|live| shape.key(&keys, live) == key) {
                        Some(live) => merge(live, item, shape.item()),
                        None => live.push(item.clone()),
                    }
                }
            }
        },
        (live, wanted) => *live = wanted.clone(),
    }
}

/// Takes away what the writer has applied before and does not any longer, unless it is somebody else's, too.
fn prune(merged: &mut Value, before: &Fields, applied: &Fields, others: &[Entry]) {
    let is_owned = |path: &Path| {
        applied.contains_below(path) || others.iter().any(|entry| entry.fields.contains_below(path))
    };
    for path in &before.0 {
        if !is_owned(path) {
            fields::remove(merged, path, &|path| is_owned(&path.to_vec()));
        }
    }
}
