//! Every label, annotation and variable that is read or written: what the code looks for and what the documents list come
//! from here.

/// A label, an annotation or a variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word {
    /// What it is called.
    pub name: &'static str,
    /// Where it stands.
    pub place: &'static str,
    /// What it says.
    pub help: &'static str,
}

/// Declares the words and the list of them.
macro_rules! words {
    ($($constant:ident: $name:literal, $place:literal, $help:literal;)+) => {
        $(#[doc = concat!($place, ": ", $help)]
        pub const $constant: &str = $name;)+

        /// All of them.
        pub const WORDS: &[Word] = &[$(Word { name: $name, place: $place, help: $help }),+];
    };
}

words! {
    NETNS_ANNOTATION: "sluice.dev/netns", "annotation of a Pod, in directory mode",
        "The path of its network namespace, where no container runtime can be asked for it.";
    CGROUP_ANNOTATION: "sluice.dev/cgroup", "annotation of a Pod, in directory mode",
        "Of one in the node's network namespace: the path of its cgroup, below the root of the hierarchy.";
    PROXY_CGROUP_ANNOTATION: "sluice.dev/proxy-cgroup", "annotation of a Pod, in directory mode",
        "The path of the cgroup of the proxy that captures it, as that of its sidecar's container.";
    CAPTURE_LABEL: "sluice.dev/capture", "label of a Namespace or a Pod",
        "`node`: captured by the node proxy; `none`: let alone by it.";
    AMBIENT_LABEL: "istio.io/dataplane-mode", "label of a Namespace or a Pod",
        "`ambient`: captured in the pod, by ztunnel; `none`: let alone. What counts can be set by `--ambient-selectors`.";
    GATEWAY_NAME_LABEL: "gateway.networking.k8s.io/gateway-name", "label of a Pod",
        "The Gateway whose pod it is; counts only in the Namespace that the policy names.";
    REDIRECTION_ANNOTATION: "ambient.istio.io/redirection", "annotation of a Pod, written by the agent",
        "`enabled`: captured, which Istio's control plane waits for.";
    DNS: "ambient.istio.io/dns-capture", "annotation of a Pod",
        "`false`: its DNS does not go to ztunnel.";
    BYPASS_INBOUND: "ambient.istio.io/bypass-inbound-capture", "annotation of a Pod",
        "`true`: calls to it do not go to ztunnel.";
    VIRTUAL: "istio.io/reroute-virtual-interfaces", "annotation of a Pod",
        "Devices of virtual machines inside it, with commas between: what comes from there is captured, too.";
    VIRTUAL_BEFORE: "traffic.sidecar.istio.io/kubevirtInterfaces", "annotation of a Pod with a sidecar",
        "The same, by its former name.";
    INJECT: "sidecar.istio.io/inject", "label or annotation of a Pod",
        "`false`: it has no sidecar, and is none of ours for that.";
    SIDECAR_STATUS: "sidecar.istio.io/status", "annotation of a Pod",
        "Written by the injector: it has a sidecar.";
    INTERCEPTION_MODE: "sidecar.istio.io/interceptionMode", "annotation of a Pod with a sidecar",
        "`NONE`: it is not captured. `REDIRECT` and `TPROXY` are the same here.";
    INCLUDE_RANGES: "traffic.sidecar.istio.io/includeOutboundIPRanges", "annotation of a Pod with a sidecar",
        "Ranges whose calls are captured, and no others; `*`: all.";
    EXCLUDE_RANGES: "traffic.sidecar.istio.io/excludeOutboundIPRanges", "annotation of a Pod with a sidecar",
        "Ranges whose calls are not captured. Policies judge them all the same.";
    INCLUDE_PORTS: "traffic.sidecar.istio.io/includeOutboundPorts", "annotation of a Pod with a sidecar",
        "Ports whose calls are captured whatever the ranges say.";
    EXCLUDE_PORTS: "traffic.sidecar.istio.io/excludeOutboundPorts", "annotation of a Pod with a sidecar",
        "Ports whose calls are not captured.";
    INCLUDE_INBOUND: "traffic.sidecar.istio.io/includeInboundPorts", "annotation of a Pod with a sidecar",
        "Ports of the pod to which calls are captured; `*`: all.";
    EXCLUDE_INBOUND: "traffic.sidecar.istio.io/excludeInboundPorts", "annotation of a Pod with a sidecar",
        "With `*` before: ports of the pod to which calls are not captured.";
    EXCLUDE_DEVICES: "traffic.sidecar.istio.io/excludeInterfaces", "annotation of a Pod with a sidecar",
        "Devices of the pod behind which nobody is captured, either way.";
    STATUS_PORT: "status.sidecar.istio.io/port", "annotation of a Pod with a sidecar",
        "The port where the sidecar answers for the pod's health; calls to it are not captured.";
    SIDECAR_DNS: "ISTIO_META_DNS_CAPTURE", "variable of the container `istio-proxy`",
        "`true`: the sidecar answers DNS, and gets the pod's questions.";
    DISABLE_ENVOY: "DISABLE_ENVOY", "variable of the container `istio-proxy`",
        "`true`: there is no Envoy in it, and nothing is captured.";
}
