//! What the server says when it does not do what it is asked: a `Status` object.

use std::collections::BTreeMap;

use axum::body::Bytes;
use serde_json::{Value, json};

use super::{kinds::Resource, meta};

/// An answer that is no success.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// HTTP's code.
    pub code: u16,
    /// As machines read it.
    pub reason: &'static str,
    /// As people read it.
    pub message: String,
    details: Value,
}

impl Refusal {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: json!({}),
        }
    }

    fn about(mut self, resource: &Resource, name: &str) -> Self {
        self.details = json!({"name": name, "group": resource.group, "kind": resource.plural});
        self
    }

    fn because(mut self, causes: Vec<Value>) -> Self {
        self.details["causes"] = Value::Array(causes);
        self
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    pub(super) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(403, "Forbidden", message)
    }

    /// Of a path that nothing is served at; the real server answers it with a line of text.
    pub(super) fn unserved() -> Self {
        Self::new(404, "", "404 page not found\n")
    }

    pub(super) fn not_found(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", resource.qualified());
        Self::new(404, "NotFound", message).about(resource, name)
    }

    pub(super) fn not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(405, "MethodNotAllowed", message)
    }

    pub(super) fn exists(resource: &Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        Self::new(409, "AlreadyExists", message).about(resource, name)
    }

    /// Somebody else has written it in between.
    pub(super) fn modified(resource: &Resource, name: &str) -> Self {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(resource, name, why)
    }

    pub(super) fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {why}",
            resource.qualified()
        );
        Self::new(409, "Conflict", message).about(resource, name)
    }

    /// Fields that others own, by whose they are.
    pub(super) fn owned_by_others(conflicts: &BTreeMap<String, Vec<String>>) -> Self {
        let mut causes = Vec::new();
        let mut shown = Vec::new();
        for (manager, fields) in conflicts {
            let mut list = format!("conflicts with {manager}:");
            for field in fields {
                let message = format!("conflict with {manager}");
                causes.push(json!({"reason": "FieldManagerConflict", "message": message, "field": field}));
                list = format!("{list}\n- {field}");
            }
            shown.push(list);
        }
        let message = match causes.as_slice() {
            [one] => format!(
                "Apply failed with 1 conflict: {}: {}",
                meta::text(one, "message"),
                meta::text(one, "field")
            ),
            several => format!(
                "Apply failed with {} conflicts: {}",
                several.len(),
                shown.join("\n")
            ),
        };
        Self::new(409, "Conflict", message).because(causes)
    }

    /// The history does not reach back to where a watch or a list wants to go on.
    pub(super) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub(super) fn unsupported(content: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {content}"
        );
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// The object is not valid, as each of the faults tells: a field and what is wrong with it.
    pub(super) fn invalid(resource: &Resource, name: &str, faults: &[Fault]) -> Self {
        let shown: Vec<_> = faults
            .iter()
            .map(|fault| format!("{}: {}", fault.field, fault.message))
            .collect();
        let shown = match shown.as_slice() {
            [one] => one.clone(),
            several => format!("[{}]", several.join(", ")),
        };
        let kind = if resource.group.is_empty() {
            resource.kind.clone()
        } else {
            format!("{}.{}", resource.kind, resource.group)
        };
        let causes = faults
            .iter()
            .map(|fault| json!({"reason": fault.reason, "message": fault.message, "field": fault.field}));
        let mut refusal = Self::new(422, "Invalid", format!("{kind} \"{name}\" is invalid: {shown}"));
        refusal.details = json!({"name": name, "group": resource.group, "kind": resource.kind});
        refusal.because(causes.collect())
    }

    /// A version that the server has not come to yet.
    pub(super) fn too_large(wanted: u64, current: u64) -> Self {
        let message = format!("Timeout: Too large resource version: {wanted}, current: {current}");
        let mut refusal = Self::new(504, "Timeout", message.clone()).because(vec![
            json!({"reason": "ResourceVersionTooLarge", "message": message}),
        ]);
        refusal.details["retryAfterSeconds"] = json!(1);
        refusal
    }

    /// As an object.
    pub(super) fn status(&self) -> Value {
        json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        })
    }

    /// As a body, with its content type.
    pub(super) fn body(&self) -> (&'static str, Bytes) {
        if self.reason.is_empty() {
            ("text/plain; charset=utf-8", Bytes::from(self.message.clone()))
        } else {
            ("application/json", Bytes::from(self.status().to_string()))
        }
    }
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) field: String,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Fault {
    pub(super) fn new(field: impl Into<String>, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason,
            message: message.into(),
        }
    }

    pub(super) fn required(field: impl Into<String>, detail: &str) -> Self {
        let message = if detail.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {detail}")
        };
        Self::new(field, "FieldValueRequired", message)
    }

    pub(super) fn wrong(field: impl Into<String>, value: &Value, detail: &str) -> Self {
        let shown = match value {
            Value::Array(_) => "\"array\"".to_owned(),
            Value::Object(_) => "\"object\"".to_owned(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.to_string(),
        };
        Self::new(
            field,
            "FieldValueInvalid",
            format!("Invalid value: {shown}: {detail}"),
        )
    }
}
