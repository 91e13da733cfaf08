//! CustomResourceDefinitions of others.

use serde_json::{Value, json};

/// Of the Gateway API's Gateway.
pub const GATEWAY: &str = include_str!("crds/gateway.yaml");
/// Of Istio's `ServiceEntry`, in the three versions that Istio serves.
pub const SERVICE_ENTRY: &str = include_str!("crds/service-entry.yaml");

/// One of a namespaced kind in one version that takes anything, for kinds that only lie beside those that matter.
pub fn permissive(api_version: &str, kind: &str, plural: &str) -> Value {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.to_lowercase(), "listKind": format!("{kind}List")},
            "versions": [{
                "name": version, "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}},
            }],
        },
    })
}
