//! Deletions, of one object or of all that a selector names.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    list, meta,
    objects::{Answer, Subject},
    refusal::Refusal,
    store::{Store, Stored},
};

impl Subject<'_> {
    pub(super) fn delete(&self, store: &mut Store) -> Result<Answer, Refusal> {
        let stored = Arc::clone(self.existing(store)?);
        let options = if self.call.body.is_empty() {
            Value::Null
        } else {
            self.call.object()?
        };
        for name in ["uid", "resourceVersion"] {
            let wanted = &options["preconditions"][name];
            let found = &stored.value["metadata"][name];
            if !wanted.is_null() && wanted != found {
                let why =
                    format!("Precondition failed: {name} in precondition: {wanted}, in object meta: {found}");
                return Err(Refusal::conflict(self.resource, &self.key.1, &why));
            }
        }
        Ok((200, self.end(store, &stored)))
    }

    /// Deletes an object, or marks it for those who have to do something first.
    fn end(&self, store: &mut Store, stored: &Stored) -> Value {
        let key = meta::key(&stored.value);
        if has_finalizers(&stored.value) {
            let mut marked = stored.value.clone();
            if marked["metadata"]["deletionTimestamp"].is_null() {
                marked["metadata"]["deletionTimestamp"] = json!(meta::now());
                marked["metadata"]["deletionGracePeriodSeconds"] = json!(0);
            }
            return self.shown(&store.put(self.resource, key, marked));
        }
        store.remove(&self.resource.id(), &key);
        json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Success",
            "details": {
                "name": key.1,
                "group": self.resource.group,
                "kind": self.resource.plural,
                "uid": stored.value["metadata"]["uid"],
            },
        })
    }

    pub(super) fn delete_all(&self, store: &mut Store) -> Result<Answer, Refusal> {
        let found = list::select(store, self.resource, self.call)?;
        let items: Vec<_> = found.iter().map(|stored| self.shown(stored)).collect();
        for stored in &found {
            self.end(store, stored);
        }
        let list = json!({
            "kind": format!("{}List", self.resource.kind),
            "apiVersion": self.api_version(),
            "metadata": {"resourceVersion": store.version().to_string()},
            "items": items,
        });
        Ok((200, list))
    }
}

/// Whether somebody has to do something before it may go.
pub(super) fn has_finalizers(object: &Value) -> bool {
    object["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|list| !list.is_empty())
}
