//! What the server says it serves.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    kinds::{Resource, Version},
    refusal::Refusal,
    store::Store,
};

/// The version whose behaviour this server has.
const MINOR: &str = "36";

/// The document at a path.
pub(super) fn document(store: &Store, path: &str) -> Result<Value, Refusal> {
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    Ok(match parts.as_slice() {
        ["version"] => json!({
            "major": "1", "minor": MINOR, "gitVersion": format!("v1.{MINOR}.0"), "gitCommit": "", "gitTreeState": "clean",
            "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "", "platform": "linux/amd64",
        }),
        ["api"] => json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        ["api", "v1"] => resources(store, "", "v1")?,
        ["apis"] => {
            let names: BTreeSet<_> = store
                .kinds
                .iter()
                .map(|resource| resource.group.as_str())
                .collect();
            let groups: Vec<_> = names
                .into_iter()
                .filter(|name| !name.is_empty())
                .filter_map(|name| group(store, name))
                .collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["apis", name] => {
            let mut group = group(store, name).ok_or_else(Refusal::unserved)?;
            group["kind"] = json!("APIGroup");
            group["apiVersion"] = json!("v1");
            group
        }
        ["apis", group, version] => resources(store, group, version)?,
        _ => return Err(Refusal::unserved()),
    })
}

/// A group with its versions, the preferred one first.
fn group(store: &Store, name: &str) -> Option<Value> {
    let mut versions: Vec<&str> = Vec::new();
    for resource in store.kinds.iter().filter(|resource| resource.group == name) {
        for version in &resource.versions {
            if !versions.contains(&version.name.as_str()) {
                versions.push(&version.name);
            }
        }
    }
    let shown = |version: &&str| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let list: Vec<_> = versions.iter().map(shown).collect();
    Some(json!({"name": name, "versions": list, "preferredVersion": list.first()?}))
}

/// The resources of one version of a group.
fn resources(store: &Store, group: &str, version: &str) -> Result<Value, Refusal> {
    let mut list = Vec::new();
    for resource in store.kinds.iter().filter(|resource| resource.group == group) {
        if let Some(found) = resource.version(version) {
            list.extend(entries(resource, found));
        }
    }
    if list.is_empty() {
        return Err(Refusal::unserved());
    }
    let group_version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    Ok(
        json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list}),
    )
}

fn entries(resource: &Resource, version: &Version) -> Vec<Value> {
    let verbs = [
        "create",
        "delete",
        "deletecollection",
        "get",
        "list",
        "patch",
        "update",
        "watch",
    ];
    let mut entries = vec![json!({
        "name": resource.plural,
        "singularName": resource.kind.to_lowercase(),
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": verbs,
        "shortNames": resource.short,
        "categories": resource.categories,
    })];
    if version.status {
        entries.push(json!({
            "name": format!("{}/status", resource.plural),
            "singularName": "",
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": ["get", "patch", "update"],
        }));
    }
    entries
}
