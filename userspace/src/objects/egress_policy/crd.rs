//! EgressPolicy as it is written (`sluice.dev/v1alpha1`): the one definition of its fields, from which manifests are read
//! and the CustomResourceDefinition is made. A field that is not known is an error: what is misspelt here would leave a
//! door open.
//!
//! The documentation of a field is its description in the schema, which `kubectl explain` shows. What a schema cannot say
//! stands beside it as a rule in CEL, and `validate.rs` says all of it again, as manifests are also read
//! from files. Only what would take a comparison of prefixes is left to the agent: it refuses a prefix with host bits,
//! and says so in the condition `Accepted`. The rules use `cidr()`, which Kubernetes has since 1.31.
//!
//! An API server estimates what a rule may cost at the most, and refuses the definition if that is above 10 million: the
//! cost of one evaluation times the sizes of all lists around it. Hence the limits here. The dearest rule, on the holes of
//! a prefix, comes to 64 exceptions × 128 prefixes × 16 holes × about 25.

#![expect(clippy::doc_markdown, reason = "kubectl shows these texts as they are")]
#![expect(
    clippy::duplicated_attributes,
    reason = "columns are alike in some of what they say"
)]
#![expect(
    unreachable_pub,
    reason = "what derives a schema with rules repeats the type, public as it is, inside a function"
)]

use std::collections::BTreeMap;

use k8s_openapi::{
    apiextensions_apiserver::pkg::apis::apiextensions::v1::{
        CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{CustomResource, CustomResourceExt as _, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{placed::Placed, status::EgressPolicyStatus};

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
    pub(super) metadata: Placed<ObjectMeta>,
    pub(super) spec: EgressPolicySpec,
    /// Written by agents, read by those who write it.
    #[serde(default, rename = "status")]
    pub(super) _status: Option<serde::de::IgnoredAny>,
}

/// Who is held to the policy, who may leave the cluster, and where to.
#[derive(Clone, Debug, Default, PartialEq, CustomResource, Deserialize, Serialize, KubeSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "EgressPolicy",
    plural = "egresspolicies",
    shortname = "egp",
    category = "sluice",
    root = "EgressPolicyResource",
    derive = "PartialEq",
    status = "EgressPolicyStatus",
    doc = "Says who may leave the cluster: nothing that its subjects send reaches an address outside, unless a gateway that \
           it names sends it, or one of its exceptions lets it pass. Several policies combine: each one's subjects are held to \
           it, and what any of them denies is denied.",
    printcolumn(
        name = "Mode",
        type_ = "string",
        json_path = ".spec.mode",
        description = "Enforce: what is not permitted is dropped. Audit: it is only reported."
    ),
    printcolumn(
        name = "Gateways",
        type_ = "string",
        json_path = ".status.gateways",
        description = "How many of the gateways that the policy names have a pod."
    ),
    printcolumn(
        name = "Enforced on",
        type_ = "string",
        json_path = ".status.enforcedOn",
        description = "On how many nodes of the cluster the policy is in force."
    ),
    printcolumn(
        name = "Denied",
        type_ = "integer",
        json_path = ".status.denied",
        description = "How many denials the nodes that are listed have reported."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct EgressPolicySpec {
    /// What becomes of what is not permitted. Enforce: it is dropped. Audit: it passes, and is reported.
    #[serde(default)]
    pub mode: Mode,
    /// Who is held to the policy. Left out: every pod of the cluster but its gateways and those in a node's network namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subjects: Option<Subjects>,
    /// Who may leave the cluster. With none, nobody may.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub gateways: Vec<Placed<Gateway>>,
    /// Where the gateways may go. Registry: where the cluster's ServiceEntries say. Any: everywhere.
    #[serde(default)]
    pub gateway_destinations: GatewayDestinations,
    /// Where some subjects may go without a gateway.
    #[serde(default)]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".to_owned()]))]
    pub exceptions: Vec<Placed<Exception>>,
    /// How an application learns that it may not. Reject: at once, by a reset or an ICMP message. Drop: by waiting in vain.
    #[serde(default)]
    pub on_deny: OnDeny,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[expect(missing_docs, reason = "the fields of these types say what their values mean")]
pub enum Mode {
    #[default]
    Enforce,
    Audit,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[expect(missing_docs, reason = "the fields of these types say what their values mean")]
pub enum GatewayDestinations {
    #[default]
    Registry,
    Any,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[expect(missing_docs, reason = "the fields of these types say what their values mean")]
pub enum OnDeny {
    #[default]
    Reject,
    Drop,
}

/// Which pods are held to the policy: those that both selectors select.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Subjects {
    /// Pods of namespaces with these labels. Left out or empty: of every namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Pods with these labels. Left out or empty: every pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Whether pods in a node's network namespace are held to it, too.
    #[serde(default)]
    pub host_network: bool,
}

/// Pods that may leave the cluster. They are bound to a namespace, as labels alone may be written by many.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.gateway) != has(self.podSelector)")
    .message("write exactly one of gateway (the name of a Gateway) and podSelector"))]
pub struct Gateway {
    /// The namespace of the pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        required,
        with = "String",
        length(min = 1, max = 63),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub namespace: Option<Placed<String>>,
    /// The name of a Gateway of the Gateway API in that namespace: its pods may leave.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub gateway: Option<Placed<String>>,
    /// Pods of that namespace with these labels may leave. Empty: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
}

/// Where some subjects may go without a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.podSelector) || has(self.namespaceSelector)")
    .message("say for whom: podSelector or namespaceSelector; write podSelector: {} for every subject"))]
pub struct Exception {
    /// Its name, unique in the policy; what it lets pass is reported by it.
    #[schemars(length(min = 1, max = 63))]
    pub name: Placed<String>,
    /// Subjects in namespaces with these labels. Left out or empty: in every namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Subjects with these labels. Left out or empty: every subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<LabelSelector>,
    /// Where they may go. Empty: nowhere.
    #[schemars(length(max = 128))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub to: Vec<Block>,
    /// With which protocols and ports. Left out: all of them. Empty: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub ports: Option<Vec<Port>>,
}

/// A range of addresses with holes.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.except) || self.except.all(hole, cidr(self.cidr).containsCIDR(hole))")
    .message("what is not within cidr cannot be excepted from it"))]
pub struct Block {
    /// The range as an IPv4 or IPv6 prefix without host bits, as 192.0.2.0/24; a single address ends in /32 or /128.
    pub cidr: Placed<Cidr>,
    /// Ranges within it that do not belong to it.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub except: Vec<Placed<Cidr>>,
}

/// A prefix.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("format" = "cidr"))]
pub struct Cidr(#[schemars(length(max = 49))] pub String);

/// A protocol, and its ports.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.protocol != 'ICMP' || !has(self.port) && !has(self.endPort)")
    .message("ICMP has no ports; leave them out"))]
#[x_kube(validation = Rule::new("!has(self.endPort) || has(self.port)")
    .message("endPort is the end of a range; write port, its beginning, too"))]
#[x_kube(validation = Rule::new("!has(self.endPort) || !has(self.port) || self.port <= self.endPort")
    .message("endPort is below port"))]
pub struct Port {
    /// The protocol. ICMP stands for ICMPv6, too.
    pub protocol: Protocol,
    /// The port, or the first of a range. Left out: every port.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<Placed<i64>>,
    /// The last port of the range. Left out: the range is one port.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub end_port: Option<Placed<i64>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[expect(missing_docs, reason = "they are protocols")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
    Icmp,
}

/// Selects by labels, as Kubernetes does everywhere: all that is written must be met.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct LabelSelector {
    /// Labels that must be there with these values.
    #[serde(default)]
    #[schemars(extend("maxProperties" = 32))]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    #[serde(default)]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "atomic"))]
    pub match_expressions: Vec<Placed<Expression>>,
}

/// A requirement on one label.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(self.operator in ['In', 'NotIn']) || has(self.values) && size(self.values) > 0")
    .message("In and NotIn need at least one value"))]
#[x_kube(validation = Rule::new("self.operator in ['In', 'NotIn'] || !has(self.values) || size(self.values) == 0")
    .message("Exists and DoesNotExist take no values; leave them out"))]
pub struct Expression {
    /// The key of the label.
    #[schemars(length(min = 1, max = 317))]
    pub key: String,
    /// How the label is compared with the values. In: it is there with one of them. NotIn: it is not there, or with another.
    /// Exists: it is there. DoesNotExist: it is not there.
    pub operator: crate::objects::Operator,
    /// The values, for In and NotIn.
    #[serde(default)]
    #[schemars(length(max = 64), inner(length(max = 63)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub values: Vec<String>,
}

/// The CustomResourceDefinition, as `deploy/base/crds.yaml` has it.
pub fn definition() -> CustomResourceDefinition {
    let mut definition = EgressPolicyResource::crd();
    for version in &mut definition.spec.versions {
        if let Some(schema) = version
            .schema
            .as_mut()
            .and_then(|schema| schema.open_api_v3_schema.as_mut())
        {
            tidy(schema);
        }
    }
    definition
}

/// Makes a derived schema what one would have written.
///
/// What may be left out is `nullable` in it: but a field that is there and null would count as there in the rules. Lists and
/// maps are empty by default: an API server would write them into every object. And sentences are divided into lines as
/// they are in the source.
fn tidy(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    let empty = |default: &mut JSON| default.0 == json!([]) || default.0 == json!({});
    schema.default.take_if(empty);
    schema.description = schema.description.as_ref().map(|text| text.replace('\n', " "));
    let fields = schema.properties.iter_mut().flat_map(BTreeMap::values_mut);
    fields.for_each(tidy);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        tidy(items);
    }
}
