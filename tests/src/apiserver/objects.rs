//! Reads and writes of single objects.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    apply,
    call::{Call, Verb},
    delete,
    kinds::{Resource, Version},
    meta,
    refusal::{Fault, Refusal},
    schema,
    store::{Key, Store, Stored},
};

/// The code of HTTP and the object that is answered with.
pub(super) type Answer = (u16, Value);

/// A call, and what it is about.
pub(super) struct Subject<'a> {
    pub(super) call: &'a Call,
    pub(super) resource: &'a Resource,
    version: &'a Version,
    pub(super) key: Key,
}

/// Does what is asked for. Lists and watches are answered elsewhere.
pub(super) fn serve(store: &mut Store, call: &Call) -> Result<Answer, Refusal> {
    let target = &call.target;
    let found = store.kinds.find(&target.group, &target.version, &target.plural);
    let resource = Arc::clone(found.ok_or_else(Refusal::unserved)?);
    let version = resource.version(&target.version).ok_or_else(Refusal::unserved)?;
    let subject = Subject {
        call,
        resource: &resource,
        version,
        key: target.key(),
    };
    match target.subresource.as_deref() {
        None => {}
        Some("status") if version.status && call.verb != Verb::Create => {}
        Some(_) => return Err(Refusal::unserved()),
    }
    if resource.namespaced != target.namespace.is_some() && call.verb != Verb::Deletecollection {
        return Err(Refusal::unserved());
    }
    match call.verb {
        Verb::Get => {
            let stored = subject.existing(store)?;
            Ok((200, subject.shown(stored)))
        }
        Verb::Create => subject.create(store, call.object()?),
        Verb::Update => subject.update(store, call.object()?),
        Verb::Patch => subject.patch(store),
        Verb::Delete => subject.delete(store),
        Verb::Deletecollection => subject.delete_all(store),
        Verb::List | Verb::Watch => Err(Refusal::not_allowed()),
    }
}

impl Subject<'_> {
    pub(super) fn api_version(&self) -> String {
        self.resource.api_version(&self.version.name)
    }

    pub(super) fn existing<'a>(&self, store: &'a Store) -> Result<&'a Arc<Stored>, Refusal> {
        let found = store.get(&self.resource.id(), &self.key);
        found.ok_or_else(|| Refusal::not_found(self.resource, &self.key.1))
    }

    pub(super) fn shown(&self, stored: &Stored) -> Value {
        stored.value(&self.api_version())
    }

    fn writes_status(&self) -> bool {
        self.call.target.subresource.is_some()
    }

    fn create(&self, store: &mut Store, mut object: Value) -> Result<Answer, Refusal> {
        let name = self.accept(&mut object)?;
        if !meta::text(&object, "metadata.resourceVersion").is_empty() {
            let message = "resourceVersion should not be set on objects to be created";
            return Err(Refusal::bad_request(message));
        }
        let key = (self.key.0.clone(), name);
        if store.get(&self.resource.id(), &key).is_some() {
            return Err(Refusal::exists(self.resource, &key.1));
        }
        self.place(store, &key, None, object, Writer::Update)
    }

    /// Checks that a body is an object of this kind at this place, and says what it is called.
    fn accept(&self, object: &mut Value) -> Result<String, Refusal> {
        let api_version = self.api_version();
        if object["kind"] != self.resource.kind || object["apiVersion"] != api_version {
            let message = format!(
                "{} in version {} cannot be handled as a {} in version {api_version}",
                object["kind"], object["apiVersion"], self.resource.kind
            );
            return Err(Refusal::bad_request(message));
        }
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        let metadata = &mut object["metadata"];
        let prefix = metadata["generateName"].as_str().unwrap_or_default();
        if metadata["name"].as_str().unwrap_or_default().is_empty() && !prefix.is_empty() {
            metadata["name"] = json!(format!("{prefix}{}", &meta::uid()?[..5]));
        }
        let name = metadata["name"].as_str().unwrap_or_default().to_owned();
        if name.is_empty() {
            let fault = Fault::required("metadata.name", "name or generateName is required");
            return Err(Refusal::invalid(self.resource, "", &[fault]));
        }
        if !self.key.1.is_empty() && self.key.1 != name {
            let message = format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                self.key.1
            );
            return Err(Refusal::bad_request(message));
        }
        if self.resource.namespaced {
            let namespace = metadata["namespace"].as_str().unwrap_or(&self.key.0).to_owned();
            if namespace != self.key.0 {
                let message =
                    "the namespace of the provided object does not match the namespace sent on the request";
                return Err(Refusal::bad_request(message));
            }
            metadata["namespace"] = json!(namespace);
        }
        Ok(name)
    }

    fn update(&self, store: &mut Store, mut object: Value) -> Result<Answer, Refusal> {
        self.accept(&mut object)?;
        let old = Arc::clone(self.existing(store)?);
        let version = meta::text(&object, "metadata.resourceVersion");
        if version.is_empty() && self.resource.custom {
            let fault = Fault::new(
                "metadata.resourceVersion",
                "FieldValueInvalid",
                "Invalid value: 0x0: must be specified for an update",
            );
            return Err(Refusal::invalid(self.resource, &self.key.1, &[fault]));
        }
        self.place(store, &self.key, Some(&old), object, Writer::Update)
    }

    fn patch(&self, store: &mut Store) -> Result<Answer, Refusal> {
        let old = store.get(&self.resource.id(), &self.key).cloned();
        let patch = self.call.object()?;
        match self.call.content.as_str() {
            "application/merge-patch+json" => {
                let old = old.ok_or_else(|| Refusal::not_found(self.resource, &self.key.1))?;
                let mut object = self.shown(&old);
                merge(&mut object, &patch);
                self.accept(&mut object)?;
                self.place(store, &self.key, Some(&old), object, Writer::Update)
            }
            "application/apply-patch+yaml" => self.apply(store, old.as_ref(), patch),
            _ => Err(Refusal::unsupported(
                "application/merge-patch+json, application/apply-patch+yaml",
            )),
        }
    }

    fn apply(
        &self,
        store: &mut Store,
        old: Option<&Arc<Stored>>,
        mut patch: Value,
    ) -> Result<Answer, Refusal> {
        if self.call.query.get("fieldManager").is_empty() {
            let message = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch";
            return Err(Refusal::bad_request(message));
        }
        if patch["metadata"]["managedFields"].is_array() {
            return Err(Refusal::bad_request("metadata.managedFields must be nil"));
        }
        self.accept(&mut patch)?;
        if old.is_none() && self.writes_status() {
            return Err(Refusal::not_found(self.resource, &self.key.1));
        }
        let live = old.map(|old| self.shown(old));
        let merged = apply::apply(&apply::Application {
            live: live.as_ref(),
            wanted: &patch,
            schema: &self.version.schema,
            writer: self.writer("Apply"),
            force: self.call.query.is_true("force"),
            reach: self.reach(),
        })?;
        self.place(store, &self.key, old, merged, Writer::Apply)
    }

    /// Which fields a write through this path may change.
    fn reach(&self) -> apply::Reach {
        match (self.writes_status(), self.version.status) {
            (true, _) => apply::Reach::Status,
            (false, true) => apply::Reach::AllButStatus,
            (false, false) => apply::Reach::All,
        }
    }

    fn writer<'a>(&'a self, operation: &'static str) -> apply::Writer<'a> {
        apply::Writer {
            manager: self.call.manager(),
            operation,
            api_version: &self.call.target.version,
            subresource: self.call.target.subresource.as_deref().unwrap_or_default(),
        }
    }

    /// The last steps of every write: what the server itself has to say, validation, the store.
    fn place(
        &self,
        store: &mut Store,
        key: &Key,
        old: Option<&Arc<Stored>>,
        mut object: Value,
        writer: Writer,
    ) -> Result<Answer, Refusal> {
        let shown = old.map(|old| self.shown(old));
        if let Some(shown) = &shown {
            self.keep(shown, &mut object)?;
        } else {
            self.begin(store, &mut object)?;
        }
        let dropped = schema::complete(self.resource, self.version, &mut object)?;
        self.refuse_unknown(&dropped, writer)?;
        schema::check(self.resource, self.version, shown.as_ref(), &object)
            .map_err(|faults| Refusal::invalid(self.resource, &key.1, &faults))?;
        self.count(shown.as_ref(), &mut object);
        if let Writer::Update = writer {
            let writer = self.writer("Update");
            apply::note(shown.as_ref(), &mut object, &self.version.schema, &writer);
        }
        if self.resource.plural == "customresourcedefinitions" {
            establish(&mut object);
        }
        let code = if old.is_some() { 200 } else { 201 };
        if self.call.query.get("dryRun") == "All" {
            return Ok((code, object));
        }
        let stored = store.put(self.resource, key.clone(), object);
        let finished = !stored.value["metadata"]["deletionTimestamp"].is_null()
            && !delete::has_finalizers(&stored.value);
        if finished {
            store.remove(&self.resource.id(), key);
        }
        Ok((code, self.shown(&stored)))
    }

    /// Fields that nobody knows are dropped, unless the request or the way of writing forbids it.
    fn refuse_unknown(&self, dropped: &[String], writer: Writer) -> Result<(), Refusal> {
        let Some(first) = dropped.first() else {
            return Ok(());
        };
        match writer {
            Writer::Apply => Err(Refusal::bad_request(format!(
                "failed to create typed patch object ({}/{}; {}, Kind={}): .{first}: field not declared in schema",
                self.key.0,
                self.key.1,
                self.api_version(),
                self.resource.kind
            ))),
            Writer::Update if self.call.query.get("fieldValidation") == "Strict" => {
                let list: Vec<_> = dropped
                    .iter()
                    .map(|field| format!("unknown field {field:?}"))
                    .collect();
                let message = format!("strict decoding error: {}", list.join(", "));
                Err(Refusal::bad_request(message))
            }
            Writer::Update => Ok(()),
        }
    }

    fn begin(&self, store: &Store, object: &mut Value) -> Result<(), Refusal> {
        let namespace = (String::new(), self.key.0.clone());
        if self.resource.namespaced {
            let found = store
                .kinds
                .find("", "v1", "namespaces")
                .filter(|namespaces| store.get(&namespaces.id(), &namespace).is_none());
            if let Some(namespaces) = found {
                return Err(Refusal::not_found(namespaces, &namespace.1));
            }
        }
        meta::stamp(object)?;
        meta::carry(object, &Value::Null, &["metadata", "deletionTimestamp"]);
        // Nodes come with their status: kubelets register that way.
        if self.version.status && self.resource.plural != "nodes" {
            meta::carry(object, &Value::Null, &["status"]);
        }
        match self.resource.plural.as_str() {
            "namespaces" => object["status"] = json!({"phase": "Active"}),
            "pods" => object["status"] = json!({"phase": "Pending"}),
            _ => {}
        }
        Ok(())
    }

    /// Keeps what this write may not change.
    fn keep(&self, old: &Value, object: &mut Value) -> Result<(), Refusal> {
        for (path, name) in [
            ("metadata.resourceVersion", "resourceVersion"),
            ("metadata.uid", "uid"),
        ] {
            let wanted = meta::text(object, path);
            if !wanted.is_empty() && wanted != meta::text(old, path) {
                if name == "uid" {
                    let why = format!(
                        "Precondition failed: UID in precondition: {wanted}, UID in object meta: {}",
                        meta::text(old, path)
                    );
                    return Err(Refusal::conflict(self.resource, &self.key.1, &why));
                }
                return Err(Refusal::modified(self.resource, &self.key.1));
            }
        }
        for name in [
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "deletionTimestamp",
            "generation",
        ] {
            meta::carry(object, old, &["metadata", name]);
        }
        if self.writes_status() {
            let mut kept = old.clone();
            meta::carry(&mut kept, object, &["status"]);
            meta::carry(&mut kept, object, &["metadata", "managedFields"]);
            // Kinds of the core take these by this way, too; custom resources do not.
            if self.resource.group.is_empty() {
                meta::carry(&mut kept, object, &["metadata", "labels"]);
                meta::carry(&mut kept, object, &["metadata", "annotations"]);
            }
            *object = kept;
        } else if self.version.status {
            meta::carry(object, old, &["status"]);
        }
        Ok(())
    }

    /// Counts a change of what is wanted.
    fn count(&self, old: Option<&Value>, object: &mut Value) {
        let Some(old) = old else { return };
        let wanted = |object: &Value| {
            let mut wanted = object.clone();
            for name in ["metadata", "apiVersion"] {
                wanted[name] = Value::Null;
            }
            if self.version.status {
                wanted["status"] = Value::Null;
            }
            wanted
        };
        if wanted(old) != wanted(object) {
            let generation = old["metadata"]["generation"].as_u64().unwrap_or(0);
            object["metadata"]["generation"] = json!(generation + 1);
        }
    }
}

/// How a write says what it wants.
#[derive(Clone, Copy, Debug)]
enum Writer {
    /// Whole, or as a difference.
    Update,
    /// By server-side apply, which has said already whose the fields are.
    Apply,
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in patch {
        if value.is_null() {
            target.as_object_mut().map(|target| target.remove(name));
        } else {
            merge(&mut target[name], value);
        }
    }
}

/// Says of a CustomResourceDefinition that its kind is served, as it is from then on.
fn establish(definition: &mut Value) {
    let now = meta::now();
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now});
    if definition["status"]["conditions"].is_array() {
        return;
    }
    definition["status"] = json!({
        "acceptedNames": definition["spec"]["names"],
        "storedVersions": [definition["spec"]["versions"][0]["name"]],
        "conditions": [
            condition("NamesAccepted", "NoConflicts", "no conflicts found"),
            condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        ],
    });
}
