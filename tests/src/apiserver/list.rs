//! Lists, whole or in pages.

use std::{ops::Bound, sync::Arc};

use axum::body::Bytes;
use serde_json::{Value, json};

use super::{
    call::Call,
    kinds::Resource,
    refusal::Refusal,
    selectors::Selector,
    store::{Key, Store, Stored},
};

pub(super) fn selector(resource: &Resource, call: &Call) -> Result<Selector, Refusal> {
    let selector = Selector::parse(call.query.get("labelSelector"), call.query.get("fieldSelector"))?;
    selector.check(resource)?;
    Ok(selector)
}

/// Whether an object is in the namespace that is asked for, if one is.
pub(super) fn is_within(key: &str, call: &Call) -> bool {
    call.target
        .namespace
        .as_deref()
        .is_none_or(|namespace| namespace == key)
}

/// All objects that a call is about.
pub(super) fn select(store: &Store, resource: &Resource, call: &Call) -> Result<Vec<Arc<Stored>>, Refusal> {
    let selector = selector(resource, call)?;
    let id = resource.id();
    let found = store
        .all(&id)
        .filter(|(key, stored)| is_within(&key.0, call) && selector.accepts(&stored.value));
    Ok(found.map(|(_, stored)| Arc::clone(stored)).collect())
}

/// A list that is to be written.
pub(super) struct List {
    pub(super) resource: Arc<Resource>,
    pub(super) version: u64,
    pub(super) items: Vec<Arc<Stored>>,
    /// Where the next page begins, and how many there are from there on if that is known.
    next: Option<(String, Option<usize>)>,
}

/// Where a page begins.
struct Continue {
    version: u64,
    after: Key,
}

impl Continue {
    fn parse(token: &str) -> Option<Self> {
        let mut parts = token.splitn(3, ':');
        Some(Self {
            version: parts.next()?.parse().ok()?,
            after: (parts.next()?.to_owned(), parts.next()?.to_owned()),
        })
    }

    fn token(&self) -> String {
        format!("{}:{}:{}", self.version, self.after.0, self.after.1)
    }
}

/// What a call asks for. Of a list in pages, the version stays that of its first page; what has changed since then
/// comes with the watch that begins there.
pub(super) fn list(store: &Store, call: &Call) -> Result<List, Refusal> {
    let target = &call.target;
    let resource = store
        .kinds
        .find(&target.group, &target.version, &target.plural)
        .ok_or_else(Refusal::unserved)?;
    if target.namespace.is_some() && !resource.namespaced {
        return Err(Refusal::unserved());
    }
    let selector = selector(resource, call)?;
    let token = call.query.get("continue");
    let (version, after) = if token.is_empty() {
        (read_version(store, resource, call)?, Bound::Unbounded)
    } else {
        let place = Continue::parse(token)
            .ok_or_else(|| Refusal::bad_request("continue key is not valid: encoding is broken"))?;
        if place.version < store.oldest() {
            let message = "The provided continue parameter is too old to display a consistent list result. You can \
                           start a new list without the continue parameter.";
            return Err(Refusal::expired(message));
        }
        (place.version, Bound::Excluded(place.after))
    };
    let limit = call.query.number("limit")?.filter(|limit| *limit > 0);
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let id = resource.id();
    let mut found = store
        .after(&id, &after)
        .filter(|(key, stored)| is_within(&key.0, call) && selector.accepts(&stored.value));
    let mut items = Vec::new();
    let mut last = None;
    for (key, stored) in found.by_ref().take(limit) {
        last = Some(key);
        items.push(Arc::clone(stored));
    }
    let rest = found.count();
    let next = last.filter(|_| rest > 0).map(|key| {
        let after = key.clone();
        let known = selector.is_everything().then_some(rest);
        (Continue { version, after }.token(), known)
    });
    Ok(List {
        resource: Arc::clone(resource),
        version,
        items,
        next,
    })
}

/// The version of the list that is asked for: the newest one unless it must be exactly another.
fn read_version(store: &Store, resource: &Resource, call: &Call) -> Result<u64, Refusal> {
    let current = store.version();
    let wanted = call.query.number("resourceVersion")?.unwrap_or(0);
    if wanted > current {
        return Err(Refusal::too_large(wanted, current));
    }
    if call.query.get("resourceVersionMatch") == "Exact" && wanted != current {
        let unchanged = store
            .since(wanted, &resource.id())
            .is_some_and(|changes| changes.is_empty());
        if !unchanged {
            let message = format!("The provided resource version is too old: {wanted} ({current})");
            return Err(Refusal::expired(message));
        }
        return Ok(wanted);
    }
    Ok(current)
}

impl List {
    /// What is in it, as values.
    pub(super) fn objects(&self, version: &str) -> Vec<Value> {
        let api_version = self.resource.api_version(version);
        self.items
            .iter()
            .map(|stored| stored.value(&api_version))
            .collect()
    }

    /// As a body.
    pub(super) fn body(&self, version: &str) -> Bytes {
        let api_version = self.resource.api_version(version);
        let mut metadata = json!({"resourceVersion": self.version.to_string()});
        if let Some((token, rest)) = &self.next {
            metadata["continue"] = json!(token);
            if let Some(rest) = rest {
                metadata["remainingItemCount"] = json!(rest);
            }
        }
        let head = format!(
            "{{\"kind\":\"{}List\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"items\":[",
            self.resource.kind
        );
        let mut body = head.into_bytes();
        for (place, stored) in self.items.iter().enumerate() {
            if place > 0 {
                body.push(b',');
            }
            body.extend_from_slice(&stored.json(&api_version));
        }
        body.extend_from_slice(b"]}");
        Bytes::from(body)
    }
}
