//! What of a pod is the mesh's: its annotations, and the container that the mesh has put into it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;

use super::words::{DISABLE_ENVOY, SIDECAR_DNS, SIDECAR_STATUS};

/// Name of the container that Istio injects.
pub(super) const SIDECAR: &str = "istio-proxy";
/// Name of the container that redirects with iptables before the others start.
const INIT: &str = "istio-init";
/// Variables of the sidecar that say how it is captured.
const VARIABLES: [&str; 2] = [DISABLE_ENVOY, SIDECAR_DNS];
/// Annotations that are kept, by what their keys begin with.
const ANNOTATIONS: [&str; 5] = [
    "ambient.istio.io/",
    "istio.io/reroute-virtual-interfaces",
    "sidecar.istio.io/",
    "status.sidecar.istio.io/",
    "traffic.sidecar.istio.io/",
];

/// What of a pod is the mesh's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mesh {
    /// Annotations of Istio; the value of [`SIDECAR_STATUS`] is left out.
    pub annotations: BTreeMap<String, String>,
    /// The proxy's container.
    pub sidecar: Option<Sidecar>,
    /// Whether a container redirects with iptables.
    pub has_init: bool,
}

/// The proxy's container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sidecar {
    /// As what the proxy runs, as `sidecar` or `router`: its second argument.
    pub role: Option<String>,
    /// Its variables that say how it is captured.
    pub variables: BTreeMap<String, String>,
    /// The user that it runs as.
    pub user: Option<i64>,
    /// The group that it runs as.
    pub group: Option<i64>,
}

impl Mesh {
    pub(super) fn new(annotations: BTreeMap<String, String>, spec: &api::PodSpec) -> Self {
        let kept = annotations.into_iter().filter_map(|(key, value)| {
            let ours = ANNOTATIONS.iter().any(|prefix| key.starts_with(prefix));
            let value = if key == SIDECAR_STATUS {
                String::new()
            } else {
                value
            };
            ours.then_some((key, value))
        });
        // A sidecar may be an init container that goes on running.
        let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
        Self {
            annotations: kept.collect(),
            sidecar: containers()
                .find(|container| container.name == SIDECAR)
                .map(Sidecar::new),
            has_init: containers().any(|container| container.name == INIT),
        }
    }

    /// The value of an annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }

    /// Whether the injector has been here.
    pub fn is_injected(&self) -> bool {
        self.annotations.contains_key(SIDECAR_STATUS)
    }
}

impl Sidecar {
    fn new(container: &api::Container) -> Self {
        let variables = container.env.iter().flatten().filter_map(|variable| {
            let ours = VARIABLES.contains(&variable.name.as_str());
            let value = variable.value.clone()?;
            ours.then(|| (variable.name.clone(), value))
        });
        let security = container.security_context.as_ref();
        Self {
            role: container.args.as_ref().and_then(|args| args.get(1).cloned()),
            variables: variables.collect(),
            user: security.and_then(|security| security.run_as_user),
            group: security.and_then(|security| security.run_as_group),
        }
    }
}

/// Reads a truth as Go does (`strconv.ParseBool`), which is how Istio reads it.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}
