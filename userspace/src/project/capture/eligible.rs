//! Who is captured: the rules of Istio's node agent (`cni/pkg/util/enablement_selector.go` and
//! `cni/pkg/plugin/plugin.go` in istio/istio), and the same shape for the node proxy.

use std::fmt;

use ebpf::capture::Mode;
use serde::{Deserialize, Serialize};

use super::Settings;
use crate::objects::{
    Enablement, Labels, Mesh, Pod, parse_bool,
    words::{AMBIENT_LABEL, CAPTURE_LABEL, DISABLE_ENVOY, INJECT, INTERCEPTION_MODE},
};

/// How a pod's connections reach the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CaptureMode {
    /// The proxy listens in the pod's network namespace, as ztunnel does.
    InPod,
    /// The proxy is a container of the pod.
    Sidecar,
    /// The proxy listens in the node's network namespace.
    Node,
}

impl CaptureMode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::InPod, Self::Sidecar, Self::Node];

    /// Of a mode as the programs have it; what captures nothing is none.
    pub const fn of(mode: Mode) -> Option<Self> {
        match mode {
            Mode::Guard => None,
            Mode::Node => Some(Self::Node),
            Mode::InPod => Some(Self::InPod),
            Mode::Sidecar => Some(Self::Sidecar),
        }
    }
}

impl fmt::Display for CaptureMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InPod => "in-pod",
            Self::Sidecar => "sidecar",
            Self::Node => "node",
        })
    }
}

/// Whether a pod is captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eligible {
    /// By a proxy inside it.
    InPod,
    /// By its sidecar.
    Sidecar,
    /// By the node proxy.
    Node,
    /// It is not.
    No(NotCaptured),
}

impl Eligible {
    /// The mode, or why there is none.
    pub const fn mode(self) -> Result<CaptureMode, NotCaptured> {
        match self {
            Self::InPod => Ok(CaptureMode::InPod),
            Self::Sidecar => Ok(CaptureMode::Sidecar),
            Self::Node => Ok(CaptureMode::Node),
            Self::No(why) => Err(why),
        }
    }
}

/// Why a pod is not captured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NotCaptured {
    /// The agent is not told to capture anybody.
    Off,
    /// The pod has ended.
    Finished,
    /// The pod is in the node's network namespace.
    HostNetwork,
    /// Its namespace is excluded.
    ExcludedNamespace,
    /// It is the proxy.
    Proxy,
    /// It has a sidecar, and sidecars are none of our business.
    HasSidecar,
    /// Nothing asks for it.
    NotSelected,
    /// Its label declines.
    OptedOut,
    /// Its Namespace is not known, and labels there may ask for it.
    UnknownNamespace,
    /// An init container redirects with iptables.
    IstioInit,
    /// The injector has been here, but there is no proxy.
    NoProxyContainer,
    /// The proxy's container has no Envoy in it.
    EnvoyDisabled,
    /// The proxy is none that serves its pod, but a gateway.
    NotASidecar,
    /// The pod declines the sidecar that it has.
    InjectionDeclined,
    /// Its annotation says that nothing is to be intercepted.
    InterceptionNone,
    /// It is to be, but where its network namespace is is not known (yet).
    Pending,
}

impl NotCaptured {
    /// In a word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Finished => "finished",
            Self::HostNetwork => "host-network",
            Self::ExcludedNamespace => "excluded-namespace",
            Self::Proxy => "proxy",
            Self::HasSidecar => "has-sidecar",
            Self::NotSelected => "not-selected",
            Self::OptedOut => "opted-out",
            Self::UnknownNamespace => "unknown-namespace",
            Self::IstioInit => "istio-init",
            Self::NoProxyContainer => "no-proxy-container",
            Self::EnvoyDisabled => "envoy-disabled",
            Self::NotASidecar => "not-a-sidecar",
            Self::InjectionDeclined => "injection-declined",
            Self::InterceptionNone => "interception-none",
            Self::Pending => "pending",
        }
    }

    /// In a sentence about the pod.
    pub const fn explanation(self) -> &'static str {
        match self {
            Self::Off => "the agent runs without --ambient, --sidecar and --node-proxy",
            Self::Finished => "it has ended (status.phase Succeeded or Failed)",
            Self::HostNetwork => "it is in the node's network namespace (spec.hostNetwork)",
            Self::ExcludedNamespace => "its namespace is excluded (--capture-exclude-namespace)",
            Self::Proxy => "it is a ztunnel",
            Self::HasSidecar => {
                "it has a sidecar (annotation sidecar.istio.io/status), and the agent runs without --sidecar"
            }
            Self::NotSelected => "no label of it or of its namespace asks for it",
            Self::OptedOut => "its label says none",
            Self::UnknownNamespace => "its Namespace is not known, and a label there may ask for it",
            Self::IstioInit => "its init container istio-init redirects with iptables",
            Self::NoProxyContainer => {
                "it has the annotation sidecar.istio.io/status but no container istio-proxy"
            }
            Self::EnvoyDisabled => "its proxy runs without Envoy (DISABLE_ENVOY)",
            Self::NotASidecar => "its proxy does not run as a sidecar (the container's second argument)",
            Self::InjectionDeclined => "it declines a sidecar (sidecar.istio.io/inject)",
            Self::InterceptionNone => {
                "nothing is to be intercepted (sidecar.istio.io/interceptionMode: NONE)"
            }
            Self::Pending => "its network namespace is not known (yet)",
        }
    }
}

impl fmt::Display for NotCaptured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Whether labels and annotations have a pod captured. `namespace` are the labels of its namespace, if that is known.
pub fn eligible(pod: &Pod, namespace: Option<&Labels>, settings: &Settings) -> Eligible {
    if let Some(never) = never(pod) {
        return Eligible::No(never);
    }
    if settings.is_off() {
        return Eligible::No(NotCaptured::Off);
    }
    if settings.excluded_namespaces.contains(&pod.name.namespace) {
        return Eligible::No(NotCaptured::ExcludedNamespace);
    }
    if pod.mesh.is_injected() {
        return if settings.sidecar {
            sidecar(pod)
        } else {
            Eligible::No(NotCaptured::HasSidecar)
        };
    }
    if pod.name.namespace == settings.istio_namespace
        && pod.labels.get("app").is_some_and(|app| app == "ztunnel")
    {
        return Eligible::No(NotCaptured::Proxy);
    }
    by_labels(pod, namespace, settings)
}

/// What keeps a pod from being captured whoever asks for it.
pub(super) const fn never(pod: &Pod) -> Option<NotCaptured> {
    if pod.finished {
        Some(NotCaptured::Finished)
    } else if pod.host_network {
        Some(NotCaptured::HostNetwork)
    } else {
        None
    }
}

fn sidecar(pod: &Pod) -> Eligible {
    let Mesh {
        annotations,
        sidecar,
        has_init,
    } = &pod.mesh;
    let Some(sidecar) = sidecar else {
        return Eligible::No(NotCaptured::NoProxyContainer);
    };
    // The label has the say where there is one.
    let wanted = pod.labels.get(INJECT).or_else(|| annotations.get(INJECT));
    let disabled = sidecar.variables.get(DISABLE_ENVOY);
    let no = |text: Option<&String>| text.and_then(|text| parse_bool(text)) == Some(false);
    let yes = |text: Option<&String>| text.and_then(|text| parse_bool(text)) == Some(true);
    if *has_init {
        Eligible::No(NotCaptured::IstioInit)
    } else if yes(disabled) {
        Eligible::No(NotCaptured::EnvoyDisabled)
    } else if sidecar.role.as_ref().is_some_and(|role| role != "sidecar") {
        Eligible::No(NotCaptured::NotASidecar)
    } else if no(wanted) {
        Eligible::No(NotCaptured::InjectionDeclined)
    } else if annotations
        .get(INTERCEPTION_MODE)
        .is_some_and(|mode| mode == "NONE")
    {
        Eligible::No(NotCaptured::InterceptionNone)
    } else {
        Eligible::Sidecar
    }
}

fn by_labels(pod: &Pod, namespace: Option<&Labels>, settings: &Settings) -> Eligible {
    let mut unknown = false;
    let mut selects = |selectors: &[Enablement]| {
        selectors.iter().any(|selector| {
            let selects = selector.selects(&pod.labels, &pod.name.namespace, namespace);
            unknown |= selects.is_none();
            selects == Some(true)
        })
    };
    if settings.ambient && selects(&settings.ambient_selectors()) {
        return Eligible::InPod;
    }
    if settings.node_proxy.is_some() && selects(&Enablement::by_label(CAPTURE_LABEL, "node")) {
        return Eligible::Node;
    }
    let declines = |key: &str| pod.labels.get(key).is_some_and(|value| value == "none");
    Eligible::No(if unknown {
        NotCaptured::UnknownNamespace
    } else if declines(CAPTURE_LABEL) || declines(AMBIENT_LABEL) {
        NotCaptured::OptedOut
    } else {
        NotCaptured::NotSelected
    })
}
