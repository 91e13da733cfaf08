//! One captured namespace, as the kernel's tables have it.

use ebpf::{
    Addr,
    capture::{Capture, Mode, port},
    rules::{Endpoint, Identity, capacity},
};

use super::{
    CaptureMode, CapturedPod, Captures, Workload, annotations::Reader, chosen::Chosen, node, proxies, ranges,
    reference, wish::Wish,
};
use crate::{facts::NetnsCookie, problem::Severity, project::Input, zds::PodUid};

/// How much one pod may say of ranges, and of ports. Annotations are the tenants', and shall not fill the tables for all.
const MAX_SAID: usize = 1024;
/// One of two banks.
pub(super) const ALL_RANGES: usize = capacity::RANGES as usize / 2;
/// One of two banks.
const ALL_PORTS: usize = capacity::PORTS as usize / 2;

impl From<CaptureMode> for Mode {
    fn from(mode: CaptureMode) -> Self {
        match mode {
            CaptureMode::InPod => Self::InPod,
            CaptureMode::Sidecar => Self::Sidecar,
            CaptureMode::Node => Self::Node,
        }
    }
}

impl Captures {
    /// Adds a namespace.
    pub(super) fn add(&mut self, input: &Input<'_>, netns: NetnsCookie, chosen: &Chosen<'_>) {
        let mut wish = self.read(input, chosen);
        let ranges = ranges::flatten(
            &wish.outbound,
            &chosen.place.inside.routes,
            &wish.excluded_devices,
        );
        let ports = wish.ports();
        let ranges_fit = ranges.len() <= MAX_SAID && self.ranges.len() + ranges.len() <= ALL_RANGES;
        let ports_fit = ports.len() <= MAX_SAID && self.ports.len() + ports.len() <= ALL_PORTS;
        if !ranges_fit || !ports_fit {
            let message = format!(
                "says something of {} ranges and {} ports, more than there is room for ({MAX_SAID} each): all its calls \
                 are captured",
                ranges.len(),
                ports.len()
            );
            self.problems
                .push(proxies::about(chosen, Severity::Error, message));
            wish.outbound.every_range = true;
            wish.inbound.every_port = wish.inbound.captured;
        }
        let proxies = proxies::of(input, chosen, &mut self.problems);
        let capture = capture(input, netns, chosen, &wish)
            .proxied_by(
                &proxies
                    .iter()
                    .map(|proxy| reference(proxy.cgroup))
                    .collect::<Vec<_>>(),
            )
            .with_ranges(ranges_fit && !ranges.is_empty())
            .with_ports(ports_fit && !ports.is_empty());
        self.entries.insert(netns, capture);
        if ranges_fit {
            let entries = ranges.into_iter().map(|(range, scope)| ((netns, range), scope));
            self.ranges.extend(entries);
        }
        if ports_fit {
            let entries = ports.into_iter().map(|(port, scope)| ((netns, port), scope));
            self.ports.extend(entries);
        }
        self.identify(netns, chosen);
        self.pods.insert(
            netns,
            CapturedPod {
                name: chosen.name.clone(),
                pod: chosen.pod.map(|pod| pod.name.clone()),
                netns: chosen.place.path.to_owned(),
                mode: chosen.mode,
                inbound: wish.inbound.captured,
                virtual_interfaces: wish.virtual_devices,
                excluded_interfaces: wish.excluded_devices,
                proxies,
                workload: workload(input, chosen),
            },
        );
    }

    /// Reads what the namespace's pod says.
    fn read(&mut self, input: &Input<'_>, chosen: &Chosen<'_>) -> Wish {
        let mut reader = chosen.pod.map(Reader::new);
        let wish = match (chosen.mode, &mut reader) {
            (CaptureMode::Sidecar, Some(reader)) => Wish::sidecar(reader),
            (CaptureMode::Node, reader) => Wish::node(input.capture, reader.as_mut()),
            (CaptureMode::InPod | CaptureMode::Sidecar, reader) => {
                Wish::ambient(input.capture, reader.as_mut())
            }
        };
        self.problems.extend(reader.into_iter().flat_map(Reader::finish));
        wish
    }

    /// How the node tells it.
    fn identify(&mut self, netns: NetnsCookie, chosen: &Chosen<'_>) {
        self.identities.insert(Identity::Netns(netns.0), netns);
        for device in chosen.place.devices.iter().filter(|device| device.index.0 != 0) {
            let identity = Identity::Device(device.index.0);
            let stranger = Endpoint::new(
                device.index.0,
                device.mac,
                own_address(chosen, true),
                own_address(chosen, false),
            );
            self.identities.insert(identity, netns);
            self.strangers
                .insert(identity, stranger.as_stranger().captured_in(netns.0));
        }
    }
}

/// Everything but ranges, ports and proxies.
fn capture(input: &Input<'_>, netns: NetnsCookie, chosen: &Chosen<'_>, wish: &Wish) -> Capture {
    let capture = Capture::new(netns.0, chosen.mode.into())
        .at(own_address(chosen, true), own_address(chosen, false))
        .every_range(wish.outbound.every_range)
        .inbound(wish.inbound.captured)
        .every_port(wish.inbound.every_port);
    match chosen.mode {
        CaptureMode::Node => node::proxied(input, capture, &chosen.place, wish.dns),
        CaptureMode::InPod | CaptureMode::Sidecar => {
            let (uid, gid) = user(input, chosen);
            let capture = capture.run_as(uid, gid);
            if wish.dns {
                capture.dns_to(port::DNS)
            } else {
                capture
            }
        }
    }
}

/// The address that its calls come from.
fn own_address(chosen: &Chosen<'_>, v4: bool) -> Option<Addr> {
    let mut addresses = chosen.addresses().iter().chain(&chosen.place.inside.addresses);
    let address = addresses.find(|address| address.is_ipv4() == v4);
    address.copied().map(Addr::from)
}

/// User and group that stand for the proxy, if the operator says that there are such. A sidecar may have others than most.
fn user(input: &Input<'_>, chosen: &Chosen<'_>) -> (u32, u32) {
    let sidecar = match chosen.mode {
        CaptureMode::Sidecar => chosen.pod.and_then(|pod| pod.mesh.sidecar.as_ref()),
        CaptureMode::InPod | CaptureMode::Node => None,
    };
    let pick = |told: Option<u32>, own: Option<i64>| {
        let own = own
            .and_then(|number| u32::try_from(number).ok())
            .filter(|number| *number != 0);
        told.map_or(Capture::NOBODY, |told| own.unwrap_or(told))
    };
    (
        pick(input.capture.proxy_uid, sidecar.and_then(|sidecar| sidecar.user)),
        pick(input.capture.proxy_gid, sidecar.and_then(|sidecar| sidecar.group)),
    )
}

/// As what ztunnel is told of it: a pod of the cluster whose proxy is ztunnel.
fn workload(input: &Input<'_>, chosen: &Chosen<'_>) -> Option<Workload> {
    let pod = chosen.pod.filter(|_| chosen.mode == CaptureMode::InPod)?;
    let has_own_proxy = chosen.enrolled.is_some_and(|how| !how.proxy_cgroups.is_empty());
    if !input.capture.ambient || has_own_proxy {
        return None;
    }
    Some(Workload {
        uid: PodUid(pod.uid.clone().unwrap_or_else(|| pod.name.to_string())),
        pod: pod.name.clone(),
        service_account: pod.service_account.clone(),
    })
}
