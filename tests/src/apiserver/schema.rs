//! Structural schemas.

use serde_json::Value;

use super::{
    kinds::{Resource, Version},
    refusal::Fault,
};

pub(super) fn complete(_resource: &Resource, _version: &Version, _object: &mut Value) -> Vec<String> {
    Vec::new()
}

pub(super) fn check(
    _resource: &Resource,
    _version: &Version,
    _old: Option<&Value>,
    _new: &Value,
) -> Result<(), Vec<Fault>> {
    Ok(())
}
