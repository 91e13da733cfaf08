//! What a structural schema asks of values.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{LazyLock, Mutex},
};

use ipnet::IpNet;
use k8s_openapi::jiff::Timestamp;
use regex::Regex;
use serde_json::Value;

use super::{
    fields::{Items, Shape},
    lock,
    refusal::Fault,
    schema::below,
};

/// Finds what is wrong with a value.
pub(super) fn validate(value: &Value, schema: &Value, path: &str, faults: &mut Vec<Fault>) {
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    let is_either = schema["x-kubernetes-int-or-string"] == true;
    let wanted = if is_either {
        "integer,string"
    } else {
        schema["type"].as_str().unwrap_or_default()
    };
    if !wanted.is_empty() && !wanted.split(',').any(|wanted| is_of(value, wanted)) {
        let found = kind(value);
        let message =
            format!("Invalid value: \"{found}\": {path} in body must be of type {wanted}: \"{found}\"");
        faults.push(Fault::new(path, "FieldValueTypeInvalid", message));
        return;
    }
    if let Some(values) = schema["enum"].as_array().filter(|values| !values.contains(value)) {
        let list: Vec<_> = values.iter().map(Value::to_string).collect();
        let message = format!(
            "Unsupported value: {value}: supported values: {}",
            list.join(", ")
        );
        faults.push(Fault::new(path, "FieldValueNotSupported", message));
    }
    match value {
        Value::String(text) => string(text, value, schema, path, faults),
        Value::Number(number) => numeric(number.as_f64().unwrap_or_default(), value, schema, path, faults),
        Value::Array(items) => array(items, value, schema, path, faults),
        Value::Object(_) => object(value, schema, path, faults),
        Value::Null | Value::Bool(_) => {}
    }
    combined(value, schema, path, faults);
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_of(value: &Value, wanted: &str) -> bool {
    kind(value) == wanted || (wanted == "number" && value.is_number())
}

fn wrong(value: &Value, detail: &str, path: &str, faults: &mut Vec<Fault>) {
    faults.push(Fault::wrong(path, value, &format!("{path} in body {detail}")));
}

fn string(text: &str, value: &Value, schema: &Value, path: &str, faults: &mut Vec<Fault>) {
    let len = u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
    if let Some(most) = schema["maxLength"].as_u64().filter(|most| len > *most) {
        let message = format!("Too long: may not be more than {most} bytes");
        faults.push(Fault::new(path, "FieldValueTooLong", message));
    }
    if let Some(least) = schema["minLength"].as_u64().filter(|least| len < *least) {
        wrong(
            value,
            &format!("should be at least {least} chars long"),
            path,
            faults,
        );
    }
    if let Some(pattern) = schema["pattern"]
        .as_str()
        .filter(|pattern| !matches(text, pattern))
    {
        wrong(value, &format!("should match '{pattern}'"), path, faults);
    }
    if let Some(format) = schema["format"]
        .as_str()
        .filter(|format| !is_formatted(text, format))
    {
        wrong(value, &format!("must be of type {format}: {value}"), path, faults);
    }
}

fn matches(text: &str, pattern: &str) -> bool {
    static PATTERNS: LazyLock<Mutex<BTreeMap<String, Option<Regex>>>> = LazyLock::new(Mutex::default);
    let mut patterns = lock(&PATTERNS);
    let compiled = patterns
        .entry(pattern.to_owned())
        .or_insert_with(|| Regex::new(pattern).ok());
    compiled.as_ref().is_some_and(|pattern| pattern.is_match(text))
}

/// Formats that are not known permit everything, as they do on the real server.
fn is_formatted(text: &str, format: &str) -> bool {
    match format {
        "ipv4" => text.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<Ipv6Addr>().is_ok(),
        "ip" => text.parse::<IpAddr>().is_ok(),
        "cidr" => text.parse::<IpNet>().is_ok(),
        "date-time" => text.parse::<Timestamp>().is_ok(),
        _ => true,
    }
}

fn numeric(number: f64, value: &Value, schema: &Value, path: &str, faults: &mut Vec<Fault>) {
    if let Some(least) = schema["minimum"].as_f64() {
        if schema["exclusiveMinimum"] == true && number <= least {
            wrong(value, &format!("should be greater than {least}"), path, faults);
        } else if number < least {
            wrong(
                value,
                &format!("should be greater than or equal to {least}"),
                path,
                faults,
            );
        }
    }
    if let Some(most) = schema["maximum"].as_f64() {
        if schema["exclusiveMaximum"] == true && number >= most {
            wrong(value, &format!("should be less than {most}"), path, faults);
        } else if number > most {
            wrong(
                value,
                &format!("should be less than or equal to {most}"),
                path,
                faults,
            );
        }
    }
    let is_small = value.as_i64().is_some_and(|number| i32::try_from(number).is_ok());
    if schema["format"] == "int32" && !is_small {
        wrong(
            value,
            &format!("must be of type int32: \"{value}\""),
            path,
            faults,
        );
    }
    if let Some(step) = schema["multipleOf"].as_f64().filter(|step| number % step != 0.0) {
        wrong(value, &format!("should be a multiple of {step}"), path, faults);
    }
}

fn array(items: &[Value], value: &Value, schema: &Value, path: &str, faults: &mut Vec<Fault>) {
    let len = u64::try_from(items.len()).unwrap_or(u64::MAX);
    if let Some(most) = schema["maxItems"].as_u64().filter(|most| len > *most) {
        let message = format!("Too many: {len}: must have at most {most} items");
        faults.push(Fault::new(path, "FieldValueTooMany", message));
    }
    if let Some(least) = schema["minItems"].as_u64().filter(|least| len < *least) {
        wrong(
            value,
            &format!("should have at least {least} items"),
            path,
            faults,
        );
    }
    let shape = Shape::inner(schema);
    let mut seen = BTreeSet::new();
    for (place, item) in items.iter().enumerate() {
        let path = format!("{path}[{place}]");
        let key = match shape.items() {
            Items::Atomic => None,
            Items::Set => Some(item.to_string()),
            Items::Map(keys) => Some(shape.key(&keys, item)),
        };
        if let Some(key) = key {
            let shown = key.trim_start_matches("k:").to_owned();
            if !seen.insert(key) {
                let message = format!("Duplicate value: {shown}");
                faults.push(Fault::new(&*path, "FieldValueDuplicate", message));
            }
        }
        validate(item, &schema["items"], &path, faults);
    }
}

fn object(value: &Value, schema: &Value, path: &str, faults: &mut Vec<Fault>) {
    let Value::Object(fields) = value else { return };
    for name in schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
    {
        if !fields.contains_key(name) {
            faults.push(Fault::required(below(path, name), ""));
        }
    }
    let len = u64::try_from(fields.len()).unwrap_or(u64::MAX);
    if let Some(most) = schema["maxProperties"].as_u64().filter(|most| len > *most) {
        let message = format!("Too many: {len}: must have at most {most} items");
        faults.push(Fault::new(path, "FieldValueTooMany", message));
    }
    if let Some(least) = schema["minProperties"].as_u64().filter(|least| len < *least) {
        wrong(
            value,
            &format!("should have at least {least} properties"),
            path,
            faults,
        );
    }
    let more = schema.get("additionalProperties");
    for (name, value) in fields {
        if let Some(schema) = schema["properties"].get(name).or(more) {
            validate(value, schema, &below(path, name), faults);
        }
    }
}

/// `allOf`, `anyOf`, `oneOf` and `not`.
fn combined(value: &Value, schema: &Value, path: &str, faults: &mut Vec<Fault>) {
    let is_valid = |schema: &Value| {
        let mut faults = Vec::new();
        validate(value, schema, path, &mut faults);
        faults.is_empty()
    };
    for part in schema["allOf"].as_array().into_iter().flatten() {
        validate(value, part, path, faults);
    }
    if schema["anyOf"]
        .as_array()
        .is_some_and(|parts| !parts.iter().any(is_valid))
    {
        wrong(value, "must validate at least one schema (anyOf)", path, faults);
    }
    if let Some(parts) = schema["oneOf"].as_array() {
        let valid = parts.iter().filter(|part| is_valid(part)).count();
        if valid != 1 {
            let found = if valid == 0 { "none valid" } else { "more than one" };
            wrong(
                value,
                &format!("must validate one and only one schema (oneOf). Found {found}"),
                path,
                faults,
            );
        }
    }
    if schema["not"].is_object() && is_valid(&schema["not"]) {
        wrong(value, "must not validate the schema (not)", path, faults);
    }
}
