//! Structural schemas: which fields there are, and what they are if nobody says.

use serde_json::{Value, json};

use super::{
    builtin,
    kinds::{Resource, Version},
    refusal::{Fault, Refusal},
    rules, validate,
};

/// Drops the fields that the schema does not know and fills in defaults. Says which were dropped.
pub(super) fn complete(
    resource: &Resource,
    version: &Version,
    object: &mut Value,
) -> Result<Vec<String>, Refusal> {
    let given = object.clone();
    if resource.custom {
        prune(object, &version.schema, true);
        fill(object, &version.schema);
    } else {
        *object = builtin::read(resource, object).map_err(|error| {
            let api_version = resource.api_version(&version.name);
            let kind = &resource.kind;
            let message =
                format!("{kind} in version \"{api_version}\" cannot be handled as a {kind}: json: {error}");
            Refusal::bad_request(message)
        })?;
    }
    let mut dropped = Vec::new();
    missing(&given, object, "", &mut dropped);
    Ok(dropped)
}

/// Whether the object is one that its schema and the rules in it permit.
pub(super) fn check(
    resource: &Resource,
    version: &Version,
    old: Option<&Value>,
    object: &Value,
) -> Result<(), Vec<Fault>> {
    if !resource.custom {
        return builtin::check(resource, object);
    }
    let mut faults = Vec::new();
    validate::validate(object, &version.schema, "", &mut faults);
    // Rules may rely on what comes before them.
    let blocks = |fault: &Fault| fault.reason != "FieldValueInvalid" && fault.reason != "FieldValueDuplicate";
    if !faults.iter().any(blocks) {
        rules::check(object, old, &version.schema, "", &mut faults);
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}

fn preserves(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == true
}

fn prune(value: &mut Value, schema: &Value, is_object: bool) {
    match value {
        Value::Object(fields) => {
            let more = schema.get("additionalProperties");
            let head = ["apiVersion", "kind", "metadata"];
            fields.retain(|name, value| {
                if is_object && head.contains(&name.as_str()) {
                    return true;
                }
                let is_embedded = |schema: &Value| schema["x-kubernetes-embedded-resource"] == true;
                match schema["properties"].get(name).or(more) {
                    Some(Value::Bool(any)) => *any,
                    Some(schema) => {
                        prune(value, schema, is_embedded(schema));
                        true
                    }
                    None => preserves(schema),
                }
            });
        }
        Value::Array(items) => {
            for item in items {
                prune(item, &schema["items"], false);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Fills in defaults. `null` counts as absent where it is no value.
fn fill(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(fields) => {
            for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
                let is_absent = |value: &Value| value.is_null() && schema["nullable"] != true;
                if let Some(default) = schema.get("default")
                    && fields.get(name).is_none_or(is_absent)
                {
                    fields.insert(name.clone(), default.clone());
                }
                if let Some(value) = fields.get_mut(name) {
                    fill(value, schema);
                }
            }
            let Some(more) = schema.get("additionalProperties") else {
                return;
            };
            for value in fields.values_mut() {
                fill(value, more);
            }
        }
        Value::Array(items) => {
            for item in items {
                fill(item, &schema["items"]);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The fields of `given` that `kept` does not have.
fn missing(given: &Value, kept: &Value, path: &str, found: &mut Vec<String>) {
    match given {
        Value::Object(fields) => {
            for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
                let path = below(path, name);
                match kept.get(name) {
                    Some(kept) => missing(value, kept, &path, found),
                    None => found.push(path),
                }
            }
        }
        Value::Array(items) => {
            for (place, item) in items.iter().enumerate() {
                missing(
                    item,
                    kept.get(place).unwrap_or(&json!(null)),
                    &format!("{path}[{place}]"),
                    found,
                );
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// The path of a field.
pub(super) fn below(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}
