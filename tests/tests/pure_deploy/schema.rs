//! Objects held against the schemas of the Kubernetes API.

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::{
    api::{
        apps::v1::DaemonSet,
        core::v1::{ConfigMap, Namespace, ResourceQuota, ServiceAccount},
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    schemars::{JsonSchema, generate::SchemaSettings},
};
use serde_json::{Value, json};

/// Fails if the object is not as its kind's schema has it, or has a field that the schema does not know.
pub(crate) fn check(object: &Value) -> Result<()> {
    let version = object["apiVersion"]
        .as_str()
        .context("an object without apiVersion")?;
    let kind = object["kind"].as_str().context("an object without kind")?;
    let schema = match (version, kind) {
        ("v1", "Namespace") => schema::<Namespace>(),
        ("v1", "ResourceQuota") => schema::<ResourceQuota>(),
        ("v1", "ServiceAccount") => schema::<ServiceAccount>(),
        ("v1", "ConfigMap") => schema::<ConfigMap>(),
        ("apps/v1", "DaemonSet") => schema::<DaemonSet>(),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => schema::<ClusterRole>(),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => schema::<ClusterRoleBinding>(),
        ("rbac.authorization.k8s.io/v1", "Role") => schema::<Role>(),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => schema::<RoleBinding>(),
        // Its schema knows no enumerations and defaults but objects; the tests of the API hold it against a server's rules.
        ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => {
            serde_json::from_value::<CustomResourceDefinition>(object.clone())?;
            return Ok(());
        }
        _ => anyhow::bail!("no schema for {version} {kind}: name it in this test"),
    };
    let validator = jsonschema::validator_for(&schema).with_context(|| format!("the schema of {kind}"))?;
    let faults: Vec<String> = validator
        .iter_errors(object)
        .map(|fault| format!("{}: {fault}", fault.instance_path()))
        .collect();
    let name = &object["metadata"]["name"];
    ensure!(faults.is_empty(), "{kind} {name}: {}", faults.join("; "));
    Ok(())
}

fn schema<T: JsonSchema>() -> Value {
    let mut schema = SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value();
    refuse_unknown(&mut schema);
    schema
}

/// An API server would drop a field that it does not know without a word.
fn refuse_unknown(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.contains_key("properties") && fields.get("type") == Some(&json!("object")) {
                fields.entry("additionalProperties").or_insert(json!(false));
            }
            fields.values_mut().for_each(refuse_unknown);
        }
        Value::Array(items) => items.iter_mut().for_each(refuse_unknown),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
