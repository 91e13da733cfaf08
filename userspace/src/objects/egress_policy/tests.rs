use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};

use super::{
    EgressPolicy,
    crd::{EgressPolicyManifest, EgressPolicyResource, definition},
};

const COMMITTED: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/base/crds.yaml"));

/// The schema of the only version.
fn schema() -> JSONSchemaProps {
    let version = definition().spec.versions.pop().expect("a version");
    version
        .schema
        .and_then(|schema| schema.open_api_v3_schema)
        .expect("a schema")
}

/// Calls `with` for the schema of every field, with its path.
fn each_field(path: &str, schema: &JSONSchemaProps, with: &mut impl FnMut(&str, &JSONSchemaProps)) {
    for (name, field) in schema.properties.iter().flatten() {
        let path = format!("{path}.{name}");
        with(&path, field);
        each_field(&path, field, with);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &schema.items {
        let path = format!("{path}[]");
        with(&path, items);
        each_field(&path, items, with);
    }
}

#[test]
fn the_committed_definition_is_that_of_the_types() {
    let committed: CustomResourceDefinition = serde_saphyr::from_str(COMMITTED).expect("a definition");
    assert!(
        committed == definition(),
        "deploy/base/crds.yaml is stale: run `cargo xtask crds`"
    );
}

#[test]
fn every_field_is_described_and_bounded() {
    let mut bad = Vec::new();
    each_field("", &schema(), &mut |path, field| {
        let is = |kind: &str| field.type_.as_deref() == Some(kind);
        if field.description.is_none() && !path.ends_with("[]") {
            bad.push(format!("{path} has no description"));
        }
        if is("array") && field.max_items.is_none() {
            bad.push(format!("{path} has no maxItems"));
        }
        if is("array") && field.x_kubernetes_list_type.is_none() {
            bad.push(format!("{path} does not say how it is merged"));
        }
        // What is a word or a time is bounded by being that; conditions are as Kubernetes has them.
        let bounded = field.max_length.is_some() || field.enum_.is_some() || field.format.is_some();
        let others = path.starts_with(".status.conditions[]")
            || path.matches('.').count() == 2 && path.starts_with(".status");
        if is("string") && !bounded && !others {
            bad.push(format!("{path} has no maxLength"));
        }
        if field.nullable.is_some() {
            bad.push(format!("{path} may be null"));
        }
    });
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn what_may_be_left_out_is_filled_in_as_the_agent_does() {
    let mut defaults = Vec::new();
    each_field("", &schema(), &mut |path, field| {
        defaults.extend(
            field
                .default
                .as_ref()
                .map(|default| format!("{path}: {}", default.0)),
        );
    });
    let filled_in = [
        ".spec.gatewayDestinations: \"Registry\"",
        ".spec.mode: \"Enforce\"",
        ".spec.onDeny: \"Reject\"",
        ".spec.subjects.hostNetwork: false",
    ];
    assert_eq!(defaults, filled_in);
    let read = |spec: &str| {
        let head = "apiVersion: sluice.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {name: p}";
        let manifest: EgressPolicyManifest =
            serde_saphyr::from_str(&format!("{head}\nspec: {spec}\n")).expect("a manifest");
        EgressPolicy::try_from(manifest).expect("a policy")
    };
    let said =
        "{gatewayDestinations: Registry, mode: Enforce, onDeny: Reject, subjects: {hostNetwork: false}}";
    assert_eq!(read("{}"), read(said));
}

#[test]
fn json_of_an_api_server_is_read_like_a_manifest() {
    let yaml = "
apiVersion: sluice.dev/v1alpha1
kind: EgressPolicy
metadata: {name: p, uid: u, generation: 7}
spec:
  gateways: [{namespace: egress, podSelector: {matchExpressions: [{key: a, operator: In, values: [b]}]}}]
  exceptions:
  - name: time
    podSelector: {}
    to: [{cidr: 192.0.2.0/24, except: [192.0.2.128/25]}]
    ports: [{protocol: UDP, port: 123, endPort: 124}]
";
    let read = |manifest: EgressPolicyManifest| EgressPolicy::try_from(manifest).expect("a policy");
    let from_yaml = read(serde_saphyr::from_str(yaml).expect("a manifest"));
    let resource: EgressPolicyResource = serde_saphyr::from_str(yaml).expect("a resource");
    let json = serde_json::to_string(&resource).expect("JSON");
    let from_json = read(serde_json::from_str(&json).expect("a manifest"));
    assert_eq!(from_json, from_yaml);
    assert_eq!(
        (from_json.uid.as_deref(), from_json.generation),
        (Some("u"), Some(7))
    );
}
