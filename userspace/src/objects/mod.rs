//! The cluster's objects, cut down to what is used of them.
//!
//! Each kind is read in the form that Kubernetes gives it and turned at once into a small type of its own, whose
//! values have been checked.

mod addr;
mod core;
mod egress_policy;
mod enablement;
mod gateway;
mod mesh;
mod selector;
mod service_entry;
pub mod words;

use std::fmt;

use serde::{Deserialize, Serialize};

pub(crate) use self::addr::covers_mapped;
pub use self::{
    addr::{canonical_net, host_net, parse_ip, parse_net},
    core::{EndpointSlice, Namespace, Node, Pod, Service, ServiceCidr},
    egress_policy::{
        Block, EgressPolicy, Exception, GatewayDestinations, GatewayPods, GatewayRef, Mode, OnDeny,
        PortRange, Subjects,
        crd::{self, EgressPolicyManifest},
        placed::FieldError as PolicyFieldError,
        status as policy_status,
    },
    enablement::{Enablement, EnablementError},
    gateway::{Gateway, GatewayManifest},
    mesh::{Mesh, Sidecar, parse_bool},
    selector::{Labels, NAMESPACE_NAME_LABEL, Operator, Requirement, Selector},
    service_entry::{
        EndpointAddress, EntryEndpoint, EntryPort, Resolution, ServiceEntry, ServiceEntryManifest,
    },
    words::{
        CGROUP_ANNOTATION, DISABLE_ENVOY, GATEWAY_NAME_LABEL, NETNS_ANNOTATION, PROXY_CGROUP_ANNOTATION,
        SIDECAR_DNS, SIDECAR_STATUS,
    },
};
use crate::{facts::PodName, problem::Origin};

/// The kinds that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "they are the kinds that Kubernetes, the Gateway API, Istio and sluice define"
)]
pub enum Kind {
    Node,
    Namespace,
    Pod,
    Service,
    EndpointSlice,
    ServiceCIDR,
    Gateway,
    ServiceEntry,
    EgressPolicy,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// An object, as people and messages name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectRef {
    /// What it is.
    pub kind: Kind,
    /// Its namespace, unless it is cluster-scoped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
}

impl ObjectRef {
    /// A cluster-scoped object.
    pub fn cluster(kind: Kind, name: impl Into<String>) -> Self {
        Self {
            kind,
            namespace: None,
            name: name.into(),
        }
    }

    /// A namespaced object.
    pub fn namespaced(kind: Kind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            kind,
            namespace: Some(namespace.into()),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

impl From<&PodName> for ObjectRef {
    fn from(pod: &PodName) -> Self {
        Self::namespaced(Kind::Pod, &pod.namespace, &pod.name)
    }
}

/// Namespace and name of a namespaced object that is not a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ObjectName {
    /// `namespace/name`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// As a reference to an object of this kind.
    pub fn of_kind(&self, kind: Kind) -> ObjectRef {
        ObjectRef::namespaced(kind, &self.namespace, &self.name)
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A host name, in lower case and without the dot at its end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Host(String);

impl Host {
    /// The name as it is compared.
    pub fn new(name: &str) -> Self {
        Self(name.trim_end_matches('.').to_ascii_lowercase())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it stands for many names, so that it cannot be resolved.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An object, and where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<T> {
    /// The object.
    pub object: T,
    /// Where its document begins.
    pub origin: Origin,
}

impl<T> std::ops::Deref for Stored<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.object
    }
}

/// What is wrong with an object of somebody else's kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A field that it must have is missing.
    #[error("{field}: missing; every object has one")]
    Missing {
        /// Path of the field.
        field: &'static str,
    },
    /// A field's value cannot be what it should be.
    #[error("{field}: {value:?} is not {expected}")]
    Value {
        /// Path of the field.
        field: String,
        /// What stands there.
        value: String,
        /// What should.
        expected: &'static str,
    },
}

impl Invalid {
    fn value(field: impl Into<String>, value: impl Into<String>, expected: &'static str) -> Self {
        Self::Value {
            field: field.into(),
            value: value.into(),
            expected,
        }
    }
}
