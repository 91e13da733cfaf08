//! What is watched.

use std::fmt;

use crate::{
    objects::{GATEWAY_NAME_LABEL, GatewayPods, GatewayRef, Kind},
    problem::Severity,
};

/// Objects of one kind, or some of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    pub(super) kind: Kind,
    /// Of which API; the core's is empty.
    pub(super) group: &'static str,
    /// The versions that can be read, the best first.
    pub(super) versions: &'static [&'static str],
    /// The resource's name in paths.
    pub(super) plural: &'static str,
    /// Only of this namespace.
    pub(super) namespace: Option<String>,
    /// Only those whose fields meet this.
    pub(super) fields: Option<String>,
    /// Only those whose labels meet this.
    pub(super) labels: Option<String>,
    /// A server may do without the kind: how much that matters. `None`: every server has it.
    pub(super) if_absent: Option<Severity>,
    /// What it is called in `status`.
    pub(super) name: String,
}

impl Target {
    fn new(kind: Kind, group: &'static str, versions: &'static [&'static str], plural: &'static str) -> Self {
        Self {
            kind,
            group,
            versions,
            plural,
            namespace: None,
            fields: None,
            labels: None,
            if_absent: None,
            name: plural.to_owned(),
        }
    }

    fn unless_absent(self, severity: Severity) -> Self {
        Self {
            if_absent: Some(severity),
            ..self
        }
    }

    fn with_fields(self, fields: String) -> Self {
        Self {
            fields: Some(fields),
            ..self
        }
    }

    fn pods() -> Self {
        Self::new(Kind::Pod, "", &["v1"], "pods")
    }

    /// All that is always watched, on the node of this name.
    pub(super) fn all(node: &str) -> Vec<Self> {
        // The one slice that counts is the API server's own, which it keeps by this name; whoever may write slices in the
        // namespace could label others as its Service's.
        let api_server = Self {
            namespace: Some("default".to_owned()),
            ..Self::new(Kind::EndpointSlice, "discovery.k8s.io", &["v1"], "endpointslices")
        };
        let istio = &["v1", "v1beta1", "v1alpha3"];
        vec![
            Self::pods().with_fields(format!("spec.nodeName={node}")),
            Self::new(Kind::Namespace, "", &["v1"], "namespaces"),
            Self::new(Kind::Node, "", &["v1"], "nodes"),
            Self::new(Kind::Service, "", &["v1"], "services"),
            api_server.with_fields("metadata.name=kubernetes".to_owned()),
            Self::new(Kind::ServiceCIDR, "networking.k8s.io", &["v1"], "servicecidrs")
                .unless_absent(Severity::Info),
            Self::new(
                Kind::Gateway,
                "gateway.networking.k8s.io",
                &["v1", "v1beta1"],
                "gateways",
            )
            .unless_absent(Severity::Info),
            Self::new(Kind::ServiceEntry, "networking.istio.io", istio, "serviceentries")
                .unless_absent(Severity::Info),
            Self::new(Kind::EgressPolicy, "sluice.dev", &["v1alpha1"], "egresspolicies")
                .unless_absent(Severity::Error),
        ]
    }

    /// The pods of the cluster's resolver, on whatever node: a policy that cuts it off is told of.
    pub(super) fn resolver() -> Self {
        Self {
            namespace: Some("kube-system".to_owned()),
            labels: Some("k8s-app=kube-dns".to_owned()),
            name: "pods kube-system k8s-app=kube-dns".to_owned(),
            ..Self::pods()
        }
    }

    /// The pods that a policy means by a gateway, on whatever node.
    pub(super) fn gateway(gateway: &GatewayRef) -> Self {
        let labels = match &gateway.pods {
            GatewayPods::Gateway(name) => format!("{GATEWAY_NAME_LABEL}={name}"),
            GatewayPods::Selected(selector) => selector.to_string(),
        };
        Self {
            name: format!("pods {} {labels}", gateway.namespace)
                .trim_end()
                .to_owned(),
            namespace: Some(gateway.namespace.clone()),
            labels: (!labels.is_empty()).then_some(labels),
            ..Self::pods()
        }
    }

    /// `pods`, `serviceentries.networking.istio.io`: as RBAC and `kubectl` name it.
    pub(super) fn resource(&self) -> String {
        match self.group {
            "" => self.plural.to_owned(),
            group => format!("{}.{group}", self.plural),
        }
    }

    /// Group and version, as objects name it.
    pub(super) fn api_version(&self, version: &str) -> String {
        match self.group {
            "" => version.to_owned(),
            group => format!("{group}/{version}"),
        }
    }

    /// Where it is on the server.
    pub(super) fn path(&self, version: &str) -> String {
        let root = match self.group {
            "" => format!("/api/{version}"),
            group => format!("/apis/{group}/{version}"),
        };
        match &self.namespace {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{}", self.plural),
            None => format!("{root}/{}", self.plural),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
