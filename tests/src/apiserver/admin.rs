//! What a test does to a cluster's objects by itself.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::meta;

/// A request of the test.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) method: &'static str,
    pub(super) path: &'a str,
    pub(super) query: &'static str,
    /// What the body is.
    pub(super) content: &'static str,
    pub(super) body: &'a Value,
}

/// Whoever can be asked for objects. Paths are those of the API, as `/api/v1/nodes/node-1`.
pub(super) trait Admin {
    /// Asks. What the server refuses is an error with its message.
    fn call(&self, request: Request) -> Result<Value>;

    fn get(&self, path: &str) -> Result<Value> {
        self.call(Request {
            method: "GET",
            path,
            query: "",
            content: "",
            body: &Value::Null,
        })
    }

    fn patch(&self, path: &str, change: &Value) -> Result<Value> {
        self.call(Request {
            method: "PATCH",
            path,
            query: "",
            content: "application/merge-patch+json",
            body: change,
        })
    }

    fn delete(&self, path: &str) -> Result<()> {
        let request = Request {
            method: "DELETE",
            path,
            query: "",
            content: "",
            body: &Value::Null,
        };
        self.call(request).map(drop)
    }

    /// Applies every object of a text of YAML.
    fn apply(&self, yaml: &str) -> Result<()> {
        let objects: Vec<Value> =
            serde_saphyr::from_multiple(yaml).with_context(|| format!("this is no YAML:\n{yaml}"))?;
        for object in &objects {
            self.apply_object(object)?;
        }
        Ok(())
    }

    /// Applies an object, with its status. A namespace that is not there is made.
    fn apply_object(&self, object: &Value) -> Result<Value> {
        let place = self.place(object)?;
        if let Some(namespace) = &place.namespace
            && self.get(&format!("/api/v1/namespaces/{namespace}")).is_err()
        {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
            self.apply_object(&namespace)?;
        }
        let apply = |path: &str| {
            self.call(Request {
                method: "PATCH",
                path,
                query: "fieldManager=test&force=true",
                content: "application/apply-patch+yaml",
                body: object,
            })
        };
        let applied = apply(&place.path)?;
        if place.has_status && object["status"].is_object() {
            return apply(&format!("{}/status", place.path));
        }
        Ok(applied)
    }

    /// Finds where an object is, from what the server says it serves.
    fn place(&self, object: &Value) -> Result<Place> {
        let api_version = meta::text(object, "apiVersion");
        let root = if api_version.contains('/') { "apis" } else { "api" };
        let version = format!("/{root}/{api_version}");
        let kind = &object["kind"];
        let missing = || format!("{version} serves no kind {kind}: is its CustomResourceDefinition there?");
        let served = self.get(&version).with_context(missing)?;
        let resources = || served["resources"].as_array().into_iter().flatten();
        let resource = resources()
            .find(|resource| resource["kind"] == *kind && !meta::text(resource, "name").contains('/'))
            .with_context(missing)?;
        let plural = meta::text(resource, "name");
        let namespace = match meta::text(object, "metadata.namespace") {
            _ if resource["namespaced"] != true => None,
            "" => Some("default".to_owned()),
            namespace => Some(namespace.to_owned()),
        };
        let within = namespace
            .as_ref()
            .map(|namespace| format!("/namespaces/{namespace}"))
            .unwrap_or_default();
        let status = format!("{plural}/status");
        Ok(Place {
            path: format!("{version}{within}/{plural}/{}", meta::name(object)),
            namespace,
            has_status: resources().any(|resource| resource["name"] == status),
        })
    }
}

/// Where an object is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) path: String,
    namespace: Option<String>,
    has_status: bool,
}
