//! Sets of fields, as `managedFields` has them (`FieldsV1`).

use std::{collections::BTreeSet, fmt::Write as _, sync::LazyLock};

use serde_json::{Map, Value, json};

/// Where a field is. The parts are those of `FieldsV1`: `f:` a field, `k:` an item by its keys, `v:` an item of a set.
pub(super) type Path = Vec<String>;

/// The parts of `metadata` whose lists are merged item by item.
static METADATA: LazyLock<Value> = LazyLock::new(|| {
    json!({"properties": {
        "finalizers": {"x-kubernetes-list-type": "set"},
        "ownerReferences": {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["uid"]},
    }})
});
static NOTHING: Value = Value::Null;

/// What the schema says of a place in an object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape<'a> {
    schema: &'a Value,
    is_root: bool,
}

/// How the items of a list are told apart.
#[derive(Clone, Debug)]
pub(super) enum Items<'a> {
    /// Not at all: the list is one value.
    Atomic,
    /// Each by itself.
    Set,
    /// Each by the values of these fields.
    Map(Vec<&'a str>),
}

impl<'a> Shape<'a> {
    pub(super) fn root(schema: &'a Value) -> Self {
        Self {
            schema,
            is_root: true,
        }
    }

    pub(super) fn inner(schema: &'a Value) -> Self {
        Self {
            schema,
            is_root: false,
        }
    }

    pub(super) fn field(self, name: &str) -> Self {
        if self.is_root && name == "metadata" {
            return Self::inner(&METADATA);
        }
        let more = self.schema.get("additionalProperties");
        let found = self.schema["properties"].get(name).or(more);
        Self::inner(found.unwrap_or(&NOTHING))
    }

    pub(super) fn item(self) -> Self {
        Self::inner(self.schema.get("items").unwrap_or(&NOTHING))
    }

    pub(super) fn is_atom(self) -> bool {
        self.schema["x-kubernetes-map-type"] == "atomic"
    }

    pub(super) fn items(self) -> Items<'a> {
        match self.schema["x-kubernetes-list-type"].as_str() {
            Some("set") => Items::Set,
            Some("map") => {
                let keys = self.schema["x-kubernetes-list-map-keys"].as_array();
                Items::Map(keys.into_iter().flatten().filter_map(Value::as_str).collect())
            }
            _ => Items::Atomic,
        }
    }

    /// The part of a path that names an item of a list-map.
    pub(super) fn key(self, keys: &[&str], item: &Value) -> String {
        let named: Map<String, Value> = keys
            .iter()
            .map(|&key| {
                let default = &self.schema["items"]["properties"][key]["default"];
                let value = item.get(key).unwrap_or(default);
                (key.to_owned(), value.clone())
            })
            .collect();
        format!("k:{}", Value::Object(named))
    }
}

/// A set of fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields(pub(super) BTreeSet<Path>);

impl Fields {
    /// Those of an object that somebody can own.
    pub(super) fn of(object: &Value, schema: &Value) -> Self {
        let mut fields = Self::default();
        fields.add(object, Shape::root(schema), &mut Vec::new());
        let not_owned = |path: &Path| match path.first().map(String::as_str) {
            None | Some("f:apiVersion" | "f:kind") => true,
            Some("f:metadata") => !matches!(
                path.get(1).map(String::as_str),
                Some("f:labels" | "f:annotations" | "f:finalizers" | "f:ownerReferences")
            ),
            Some(_) => false,
        };
        fields.0.retain(|path| !not_owned(path));
        fields
    }

    fn add(&mut self, value: &Value, shape: Shape, path: &mut Path) {
        match value {
            Value::Object(fields) if !fields.is_empty() && !shape.is_atom() => {
                for (name, value) in fields {
                    path.push(format!("f:{name}"));
                    self.add(value, shape.field(name), path);
                    path.pop();
                }
            }
            Value::Array(items) if !items.is_empty() => match shape.items() {
                Items::Atomic => drop(self.0.insert(path.clone())),
                Items::Set => {
                    for item in items {
                        path.push(format!("v:{item}"));
                        self.0.insert(path.clone());
                        path.pop();
                    }
                }
                Items::Map(keys) => {
                    for item in items {
                        path.push(shape.key(&keys, item));
                        self.0.insert(path.clone());
                        self.add(item, shape.item(), path);
                        path.pop();
                    }
                }
            },
            Value::Object(_)
            | Value::Array(_)
            | Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_) => drop(self.0.insert(path.clone())),
        }
    }

    /// Reads `FieldsV1`.
    pub(super) fn parse(tree: &Value) -> Self {
        let mut fields = Self::default();
        fields.parse_below(tree, &mut Vec::new());
        fields
    }

    fn parse_below(&mut self, tree: &Value, path: &mut Path) {
        let Some(children) = tree.as_object().filter(|children| !children.is_empty()) else {
            self.0.insert(path.clone());
            return;
        };
        for (part, below) in children {
            if part == "." {
                self.0.insert(path.clone());
            } else {
                path.push(part.clone());
                self.parse_below(below, path);
                path.pop();
            }
        }
    }

    /// Writes `FieldsV1`.
    pub(super) fn tree(&self) -> Value {
        let mut tree = json!({});
        for path in &self.0 {
            let mut place = &mut tree;
            for part in path {
                // A prefix comes before what it is a prefix of.
                place = &mut place[part.as_str()];
                if !place.is_object() {
                    *place = json!({});
                }
            }
        }
        for path in &self.0 {
            let place = path
                .iter()
                .fold(&mut tree, |place, part| &mut place[part.as_str()]);
            if place.as_object().is_some_and(|children| !children.is_empty()) {
                place["."] = json!({});
            }
        }
        tree
    }

    pub(super) fn contains_below(&self, path: &Path) -> bool {
        self.0
            .range(path.clone()..)
            .next()
            .is_some_and(|first| first.starts_with(path))
    }
}

/// The value at a path.
pub(super) fn get<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter()
        .try_fold(object, |value, part| match part.split_at_checked(2)? {
            ("f:", name) => value.get(name),
            (_, text) => value.as_array()?.iter().find(|item| is_item(item, part, text)),
        })
}

/// Takes away the value at a path, and what is empty without it up to where `stays` says otherwise.
pub(super) fn remove(object: &mut Value, path: &[String], stays: &dyn Fn(&[String]) -> bool) {
    let [part, rest @ ..] = path else { return };
    remove_below(object, part, rest, &mut Vec::new(), stays);
}

fn remove_below(
    value: &mut Value,
    part: &str,
    rest: &[String],
    above: &mut Path,
    stays: &dyn Fn(&[String]) -> bool,
) {
    let Some((kind, text)) = part.split_at_checked(2) else {
        return;
    };
    let child = if kind == "f:" {
        value.get_mut(text)
    } else {
        let items = value.as_array_mut().into_iter().flatten();
        items.into_iter().find(|item| is_item(item, part, text))
    };
    let Some(child) = child else { return };
    if let [next, rest @ ..] = rest {
        above.push(part.to_owned());
        remove_below(child, next, rest, above, stays);
        let is_empty =
            child.as_object().is_some_and(Map::is_empty) || child.as_array().is_some_and(Vec::is_empty);
        let goes = is_empty && !stays(above);
        above.pop();
        if !goes {
            return;
        }
    }
    match value {
        Value::Object(fields) => drop(fields.remove(text)),
        Value::Array(items) => items.retain(|item| !is_item(item, part, text)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn is_item(item: &Value, part: &str, text: &str) -> bool {
    let Ok(wanted) = serde_json::from_str::<Value>(text) else {
        return false;
    };
    if part.starts_with("v:") {
        return *item == wanted;
    }
    let mut keys = wanted.as_object().into_iter().flatten();
    // A key that the item does not have was named by its default.
    keys.all(|(key, value)| item.get(key).is_none_or(|found| found == value))
}

/// A path as people read it: `.spec.ports[port=80].name`.
pub(super) fn shown(path: &[String]) -> String {
    let mut text = String::new();
    for part in path {
        // Writing to a string does not fail.
        let _ = match part.split_at_checked(2) {
            Some(("k:", keys)) => {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let keys: Vec<_> = keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
                write!(text, "[{}]", keys.join(","))
            }
            Some(("v:", value)) => write!(text, "[={value}]"),
            Some((_, name)) => write!(text, ".{name}"),
            None => Ok(()),
        };
    }
    text
}
