//! Tables, as `kubectl get` asks for them.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    kinds::{Resource, Version},
    meta,
};

/// Whether a request wants one.
pub(super) fn is_wanted(accept: &str) -> bool {
    accept.split(';').any(|part| part.trim() == "as=Table")
}

/// A table of objects, as the columns of their kind have it.
pub(super) fn table(resource: &Resource, version: &str, list_version: u64, objects: &[Value]) -> Value {
    let given = resource
        .version(version)
        .map_or(&[][..], |Version { columns, .. }| columns);
    let age = json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"});
    let columns = if given.is_empty() {
        std::slice::from_ref(&age)
    } else {
        given
    };
    let head = json!({"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0});
    let heads = columns.iter().map(|column| {
        json!({
            "name": column["name"],
            "type": column["type"],
            "format": column["format"].as_str().unwrap_or_default(),
            "description": column["description"].as_str().unwrap_or_default(),
            "priority": column["priority"].as_i64().unwrap_or_default(),
        })
    });
    let rows = objects.iter().map(|object| {
        let name = std::iter::once(json!(meta::name(object)));
        let cells = name.chain(columns.iter().map(|column| cell(column, object)));
        json!({
            "cells": cells.collect::<Vec<_>>(),
            "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]},
        })
    });
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": list_version.to_string()},
        "columnDefinitions": std::iter::once(head).chain(heads).collect::<Vec<_>>(),
        "rows": rows.collect::<Vec<_>>(),
    })
}

fn cell(column: &Value, object: &Value) -> Value {
    let path = meta::text(column, "jsonPath");
    match find(object, path) {
        None | Some(Value::Null) => Value::Null,
        Some(Value::String(time)) if column["type"] == "date" => json!(age(time)),
        Some(value) if value.is_object() || value.is_array() => json!(value.to_string()),
        Some(value) if column["type"] == "string" && !value.is_string() => json!(value.to_string()),
        Some(value) => value.clone(),
    }
}

fn age(time: &str) -> String {
    let Ok(time) = time.parse::<Timestamp>() else {
        return "<invalid>".to_owned();
    };
    let seconds = (Timestamp::now().as_second() - time.as_second()).max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

/// The first value that a path names: `.a.b`, `.a[0]`, `.a[*].b`, `.a[?(@.type=="Ready")].status`.
fn find<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    if path.is_empty() {
        return Some(value);
    }
    if let Some(rest) = path.strip_prefix('[') {
        let (inside, rest) = rest.split_once(']')?;
        let items = value.as_array()?;
        let filter = inside
            .strip_prefix("?(@.")
            .and_then(|filter| filter.strip_suffix(')'));
        return match (inside, filter) {
            (_, Some(filter)) => {
                let (field, wanted) = filter.split_once("==")?;
                let wanted = wanted.trim().trim_matches(['"', '\'']);
                let item = items
                    .iter()
                    .find(|item| meta::text(item, field.trim()) == wanted)?;
                find(item, rest)
            }
            ("*", None) => items.iter().find_map(|item| find(item, rest)),
            (place, None) => find(items.get(place.parse::<usize>().ok()?)?, rest),
        };
    }
    let path = path.strip_prefix('.')?;
    // A dot that belongs to a name is written with a backslash.
    let mut end = 0;
    for (place, character) in path.char_indices() {
        let is_escaped = path[..place].ends_with('\\');
        if (character == '.' && !is_escaped) || character == '[' {
            break;
        }
        end = place + character.len_utf8();
    }
    let (name, rest) = path.split_at(end);
    find(value.get(name.replace('\\', ""))?, rest)
}
