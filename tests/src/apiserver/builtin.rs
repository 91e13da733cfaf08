//! The kinds that are served without a CustomResourceDefinition.

use serde_json::{Value, json};

use super::kinds::{Resource, Version};

/// Group, version, kind, plural, whether it is namespaced, whether it has a subresource `status`, short names.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    bool,
    bool,
    &'static [&'static str],
);

const ROWS: &[Row] = &[
    ("", "v1", "ConfigMap", "configmaps", true, false, &["cm"]),
    ("", "v1", "Event", "events", true, false, &["ev"]),
    ("", "v1", "Namespace", "namespaces", false, true, &["ns"]),
    ("", "v1", "Node", "nodes", false, true, &["no"]),
    ("", "v1", "Pod", "pods", true, true, &["po"]),
    ("", "v1", "Secret", "secrets", true, false, &[]),
    ("", "v1", "Service", "services", true, true, &["svc"]),
    (
        "",
        "v1",
        "ServiceAccount",
        "serviceaccounts",
        true,
        false,
        &["sa"],
    ),
    (
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        false,
        true,
        &["crd"],
    ),
    ("apps", "v1", "DaemonSet", "daemonsets", true, true, &["ds"]),
    ("apps", "v1", "Deployment", "deployments", true, true, &["deploy"]),
    ("coordination.k8s.io", "v1", "Lease", "leases", true, false, &[]),
    (
        "discovery.k8s.io",
        "v1",
        "EndpointSlice",
        "endpointslices",
        true,
        false,
        &[],
    ),
    ("events.k8s.io", "v1", "Event", "events", true, false, &["ev"]),
    (
        "networking.k8s.io",
        "v1",
        "NetworkPolicy",
        "networkpolicies",
        true,
        false,
        &["netpol"],
    ),
    (
        "networking.k8s.io",
        "v1",
        "ServiceCIDR",
        "servicecidrs",
        false,
        true,
        &[],
    ),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "ClusterRole",
        "clusterroles",
        false,
        false,
        &[],
    ),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "ClusterRoleBinding",
        "clusterrolebindings",
        false,
        false,
        &[],
    ),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "Role",
        "roles",
        true,
        false,
        &[],
    ),
    (
        "rbac.authorization.k8s.io",
        "v1",
        "RoleBinding",
        "rolebindings",
        true,
        false,
        &[],
    ),
    (
        "scheduling.k8s.io",
        "v1",
        "PriorityClass",
        "priorityclasses",
        false,
        false,
        &["pc"],
    ),
];

/// Lists of which server-side apply merges the items, by the keys that name one. All others are replaced whole.
/// Source: the `listMapKey` and `patchMergeKey` markers of Kubernetes' types.
const LISTS: &[(&str, &[&str], &[&str])] = &[
    ("Node", &["status", "conditions"], &["type"]),
    ("Node", &["status", "addresses"], &["type"]),
    ("Namespace", &["status", "conditions"], &["type"]),
    ("Pod", &["status", "conditions"], &["type"]),
    ("Pod", &["status", "podIPs"], &["ip"]),
    ("Pod", &["spec", "containers"], &["name"]),
    ("Pod", &["spec", "initContainers"], &["name"]),
    ("Pod", &["spec", "volumes"], &["name"]),
    ("Service", &["spec", "ports"], &["port", "protocol"]),
    ("Service", &["status", "conditions"], &["type"]),
    ("DaemonSet", &["status", "conditions"], &["type"]),
    ("Deployment", &["status", "conditions"], &["type"]),
    ("CustomResourceDefinition", &["status", "conditions"], &["type"]),
    ("ServiceCIDR", &["status", "conditions"], &["type"]),
];

/// Sets: an item is its own name.
const SETS: &[(&str, &[&str])] = &[("Node", &["spec", "podCIDRs"])];

/// Maps that are replaced whole.
const ATOMS: &[(&str, &[&str])] = &[("Service", &["spec", "selector"])];

pub(super) fn resources() -> impl Iterator<Item = Resource> {
    ROWS.iter().map(
        |&(group, version, kind, plural, namespaced, status, short)| Resource {
            group: group.to_owned(),
            plural: plural.to_owned(),
            kind: kind.to_owned(),
            short: short.iter().map(|&name| name.to_owned()).collect(),
            categories: Vec::new(),
            namespaced,
            custom: false,
            versions: vec![Version {
                name: version.to_owned(),
                schema: schema(kind),
                status,
                columns: Vec::new(),
            }],
        },
    )
}

/// What server-side apply has to know, in the words of a structural schema.
fn schema(wanted: &str) -> Value {
    let mut schema = json!({"type": "object"});
    for (kind, path, keys) in LISTS {
        if *kind == wanted {
            let list =
                json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys});
            place(&mut schema, path, list);
        }
    }
    for (kind, path) in SETS {
        if *kind == wanted {
            place(
                &mut schema,
                path,
                json!({"type": "array", "x-kubernetes-list-type": "set"}),
            );
        }
    }
    for (kind, path) in ATOMS {
        if *kind == wanted {
            place(
                &mut schema,
                path,
                json!({"type": "object", "x-kubernetes-map-type": "atomic"}),
            );
        }
    }
    schema
}

fn place(schema: &mut Value, path: &[&str], leaf: Value) {
    match path {
        [] => *schema = leaf,
        [first, rest @ ..] => place(&mut schema["properties"][*first], rest, leaf),
    }
}
