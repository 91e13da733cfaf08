//! EgressPolicy as it is written (`sluice.dev/v1alpha1`). A field that is not known is an error: what is
//! misspelt here would leave a door open.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_saphyr::Spanned;

/// What is wrong with a field whose form is right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct FieldError {
    /// Path of the field, as `spec.exceptions[0].to[1].cidr`.
    pub field: FieldPath,
    /// Line in the document, from 1, where that is known.
    pub line: Option<u64>,
    /// Column in that line, from 1.
    pub column: Option<u64>,
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

    pub(super) fn error<T>(&self, at: &Spanned<T>, message: impl Into<String>) -> FieldError {
        let known = at.referenced.line() > 0;
        FieldError {
            field: self.clone(),
            line: known.then(|| at.referenced.line()),
            column: known.then(|| at.referenced.column()),
            message: message.into(),
        }
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An EgressPolicy as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct EgressPolicyManifest {
    /// Known already.
    #[serde(rename = "apiVersion")]
    pub(super) _api_version: String,
    /// Known already.
    #[serde(rename = "kind")]
    pub(super) _kind: String,
    pub(super) metadata: Spanned<ObjectMeta>,
    pub(super) spec: Spec,
    /// Written by a controller, read by nobody here.
    #[serde(default, rename = "status")]
    pub(super) _status: Option<serde::de::IgnoredAny>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Spec {
    pub(super) mode: Option<Mode>,
    pub(super) subjects: Option<Subjects>,
    #[serde(default)]
    pub(super) gateways: Vec<Spanned<Gateway>>,
    pub(super) gateway_destinations: Option<GatewayDestinations>,
    #[serde(default)]
    pub(super) exceptions: Vec<Spanned<Exception>>,
    pub(super) on_deny: Option<OnDeny>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) enum Mode {
    Enforce,
    Audit,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) enum GatewayDestinations {
    Registry,
    Any,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) enum OnDeny {
    Reject,
    Drop,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Subjects {
    pub(super) namespace_selector: Option<LabelSelector>,
    pub(super) pod_selector: Option<LabelSelector>,
    #[serde(default)]
    pub(super) host_network: bool,
}

#[expect(clippy::struct_field_names, reason = "the names are those of the manifest")]
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Gateway {
    pub(super) namespace: Option<Spanned<String>>,
    pub(super) gateway: Option<Spanned<String>>,
    pub(super) pod_selector: Option<LabelSelector>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Exception {
    pub(super) name: Spanned<String>,
    pub(super) namespace_selector: Option<LabelSelector>,
    pub(super) pod_selector: Option<LabelSelector>,
    pub(super) to: Vec<Block>,
    pub(super) ports: Option<Vec<Port>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Block {
    pub(super) cidr: Spanned<String>,
    #[serde(default)]
    pub(super) except: Vec<Spanned<String>>,
}

#[expect(clippy::struct_field_names, reason = "the names are those of the manifest")]
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Port {
    pub(super) protocol: Protocol,
    pub(super) port: Option<Spanned<i64>>,
    pub(super) end_port: Option<Spanned<i64>>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Protocol {
    Tcp,
    Udp,
    Sctp,
    Icmp,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(in crate::objects) struct LabelSelector {
    #[serde(default)]
    pub(super) match_labels: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) match_expressions: Vec<Spanned<Expression>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Expression {
    pub(super) key: String,
    pub(super) operator: crate::objects::Operator,
    #[serde(default)]
    pub(super) values: Vec<String>,
}
