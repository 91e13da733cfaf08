//! Rules of a schema in CEL: `x-kubernetes-validations`.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock, Mutex},
};

use cel::{
    Context, Env, Program, extensions,
    objects::{Key, Map, Value as Cel},
};
use serde_json::Value;

use super::{
    fields::{Items, Shape},
    lock, networks,
    refusal::Fault,
    schema::below,
};

/// What every rule may use. Unlike the real server's, it does not know types before a rule runs.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut environment = Env::stdlib();
    extensions::strings(&mut environment).expect("nothing has their names yet");
    Arc::new(environment)
});

/// Compiles a rule, or finds it.
fn program(rule: &str) -> Result<Arc<Program>, String> {
    type Programs = BTreeMap<String, Result<Arc<Program>, String>>;
    static PROGRAMS: LazyLock<Mutex<Programs>> = LazyLock::new(Mutex::default);
    let mut programs = lock(&PROGRAMS);
    let compile = || match ENVIRONMENT.compile(rule) {
        Ok(program) => Ok(Arc::new(program)),
        Err(error) => Err(error.to_string()),
    };
    programs.entry(rule.to_owned()).or_insert_with(compile).clone()
}

/// Finds the rules of a schema that are none.
pub(super) fn check_schema(schema: &Value, path: &str, faults: &mut Vec<Fault>) {
    for (place, rule) in schema["x-kubernetes-validations"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let path = format!("{path}.x-kubernetes-validations[{place}]");
        for name in ["rule", "messageExpression"] {
            let compiled = rule[name].as_str().map(program).transpose();
            if let Err(error) = compiled {
                let detail = format!("compilation failed: {error}");
                faults.push(Fault::wrong(below(&path, name), &rule[name], &detail));
            }
        }
        if rule["optionalOldSelf"] == true {
            let detail = "the API server of the tests cannot do it";
            faults.push(Fault::wrong(
                below(&path, "optionalOldSelf"),
                &rule["optionalOldSelf"],
                detail,
            ));
        }
    }
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        check_schema(schema, &format!("{path}.properties[{name}]"), faults);
    }
    for name in ["items", "additionalProperties"] {
        if schema[name].is_object() {
            check_schema(&schema[name], &below(path, name), faults);
        }
    }
}

/// Finds what the rules say is wrong with a value. `old` is what was there, where that can be told.
pub(super) fn check(value: &Value, old: Option<&Value>, schema: &Value, path: &str, faults: &mut Vec<Fault>) {
    for rule in schema["x-kubernetes-validations"]
        .as_array()
        .into_iter()
        .flatten()
    {
        faults.extend(judge(rule, value, old, schema, path));
    }
    match value {
        Value::Object(fields) => {
            let more = schema.get("additionalProperties");
            for (name, value) in fields {
                if let Some(schema) = schema["properties"].get(name).or(more) {
                    let old = old.and_then(|old| old.get(name));
                    check(value, old, schema, &below(path, name), faults);
                }
            }
        }
        Value::Array(items) => {
            let shape = Shape::inner(schema);
            for (place, item) in items.iter().enumerate() {
                // Only the items of a list-map are known again.
                let old = old.and_then(|old| match shape.items() {
                    Items::Map(keys) => {
                        let key = shape.key(&keys, item);
                        old.as_array()?.iter().find(|old| shape.key(&keys, old) == key)
                    }
                    Items::Atomic | Items::Set => None,
                });
                check(item, old, &schema["items"], &format!("{path}[{place}]"), faults);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn judge(rule: &Value, value: &Value, old: Option<&Value>, schema: &Value, path: &str) -> Option<Fault> {
    let source = rule["rule"].as_str()?;
    let at = format!("{path}{}", rule["fieldPath"].as_str().unwrap_or_default());
    let at = at.trim_start_matches('.');
    let kind = schema["type"].as_str().unwrap_or_default();
    let fault = |detail: &str| {
        let (reason, head) = match rule["reason"].as_str() {
            Some("FieldValueForbidden") => ("FieldValueForbidden", "Forbidden".to_owned()),
            Some("FieldValueRequired") => ("FieldValueRequired", "Required value".to_owned()),
            Some("FieldValueDuplicate") => ("FieldValueDuplicate", format!("Duplicate value: \"{kind}\"")),
            _ => ("FieldValueInvalid", format!("Invalid value: \"{kind}\"")),
        };
        let shown = if at.is_empty() { "<nil>" } else { at };
        Some(Fault::new(shown, reason, format!("{head}: {detail}")))
    };
    let program = match program(source) {
        Ok(program) => program,
        Err(error) => return fault(&format!("rule compile error: {error}")),
    };
    let compares = program.references().has_variable("oldSelf");
    if compares && old.is_none() {
        return None;
    }
    let context = context(value, old.filter(|_| compares), schema);
    match program.execute(&context) {
        Ok(Cel::Bool(true)) => None,
        Ok(Cel::Bool(false)) => fault(&message(rule, source, &context)),
        Ok(other) => fault(&format!("rule {source:?} gives no bool but {other:?}")),
        Err(error) => fault(&format!(
            "{error} evaluating rule: {}",
            message(rule, source, &context)
        )),
    }
}

fn message(rule: &Value, source: &str, context: &Context) -> String {
    let expression = rule["messageExpression"].as_str();
    let shown = expression.and_then(|source| program(source).ok()?.execute(context).ok());
    match (shown, rule["message"].as_str()) {
        (Some(Cel::String(text)), _) => text.to_string(),
        (_, Some(text)) => text.to_owned(),
        _ => format!("failed rule: {source}"),
    }
}

fn context(value: &Value, old: Option<&Value>, schema: &Value) -> Context<'static, 'static> {
    let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
    networks::add_to(&mut context);
    context.add_variable_from_value("self", convert(value, schema));
    if let Some(old) = old {
        context.add_variable_from_value("oldSelf", convert(old, schema));
    }
    context
}

/// A value as rules see it. `null` is absent, and a number is what the schema says it is.
fn convert(value: &Value, schema: &Value) -> Cel {
    match value {
        Value::Null => Cel::Null,
        Value::Bool(value) => Cel::Bool(*value),
        Value::Number(number) => match number.as_i64().filter(|_| schema["type"] != "number") {
            Some(number) => Cel::Int(number),
            None => Cel::Float(number.as_f64().unwrap_or_default()),
        },
        Value::String(text) => Cel::String(Arc::new(text.clone())),
        Value::Array(items) => {
            let items = items.iter().map(|item| convert(item, &schema["items"]));
            Cel::List(Arc::new(items.collect()))
        }
        Value::Object(fields) => {
            let properties = &schema["properties"];
            let entries = fields.iter().filter(|(_, value)| !value.is_null());
            let entries = entries.map(|(name, value)| match properties.get(name) {
                Some(schema) => (Key::from(escape(name)), convert(value, schema)),
                None => (
                    Key::from(name.clone()),
                    convert(value, &schema["additionalProperties"]),
                ),
            });
            let map: HashMap<Key, Cel> = entries.collect();
            Cel::Map(Map { map: Arc::new(map) })
        }
    }
}

/// The name by which rules call a property.
fn escape(name: &str) -> String {
    const WORDS: &[&str] = &[
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
    ];
    if WORDS.contains(&name) {
        return format!("__{name}__");
    }
    name.replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__")
}
