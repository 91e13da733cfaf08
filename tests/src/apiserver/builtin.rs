//! The kinds that are served without a CustomResourceDefinition.

use k8s_openapi::{
    api::{
        apps::v1::{DaemonSet, Deployment},
        coordination::v1::Lease,
        core::v1::{ConfigMap, Event, Namespace, Node, Pod, ResourceQuota, Secret, Service, ServiceAccount},
        discovery::v1::EndpointSlice,
        events::v1::Event as NewEvent,
        networking::v1::{NetworkPolicy, ServiceCIDR},
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
        scheduling::v1::PriorityClass,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    kinds::{Id, Resource, Version},
    meta,
    refusal::Fault,
    rules,
};

/// A kind.
struct Row {
    /// Group, version, kind and plural.
    names: [&'static str; 4],
    namespaced: bool,
    /// It has a subresource `status`.
    status: bool,
    short: &'static [&'static str],
    /// Reads an object and writes it again: what the kind does not have is gone.
    read: fn(&Value) -> serde_json::Result<Value>,
}

fn read_as<T: Serialize + DeserializeOwned>(object: &Value) -> serde_json::Result<Value> {
    serde_json::to_value(T::deserialize(object)?)
}

const fn row<T: Serialize + DeserializeOwned>(
    names: [&'static str; 4],
    namespaced: bool,
    status: bool,
    short: &'static [&'static str],
) -> Row {
    Row {
        names,
        namespaced,
        status,
        short,
        read: read_as::<T>,
    }
}

const ROWS: &[Row] = &[
    row::<ConfigMap>(["", "v1", "ConfigMap", "configmaps"], true, false, &["cm"]),
    row::<Event>(["", "v1", "Event", "events"], true, false, &["ev"]),
    row::<Namespace>(["", "v1", "Namespace", "namespaces"], false, true, &["ns"]),
    row::<Node>(["", "v1", "Node", "nodes"], false, true, &["no"]),
    row::<Pod>(["", "v1", "Pod", "pods"], true, true, &["po"]),
    row::<ResourceQuota>(
        ["", "v1", "ResourceQuota", "resourcequotas"],
        true,
        true,
        &["quota"],
    ),
    row::<Secret>(["", "v1", "Secret", "secrets"], true, false, &[]),
    row::<Service>(["", "v1", "Service", "services"], true, true, &["svc"]),
    row::<ServiceAccount>(
        ["", "v1", "ServiceAccount", "serviceaccounts"],
        true,
        false,
        &["sa"],
    ),
    row::<CustomResourceDefinition>(
        [
            "apiextensions.k8s.io",
            "v1",
            "CustomResourceDefinition",
            "customresourcedefinitions",
        ],
        false,
        true,
        &["crd"],
    ),
    row::<DaemonSet>(["apps", "v1", "DaemonSet", "daemonsets"], true, true, &["ds"]),
    row::<Deployment>(
        ["apps", "v1", "Deployment", "deployments"],
        true,
        true,
        &["deploy"],
    ),
    row::<Lease>(["coordination.k8s.io", "v1", "Lease", "leases"], true, false, &[]),
    row::<EndpointSlice>(
        ["discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"],
        true,
        false,
        &[],
    ),
    row::<NewEvent>(["events.k8s.io", "v1", "Event", "events"], true, false, &["ev"]),
    row::<NetworkPolicy>(
        ["networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"],
        true,
        false,
        &["netpol"],
    ),
    row::<ServiceCIDR>(
        ["networking.k8s.io", "v1", "ServiceCIDR", "servicecidrs"],
        false,
        true,
        &[],
    ),
    row::<ClusterRole>(
        ["rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles"],
        false,
        false,
        &[],
    ),
    row::<ClusterRoleBinding>(
        [
            "rbac.authorization.k8s.io",
            "v1",
            "ClusterRoleBinding",
            "clusterrolebindings",
        ],
        false,
        false,
        &[],
    ),
    row::<Role>(
        ["rbac.authorization.k8s.io", "v1", "Role", "roles"],
        true,
        false,
        &[],
    ),
    row::<RoleBinding>(
        ["rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings"],
        true,
        false,
        &[],
    ),
    row::<PriorityClass>(
        ["scheduling.k8s.io", "v1", "PriorityClass", "priorityclasses"],
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
    ROWS.iter().map(|row| {
        let [group, version, kind, plural] = row.names.map(str::to_owned);
        let version = Version {
            name: version,
            schema: schema(&kind),
            status: row.status,
            columns: Vec::new(),
        };
        Resource {
            group,
            plural,
            kind,
            short: row.short.iter().map(|&name| name.to_owned()).collect(),
            categories: Vec::new(),
            namespaced: row.namespaced,
            custom: false,
            versions: vec![version],
        }
    })
}

/// What the kind has of an object.
pub(super) fn read(resource: &Resource, object: &Value) -> serde_json::Result<Value> {
    let row = ROWS
        .iter()
        .find(|row| Id::new(row.names[0], row.names[3]) == resource.id());
    row.map_or_else(|| Ok(object.clone()), |row| (row.read)(object))
}

/// The checks that sluice could run into.
pub(super) fn check(resource: &Resource, object: &Value) -> Result<(), Vec<Fault>> {
    let mut faults = Vec::new();
    match resource.kind.as_str() {
        "Event" => check_event(object, &mut faults),
        "CustomResourceDefinition" => check_definition(object, &mut faults),
        "Pod" if object["spec"]["containers"].as_array().is_none_or(Vec::is_empty) => {
            faults.push(Fault::required("spec.containers", ""));
        }
        _ => {}
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

/// As `ValidateEventCreate` of Kubernetes has it.
fn check_event(event: &Value, faults: &mut Vec<Fault>) {
    let is_new = event["apiVersion"] != "v1";
    let [object, controller, instance, note] = if is_new {
        ["regarding", "reportingController", "reportingInstance", "note"]
    } else {
        [
            "involvedObject",
            "reportingComponent",
            "reportingInstance",
            "message",
        ]
    };
    let namespace = match meta::text(event, &format!("{object}.namespace")) {
        "" => "default",
        namespace => namespace,
    };
    if namespace != meta::text(event, "metadata.namespace") {
        let field = format!("{object}.namespace");
        faults.push(Fault::wrong(
            field,
            &json!(namespace),
            "does not match event.namespace",
        ));
    }
    if !is_new && event["eventTime"].is_null() {
        return;
    }
    if event["eventTime"].is_null() {
        faults.push(Fault::required("eventTime", ""));
    }
    for (name, most) in [
        (controller, 63),
        (instance, 128),
        ("action", 128),
        ("reason", 128),
        (note, 1024),
    ] {
        let text = meta::text(event, name);
        if text.is_empty() && name != note {
            faults.push(Fault::required(name, ""));
        }
        if text.len() > most {
            faults.push(Fault::wrong(
                name,
                &event[name],
                &format!("can have at most {most} characters"),
            ));
        }
    }
    if !["Normal", "Warning"].contains(&meta::text(event, "type")) {
        faults.push(Fault::wrong(
            "type",
            &event["type"],
            "has invalid value: must be Normal or Warning",
        ));
    }
}

fn check_definition(definition: &Value, faults: &mut Vec<Fault>) {
    let spec = &definition["spec"];
    let wanted = format!(
        "{}.{}",
        meta::text(spec, "names.plural"),
        meta::text(spec, "group")
    );
    if meta::name(definition) != wanted {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        faults.push(Fault::wrong(
            "metadata.name",
            &definition["metadata"]["name"],
            detail,
        ));
    }
    for (place, version) in spec["versions"].as_array().into_iter().flatten().enumerate() {
        let path = format!("spec.versions[{place}].schema.openAPIV3Schema");
        let schema = &version["schema"]["openAPIV3Schema"];
        if schema["type"] != "object" {
            faults.push(Fault::required(
                format!("{path}.type"),
                "must be object at the root",
            ));
        }
        rules::check_schema(schema, &path, faults);
    }
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
