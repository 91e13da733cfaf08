//! Values with the place in their document, so that an error can name its line.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_saphyr::Spanned;

/// A value, and where it stands. It reads and writes as the value itself does; an API server's JSON has no places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Where it stands, if that is known.
    pub place: Option<Place>,
}

/// A place in a document, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its line.
    pub line: u64,
    /// The column in that line.
    pub column: u64,
}

/// What is wrong with a field whose form is right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// Path of the field, as `spec.exceptions[0].to[1].cidr`.
    pub field: FieldPath,
    /// Where it stands in its document, if that is known.
    pub place: Option<Place>,
    /// What is wrong with it, and what would be right.
    pub message: String,
}

/// Path of a field in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldPath(String);

impl FieldPath {
    pub(in crate::objects) fn new(path: &str) -> Self {
        Self(path.to_owned())
    }

    pub(in crate::objects) fn field(&self, name: &str) -> Self {
        Self(format!("{}.{name}", self.0))
    }

    pub(in crate::objects) fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }

    pub(super) fn error<T>(&self, at: &Placed<T>, message: impl Into<String>) -> FieldError {
        FieldError {
            field: self.clone(),
            place: at.place,
            message: message.into(),
        }
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Placed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Spanned {
            value, referenced, ..
        } = Spanned::deserialize(deserializer)?;
        let known = referenced.line() > 0;
        Ok(Self {
            value,
            place: known.then(|| Place {
                line: referenced.line(),
                column: referenced.column(),
            }),
        })
    }
}

impl<T: Serialize> Serialize for Placed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

impl<T: JsonSchema> JsonSchema for Placed<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}
