//! Ports of a proxy inside a pod, as ztunnel and Istio's sidecar have them (`cni/pkg/config/config.go` in istio/istio).

/// Administration of an Envoy: it can be told to stop there.
pub const ADMIN: u16 = 15000;
/// Captured calls of the pod.
pub const OUTBOUND: u16 = 15001;
/// The debug interface of Istio's sidecar agent.
pub const DEBUG: u16 = 15004;
/// Captured calls to the pod.
pub const INBOUND: u16 = 15006;
/// Calls to the pod that come by HBONE; never captured.
pub const HBONE: u16 = 15008;
/// The resolver, on the loopback addresses.
pub const DNS: u16 = 15053;
/// Where resolvers are asked.
pub const ASKED_DNS: u16 = 53;

/// Ports that only the proxy may listen on.
#[inline(always)]
pub const fn is_proxys(port: u16) -> bool {
    matches!(port, OUTBOUND | INBOUND | HBONE | DNS)
}

/// Ports that lead round the capture, or into a loop, when the pod calls them at its own address.
#[inline(always)]
pub const fn is_way_round(port: u16) -> bool {
    matches!(port, ADMIN | OUTBOUND | DEBUG | INBOUND)
}
