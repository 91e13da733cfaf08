//! YAML documents: where one ends, and what object it is.

use std::{path::Path, sync::Arc};

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery, networking::v1 as networking};
use serde::{Deserialize, de::DeserializeOwned};
use serde_saphyr::{Options, UserMessageFormatter};

use super::stores::{AnyObject, UnknownKind};
use crate::{
    objects::{
        EgressPolicy, EgressPolicyManifest, GatewayManifest, Invalid, PolicyFieldError, ServiceEntryManifest,
        Stored,
    },
    problem::{Origin, Place},
};

/// What a document holds.
#[derive(Clone, Debug)]
pub(super) enum Document {
    /// An object of a kind that is read.
    Object(AnyObject),
    /// One of a kind that is not.
    Unknown(UnknownKind),
}

/// Why a document cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum DocumentError {
    #[error("{0}")]
    Yaml(String),
    #[error(
        "apiVersion and kind are missing; a document is a Kubernetes object, and lines that begin with --- divide \
         documents"
    )]
    NoKind,
    #[error("a List is not read; write its items as documents of their own, divided by lines of ---")]
    List,
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error(transparent)]
    Policy(#[from] PolicyFieldError),
}

/// The part of a file between two markers, and the line on which it begins, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk<'a> {
    pub(super) text: &'a str,
    pub(super) first_line: u64,
}

/// Divides a file at its document markers. A marker always ends a document, whatever stands before it: it cannot
/// be part of a block scalar or a quoted one (YAML 1.2.2, 9.1.2), so that one broken document cannot swallow those
/// behind it.
pub(super) fn chunks(text: &str) -> Vec<Chunk<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut chunks, mut begin, mut first_line) = (Vec::new(), 0, 1);
    let (mut offset, mut number) = (0, 0);
    for line in text.split_inclusive('\n') {
        number += 1;
        if is_marker(line) && offset > 0 {
            chunks.push(Chunk {
                text: &text[begin..offset],
                first_line,
            });
            (begin, first_line) = (offset, number);
        }
        offset += line.len();
    }
    chunks.push(Chunk {
        text: &text[begin..],
        first_line,
    });
    chunks.retain(|chunk| !chunk.is_empty());
    chunks
}

fn is_marker(line: &str) -> bool {
    line.strip_prefix("---")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

impl Chunk<'_> {
    /// Nothing but comments.
    fn is_empty(&self) -> bool {
        self.text.lines().enumerate().all(|(index, line)| {
            let content = if index == 0 && is_marker(line) {
                &line[3..]
            } else {
                line
            };
            let content = content.trim();
            content.is_empty() || content.starts_with('#')
        })
    }

    /// The line of the object's first word.
    pub(super) fn object_line(&self) -> u64 {
        let is_content = |line: &str| {
            let line = line.trim();
            !line.is_empty() && !line.starts_with('#') && !is_marker(line)
        };
        let skipped = self.text.lines().take_while(|line| !is_content(line)).count();
        self.first_line + skipped as u64
    }

    /// Reads it.
    pub(super) fn read(&self, file: &Arc<Path>) -> Result<Document, (Origin, DocumentError)> {
        let line = self.object_line();
        let origin = || Origin::line(file.clone(), line);
        let header: Header = self.parse(file)?;
        let (api_version, kind) = match header {
            Header {
                api_version: Some(api_version),
                kind: Some(kind),
            } => (api_version, kind),
            Header { .. } => return Err((origin(), DocumentError::NoKind)),
        };
        let object = match (api_version.as_str(), kind.as_str()) {
            ("v1", "Node") => AnyObject::Node(self.object::<core::Node, _>(file, line)?),
            ("v1", "Namespace") => AnyObject::Namespace(self.object::<core::Namespace, _>(file, line)?),
            ("v1", "Pod") => AnyObject::Pod(self.object::<core::Pod, _>(file, line)?),
            ("v1", "Service") => AnyObject::Service(self.object::<core::Service, _>(file, line)?),
            ("discovery.k8s.io/v1", "EndpointSlice") => {
                AnyObject::EndpointSlice(self.object::<discovery::EndpointSlice, _>(file, line)?)
            }
            ("networking.k8s.io/v1", "ServiceCIDR") => {
                AnyObject::ServiceCidr(self.object::<networking::ServiceCIDR, _>(file, line)?)
            }
            ("gateway.networking.k8s.io/v1" | "gateway.networking.k8s.io/v1beta1", "Gateway") => {
                AnyObject::Gateway(self.object::<GatewayManifest, _>(file, line)?)
            }
            (
                "networking.istio.io/v1" | "networking.istio.io/v1beta1" | "networking.istio.io/v1alpha3",
                "ServiceEntry",
            ) => AnyObject::ServiceEntry(self.object::<ServiceEntryManifest, _>(file, line)?),
            ("sluice.dev/v1alpha1", "EgressPolicy") => AnyObject::EgressPolicy(self.policy(file, line)?),
            (_, kind) if kind == "List" || kind.ends_with("List") && header_is_list(self.text) => {
                return Err((origin(), DocumentError::List));
            }
            (_, _) => return Ok(Document::Unknown(UnknownKind { api_version, kind })),
        };
        Ok(Document::Object(object))
    }

    fn parse<T: DeserializeOwned>(&self, file: &Arc<Path>) -> Result<T, (Origin, DocumentError)> {
        serde_saphyr::from_str_with_options(self.text, options()).map_err(|error| {
            let error = error.without_snippet();
            let (line, column) = match error.location() {
                Some(location) if location.line() > 0 => (location.line(), Some(location.column())),
                Some(_) | None => (1, None),
            };
            let place = Place {
                file: file.clone(),
                line: self.first_line + line - 1,
                column,
            };
            (Origin::File(place), DocumentError::Yaml(message(error)))
        })
    }

    fn object<M, T>(&self, file: &Arc<Path>, line: u64) -> Result<Arc<Stored<T>>, (Origin, DocumentError)>
    where
        M: DeserializeOwned,
        T: TryFrom<M, Error = Invalid>,
    {
        let manifest: M = self.parse(file)?;
        let origin = Origin::line(file.clone(), line);
        match T::try_from(manifest) {
            Ok(object) => Ok(Arc::new(Stored { object, origin })),
            Err(error) => Err((origin, error.into())),
        }
    }

    fn policy(
        &self,
        file: &Arc<Path>,
        line: u64,
    ) -> Result<Arc<Stored<EgressPolicy>>, (Origin, DocumentError)> {
        let manifest: EgressPolicyManifest = self.parse(file)?;
        match EgressPolicy::try_from(manifest) {
            Ok(object) => Ok(Arc::new(Stored {
                object,
                origin: Origin::line(file.clone(), line),
            })),
            Err(error) => {
                let place = Place {
                    file: file.clone(),
                    line: error.place.map_or(line, |place| self.first_line + place.line - 1),
                    column: error.place.map(|place| place.column),
                };
                Err((Origin::File(place), error.into()))
            }
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Header {
    api_version: Option<String>,
    kind: Option<String>,
}

/// Whether a document whose kind only ends in `List` has items, as `PodList` has.
fn header_is_list(text: &str) -> bool {
    text.lines().any(|line| line.starts_with("items:"))
}

fn options() -> Options {
    serde_saphyr::options! { with_snippet: false }
}

/// The error's words without its place, which is told apart from them.
fn message(error: &serde_saphyr::Error) -> String {
    if let serde_saphyr::Error::InvalidScalar { ty, .. } = error {
        return format!("expected {}", scalar_words(ty));
    }
    let text = error.render_with_formatter(&UserMessageFormatter);
    match text.rfind(" at line ") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}

/// What a type of Rust means to somebody who writes YAML.
fn scalar_words(ty: &str) -> String {
    match ty {
        "boolean" | "bool" => "true or false".to_owned(),
        "u16" => "a number from 0 to 65535".to_owned(),
        "i32" | "i64" => "a whole number".to_owned(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<(u64, &str)> {
        chunks(text)
            .into_iter()
            .map(|chunk| (chunk.first_line, chunk.text))
            .collect()
    }

    #[test]
    fn a_marker_ends_a_document_and_nothing_else_does() {
        assert_eq!(split("a: 1\n---\nb: 2\n"), [(1, "a: 1\n"), (2, "---\nb: 2\n")]);
        assert_eq!(split("---\n# only a comment\n---\nb: 2"), [(3, "---\nb: 2")]);
        assert_eq!(
            split("a: |\n  text\n  ---\n----\n---x\n"),
            [(1, "a: |\n  text\n  ---\n----\n---x\n")]
        );
        assert_eq!(split("--- {a: 1}\r\n---\r\nb: 2\r\n").len(), 2);
        assert_eq!(split("a: \"open\n---\nb: 2\n").len(), 2);
        assert_eq!(split("\u{feff}---\n"), []);
        assert_eq!(split(""), []);
    }
}
