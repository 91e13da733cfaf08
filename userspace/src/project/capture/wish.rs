//! What is captured of a pod, and what is not: annotations, with the meaning that Istio gives them
//! (`cni/pkg/nodeagent/net.go`, `cni/pkg/plugin/sidecar_redirect.go`, `tools/istio-iptables/pkg/capture/run.go` in
//! istio/istio).

use std::collections::{BTreeMap, BTreeSet};

use ebpf::capture::Scope;
use ipnet::IpNet;

use super::{
    Settings,
    annotations::{Listed, Reader},
};
use crate::{
    objects::{
        Mesh, parse_bool,
        words::{
            BYPASS_INBOUND, DNS, EXCLUDE_DEVICES, EXCLUDE_INBOUND, EXCLUDE_PORTS, EXCLUDE_RANGES,
            INCLUDE_INBOUND, INCLUDE_PORTS, INCLUDE_RANGES, INTERCEPTION_MODE, SIDECAR_DNS, STATUS_PORT,
            VIRTUAL, VIRTUAL_BEFORE,
        },
    },
    problem::Severity,
};

/// Where the sidecar's agent answers for it, unless the annotation says otherwise.
const DEFAULT_STATUS_PORT: u16 = 15020;
/// Ports of the sidecar itself: status, readiness, metrics.
const ALWAYS_EXCLUDED: [u16; 3] = [15020, 15021, 15090];

/// What is captured of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wish {
    /// Whose DNS is captured.
    pub(super) dns: bool,
    pub(super) outbound: Outbound,
    pub(super) inbound: Inbound,
    /// Devices by which nothing is captured.
    pub(super) excluded_devices: BTreeSet<String>,
    /// Devices inside the pod behind which others are.
    pub(super) virtual_devices: BTreeSet<String>,
}

/// Which calls of the pod are captured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outbound {
    /// Those to any range that is not excluded.
    pub(super) every_range: bool,
    pub(super) included_ranges: Vec<IpNet>,
    pub(super) excluded_ranges: Vec<IpNet>,
    pub(super) included_ports: Vec<u16>,
    pub(super) excluded_ports: Vec<u16>,
}

/// Which calls to the pod are captured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Inbound {
    /// Any at all.
    pub(super) captured: bool,
    /// Those to any port that is not excluded.
    pub(super) every_port: bool,
    pub(super) included_ports: Vec<u16>,
    pub(super) excluded_ports: Vec<u16>,
}

impl Inbound {
    const EVERYTHING: Self = Self {
        captured: true,
        every_port: true,
        included_ports: Vec::new(),
        excluded_ports: Vec::new(),
    };
}

impl Outbound {
    const EVERYTHING: Self = Self {
        every_range: true,
        included_ranges: Vec::new(),
        excluded_ranges: Vec::new(),
        included_ports: Vec::new(),
        excluded_ports: Vec::new(),
    };
}

impl Wish {
    /// By ztunnel. The reader is absent for a namespace that is no pod's.
    pub(super) fn ambient(settings: &Settings, reader: Option<&mut Reader<'_>>) -> Self {
        let mut wish = Self {
            dns: !settings.no_dns_capture,
            outbound: Outbound::EVERYTHING,
            inbound: Inbound::EVERYTHING,
            ..Self::default()
        };
        if let Some(reader) = reader {
            if let Some(dns) = reader.truth(DNS) {
                wish.dns = dns;
            }
            wish.inbound.captured = !reader.truth(BYPASS_INBOUND).unwrap_or_default();
            wish.virtual_devices = reader.devices(VIRTUAL);
        }
        wish
    }

    /// By the node proxy: what the pod calls, and nothing that calls the pod.
    pub(super) fn node(settings: &Settings, reader: Option<&mut Reader<'_>>) -> Self {
        let declined = reader.and_then(|reader| reader.truth(DNS)) == Some(false);
        Self {
            dns: settings.node_proxy_dns.is_some() && !declined,
            outbound: Outbound::EVERYTHING,
            ..Self::default()
        }
    }

    /// By its sidecar.
    pub(super) fn sidecar(reader: &mut Reader<'_>) -> Self {
        reader.word(
            INTERCEPTION_MODE,
            &["REDIRECT", "TPROXY"],
            "REDIRECT, TPROXY or NONE",
        );
        let virtual_key = if reader.has(VIRTUAL) {
            VIRTUAL
        } else {
            VIRTUAL_BEFORE
        };
        Self {
            dns: sidecar_answers_dns(reader),
            outbound: Outbound::of_sidecar(reader),
            inbound: Inbound::of_sidecar(reader),
            excluded_devices: reader.devices(EXCLUDE_DEVICES),
            virtual_devices: reader.devices(virtual_key),
        }
    }

    /// What is said of ports.
    pub(super) fn ports(&self) -> BTreeMap<u16, Scope> {
        let Self {
            dns: _,
            outbound,
            inbound,
            excluded_devices: _,
            virtual_devices: _,
        } = self;
        let said = [
            (&outbound.excluded_ports, Scope::EXCLUDED),
            (&outbound.included_ports, Scope::INCLUDED),
            (&inbound.excluded_ports, Scope::INBOUND_EXCLUDED),
            (&inbound.included_ports, Scope::INBOUND_INCLUDED),
        ];
        let mut ports: BTreeMap<u16, Scope> = BTreeMap::new();
        for (list, scope) in said {
            for port in list {
                let known = ports.entry(*port).or_default();
                *known = known.and(scope);
            }
        }
        ports
    }
}

/// The proxy reads the same variable to know whether to listen.
fn sidecar_answers_dns(reader: &mut Reader<'_>) -> bool {
    let Mesh { sidecar, .. } = &reader.pod().mesh;
    let said = sidecar
        .as_ref()
        .and_then(|sidecar| sidecar.variables.get(SIDECAR_DNS));
    let Some(said) = said else { return false };
    parse_bool(said).unwrap_or_else(|| {
        let message = format!(
            "{SIDECAR_DNS} of its container istio-proxy: {said:?} is not true or false; its DNS is not captured"
        );
        reader.warn(Severity::Warning, message);
        false
    })
}

impl Outbound {
    fn of_sidecar(reader: &mut Reader<'_>) -> Self {
        let mut outbound = Self {
            excluded_ranges: reader.excluded_ranges(EXCLUDE_RANGES),
            excluded_ports: reader
                .excluded_ports(EXCLUDE_PORTS)
                .unwrap_or_else(|| vec![DEFAULT_STATUS_PORT]),
            ..Self::default()
        };
        match reader.included_ranges(INCLUDE_RANGES) {
            None | Some(Listed::Everything) => outbound.every_range = true,
            Some(Listed::Only(ranges)) => outbound.included_ranges = ranges,
        }
        match reader.included_ports(INCLUDE_PORTS) {
            None => {}
            Some(Listed::Everything) => outbound.every_range = true,
            Some(Listed::Only(ports)) => outbound.included_ports = ports,
        }
        outbound
    }
}

impl Inbound {
    fn of_sidecar(reader: &mut Reader<'_>) -> Self {
        // Read in any case: what is wrong with it is worth a word, even where it has no meaning.
        let excluded = reader.excluded_ports(EXCLUDE_INBOUND).unwrap_or_default();
        let status = reader.port(STATUS_PORT, DEFAULT_STATUS_PORT);
        match reader.included_ports(INCLUDE_INBOUND) {
            None | Some(Listed::Everything) => {
                let excluded: BTreeSet<_> = excluded
                    .into_iter()
                    .chain(ALWAYS_EXCLUDED)
                    .chain([status])
                    .collect();
                Self {
                    captured: true,
                    every_port: true,
                    included_ports: Vec::new(),
                    excluded_ports: excluded.into_iter().collect(),
                }
            }
            Some(Listed::Only(ports)) => Self {
                captured: !ports.is_empty(),
                every_port: false,
                included_ports: ports,
                excluded_ports: Vec::new(),
            },
        }
    }
}
