//! Whose connections go to the node proxy, and which of them: objects, enrolments and facts in, entries of the kernel's
//! tables out.
//!
//! What cannot be known captures more, not less: a list that cannot be read includes everything, a proxy that is not
//! known has its calls captured, and a captured call that nobody takes is refused.

mod annotations;
mod chosen;
mod eligible;
mod entry;
mod node;
mod owners;
mod proxies;
mod ranges;
mod settings;
mod wish;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use ebpf::{
    Addr,
    capture::{Capture, CgroupRef, Scope},
    rules::{Endpoint, Identity},
};
use ipnet::IpNet;

use self::{chosen::Choice, entry::ALL_RANGES, owners::Owners};
pub(super) use self::{chosen::is_enrolled, node::is_held};
pub use self::{
    chosen::{depth, network_of},
    eligible::{CaptureMode, Eligible, NotCaptured, eligible},
    settings::{AmbientSelectors, Settings},
};
use super::{Input, endpoints::Endpoints};
use crate::{
    desired::Desired,
    facts::{Cgroup, NetnsCookie, PodName},
    problem::{Problem, Severity},
    zds::PodUid,
};

/// A captured network namespace, as far as it needs more than entries in the kernel's tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CapturedPod {
    /// What messages call it.
    pub name: String,
    /// The pod that it is.
    pub pod: Option<PodName>,
    /// Where it is.
    pub netns: PathBuf,
    /// How it is captured.
    pub mode: CaptureMode,
    /// Whether calls to it are captured.
    pub inbound: bool,
    /// Interfaces inside behind which others are: what comes by them is the pod's.
    pub virtual_interfaces: BTreeSet<String>,
    /// Interfaces inside by which nothing is captured.
    pub excluded_interfaces: BTreeSet<String>,
    /// The cgroups of its proxy, at which original destinations are answered for.
    pub proxies: Vec<Proxy>,
    /// As what it is handed to ztunnel, if it is.
    pub workload: Option<Workload>,
}

/// The captured network namespaces.
pub type Captured = BTreeMap<NetnsCookie, CapturedPod>;

/// A cgroup of a proxy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Proxy {
    /// The cgroup.
    pub cgroup: Cgroup,
    /// Its directory.
    pub path: PathBuf,
}

/// A pod, as ztunnel is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Its `metadata.uid`, or namespace and name where a manifest has none.
    pub uid: PodUid,
    /// Its namespace and name.
    pub pod: PodName,
    /// The name of its service account.
    pub service_account: String,
}

/// All that is captured.
#[derive(Default)]
pub(super) struct Captures {
    entries: BTreeMap<NetnsCookie, Capture>,
    owners: BTreeMap<Addr, NetnsCookie>,
    ranges: BTreeMap<(NetnsCookie, IpNet), Scope>,
    ports: BTreeMap<(NetnsCookie, u16), Scope>,
    kubelet: CgroupRef,
    /// How the kernel tells captured namespaces on the node's side, if no policy speaks of them.
    strangers: BTreeMap<Identity, Endpoint>,
    /// In which namespace an identity is captured.
    identities: BTreeMap<Identity, NetnsCookie>,
    pub(super) pods: Captured,
    pub(super) of_pods: BTreeMap<PodName, Result<CaptureMode, NotCaptured>>,
    pub(super) problems: Vec<Problem>,
}

impl Captures {
    pub(super) fn new(input: &Input<'_>, endpoints: &Endpoints<'_>) -> Self {
        let mut captures = Self::default();
        let Choice {
            chosen,
            of_pods,
            problems,
        } = chosen::choose(input, endpoints);
        captures.of_pods = of_pods;
        captures.problems = problems;
        let mut owners = Owners::default();
        for (netns, chosen) in &chosen {
            captures.add(input, *netns, chosen);
            owners.add(*netns, chosen.addresses(), &chosen.place.inside.addresses);
        }
        if node::guard(input, &mut captures) {
            owners.add_node(input.facts);
            let room = ALL_RANGES.saturating_sub(captures.ranges.len());
            captures.ranges.extend(node::translated(input).take(room));
        }
        let name = |netns| match chosen.get(&netns) {
            Some(chosen) => chosen.name.clone(),
            None => "the node".to_owned(),
        };
        captures.owners = owners.finish(name, &mut captures.problems);
        captures.warn_of_proxies();
        captures.find_kubelet(input);
        captures
    }

    /// The cgroup whose calls to captured pods are probes.
    fn find_kubelet(&mut self, input: &Input<'_>) {
        let Some(path) = &input.capture.kubelet_cgroup else {
            return;
        };
        match proxies::find(input, path) {
            Some(Ok(cgroup)) => self.kubelet = reference(cgroup),
            Some(Err(reason)) => {
                let message = format!("--kubelet-cgroup: {reason}; probes of captured pods are captured");
                self.problems.push(Problem::new(Severity::Error, message));
            }
            None => {}
        }
    }

    /// One word for all: until ztunnel is there it is missing for every pod.
    fn warn_of_proxies(&mut self) {
        let alone = self.pods.values().filter(|pod| pod.proxies.is_empty());
        let alone = alone.filter(|pod| pod.mode == CaptureMode::InPod).count();
        if alone > 0 {
            let message = format!(
                "no proxy is known to {alone} captured network namespace(s): what they call is refused until a ztunnel \
                 connects, or --proxy-cgroup names its cgroup"
            );
            self.problems.push(Problem::new(Severity::Warning, message));
        }
    }

    /// Writes everything down. The pods' endpoints must be there already.
    pub(super) fn finish(self, endpoints: &Endpoints<'_>, input: &Input<'_>, desired: &mut Desired) {
        let Self {
            entries,
            owners,
            ranges,
            ports,
            kubelet,
            strangers,
            identities,
            pods: _,
            of_pods: _,
            problems: _,
        } = self;
        for (identity, netns) in identities {
            if let Some(endpoint) = desired.endpoints.get_mut(&identity) {
                *endpoint = endpoint.captured_in(netns.0);
            } else if let Some(stranger) = strangers.get(&identity) {
                desired.endpoints.insert(identity, *stranger);
            }
        }
        desired.captures = entries;
        desired.owners = owners;
        desired.ranges = ranges;
        desired.ports = ports;
        desired.kubelet = kubelet;
        desired.node_port = input.capture.node_proxy.unwrap_or(0);
        node::hold(input, endpoints, desired);
    }
}

/// As the programs have it.
const fn reference(Cgroup { id, level }: Cgroup) -> CgroupRef {
    CgroupRef::new(id, level)
}
