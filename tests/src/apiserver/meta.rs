//! Reads and writes what every object has.

use std::fs;

use k8s_openapi::jiff::{Timestamp, Unit};
use serde_json::{Value, json};

use super::{refusal::Refusal, store::Key};

/// The text at a path of names between dots, empty where there is none. Booleans and numbers are texts, too.
pub(super) fn text<'a>(object: &'a Value, path: &str) -> &'a str {
    let mut value = object;
    for name in path.split('.') {
        value = &value[name];
    }
    match value {
        Value::Bool(true) => "true",
        Value::String(text) => text,
        Value::Null | Value::Bool(false) | Value::Number(_) | Value::Array(_) | Value::Object(_) => "",
    }
}

pub(super) fn name(object: &Value) -> &str {
    text(object, "metadata.name")
}

pub(super) fn key(object: &Value) -> Key {
    (
        text(object, "metadata.namespace").to_owned(),
        name(object).to_owned(),
    )
}

/// The time in whole seconds, as `metadata` has it.
pub(super) fn now() -> String {
    let now = Timestamp::now();
    now.round(Unit::Second).unwrap_or(now).to_string()
}

pub(super) fn uid() -> Result<String, Refusal> {
    let path = "/proc/sys/kernel/random/uuid";
    let text = fs::read_to_string(path).map_err(|error| Refusal::bad_request(format!("{path}: {error}")))?;
    Ok(text.trim().to_owned())
}

/// Gives a new object what the server says of it.
pub(super) fn stamp(object: &mut Value) -> Result<(), Refusal> {
    let metadata = &mut object["metadata"];
    metadata["uid"] = json!(uid()?);
    metadata["creationTimestamp"] = json!(now());
    metadata["generation"] = json!(1);
    Ok(())
}

/// Puts the value of `from` at `names` into `into`, or takes away what is there.
pub(super) fn carry(into: &mut Value, from: &Value, names: &[&str]) {
    let [parents @ .., last] = names else { return };
    let found = names
        .iter()
        .try_fold(from, |value, name| value.get(name))
        .cloned();
    let parent = parents.iter().try_fold(into, |value, name| value.get_mut(name));
    let Some(Value::Object(parent)) = parent else {
        return;
    };
    match found {
        Some(value) => drop(parent.insert((*last).to_owned(), value)),
        None => drop(parent.remove(*last)),
    }
}
