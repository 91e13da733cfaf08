//! What the objects of a directory would do, without a kernel or a node: every pod in it is taken for one of this node's.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use ebpf::{
    event::Outcome,
    rules::{Enforcement, Identity},
};
use serde::{Deserialize, Serialize};

use crate::{
    api::{Destination, Kind},
    facts::{Cgroup, Facts, IfIndex, Inside, NetnsCookie, PodDevice, PodName, PodNetwork},
    names::Names,
    problem::{Problem, Severity},
    project::{CaptureSettings, Input, Kernel, Projection, project},
    source::{Directory, OpenError, Stores},
};

/// The node that everybody is on.
const NODE: &str = "rehearsal";

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory cannot be read.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// Something in it makes no sense.
    #[error("{0}")]
    Broken(Box<Problem>),
    /// Nobody knows of this pod.
    #[error("there is no pod {0} among the manifests")]
    NoPod(PodName),
    /// The pod has no address of this family, or something else is missing.
    #[error("{pod}: {reason}")]
    Pending {
        /// Which.
        pod: PodName,
        /// What is missing.
        reason: String,
    },
}

/// Something that shall be so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// Who sends, as `NAMESPACE/NAME`.
    pub pod: String,
    /// Whereto, as `IP[:PORT][/PROTO]`.
    pub to: String,
    /// What shall become of it: `allow`, `deny` or `audit`.
    pub expect: Kind,
    /// Why, in a word, if that matters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A file of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectations {
    /// In their order.
    pub expectations: Vec<Expectation>,
}

/// The rules of a directory.
#[derive(Debug)]
pub struct Rehearsal {
    identities: BTreeMap<PodName, Identity>,
    projection: Projection,
}

impl Rehearsal {
    /// Reads a directory. A name that ServiceEntries declare has no address here.
    pub fn of(directory: &Path) -> Result<Self, Error> {
        let loaded = Directory::open(directory)?.load();
        let mut problems = loaded.problems.into_iter();
        if let Some(problem) = problems.find(|problem| problem.severity == Severity::Error) {
            return Err(Error::Broken(Box::new(problem)));
        }
        let mut stores = loaded.stores;
        let (facts, identities) = place(&mut stores);
        let projection = project(&Input {
            node: NODE,
            stores: &stores,
            facts: &facts,
            names: &Names::default(),
            internal: &[],
            capture: &CaptureSettings::default(),
            enrolled: &[],
            proxies: &[],
        });
        Ok(Self {
            identities,
            projection,
        })
    }

    /// What is wrong with the objects though they can be read.
    pub fn problems(&self) -> &[Problem] {
        &self.projection.report.problems
    }

    /// What would become of a call.
    pub fn ask(&self, pod: &PodName, destination: &Destination) -> Result<(Kind, &'static str), Error> {
        let Some(identity) = self.identities.get(pod) else {
            return Err(Error::NoPod(pod.clone()));
        };
        let Projection { desired, report, .. } = &self.projection;
        let protocol = destination.protocol.protocol(destination.address);
        let verdict = Kernel(desired).call(*identity, destination.address, protocol, destination.port);
        let (Some(verdict), Some(endpoint)) = (verdict, desired.endpoints.get(identity)) else {
            let mut endpoints = report.endpoints.iter();
            let endpoint = endpoints.find(|endpoint| endpoint.pod == *pod);
            let pending = endpoint.and_then(|endpoint| endpoint.pending.clone());
            return Err(Error::Pending {
                pod: pod.clone(),
                reason: pending.unwrap_or_else(|| "it runs no more".to_owned()),
            });
        };
        let audited = endpoint.is_audited() || desired.enforcement == Enforcement::Audit;
        Ok(match Outcome::of(verdict, audited) {
            Outcome::Allowed(reason) => (Kind::Allow, reason.word()),
            Outcome::Denied(reason) => (Kind::Deny, reason.word()),
            Outcome::Audited(reason) => (Kind::Audit, reason.word()),
            Outcome::Redirected(reason) => (Kind::Redirect, reason.word()),
        })
    }
}

/// Puts every pod on the one node, with a device of its own; one without an address gets one.
fn place(stores: &mut Stores) -> (Facts, BTreeMap<PodName, Identity>) {
    let mut facts = Facts::default();
    let mut identities = BTreeMap::new();
    for (number, pod) in (1u32..).zip(stores.pods.values_mut()) {
        let pod = &mut Arc::make_mut(pod).object;
        pod.node = Some(NODE.to_owned());
        if pod.addresses.is_empty() && !pod.host_network {
            // Of the range for benchmarks (RFC 2544), which nobody routes.
            let [.., a, b] = number.to_be_bytes();
            pod.addresses.push([198, 18, a, b].into());
        }
        let (network, identity) = if pod.host_network {
            let id = u64::from(number);
            let network = PodNetwork::Host {
                cgroup: Cgroup { id, level: 1 },
                path: format!("/sys/fs/cgroup/pod{number}").into(),
            };
            (network, Identity::Cgroup(id))
        } else {
            (own(number), Identity::Device(number))
        };
        facts.pods.insert(pod.name.clone(), Ok(network));
        identities.insert(pod.name.clone(), identity);
    }
    (facts, identities)
}

fn own(number: u32) -> PodNetwork {
    let [.., a, b] = number.to_be_bytes();
    PodNetwork::Own {
        netns: NetnsCookie(u64::from(number)),
        devices: vec![PodDevice {
            index: IfIndex(number),
            name: format!("pod{number}"),
            mac: [2, 0, 0, 0, a, b],
            bridged: false,
        }],
        path: format!("/run/netns/pod{number}").into(),
        inside: Inside::default(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const OBJECTS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: gateway, namespace: egress, labels: {app: gateway}}
spec: {nodeName: elsewhere}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: payments, namespace: egress}
spec:
  hosts: [payments.example]
  addresses: [203.0.113.5]
  ports: [{number: 443, name: tls, protocol: TLS}]
---
apiVersion: sluice.dev/v1alpha1
kind: EgressPolicy
metadata: {name: one-way-out}
spec:
  gateways: [{namespace: egress, podSelector: {matchLabels: {app: gateway}}}]
";

    fn ask(rehearsal: &Rehearsal, pod: [&str; 2], to: &str) -> Result<(Kind, &'static str), Error> {
        let pod = PodName {
            namespace: pod[0].to_owned(),
            name: pod[1].to_owned(),
        };
        rehearsal.ask(&pod, &to.parse().expect("a destination"))
    }

    #[test]
    fn a_directory_answers_without_a_node() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("all.yaml"), OBJECTS).expect("written");
        let rehearsal = Rehearsal::of(folder.path()).expect("rules");
        let cases = [
            (["shop", "web"], "203.0.113.5:443", (Kind::Deny, "not-gateway")),
            (["egress", "gateway"], "203.0.113.5:443", (Kind::Allow, "rule")),
            (["egress", "gateway"], "203.0.113.5:80", (Kind::Deny, "port")),
            (
                ["egress", "gateway"],
                "203.0.113.6:443",
                (Kind::Deny, "not-registered"),
            ),
        ];
        for (pod, to, expected) in cases {
            assert_eq!(ask(&rehearsal, pod, to).expect(to), expected, "{pod:?} {to}");
        }
        let nobody = ask(&rehearsal, ["shop", "nobody"], "203.0.113.5:443");
        assert!(matches!(nobody, Err(Error::NoPod(_))), "{nobody:?}");
    }

    #[test]
    fn what_is_broken_is_no_answer() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("all.yaml"), "kind: [").expect("written");
        assert!(matches!(Rehearsal::of(folder.path()), Err(Error::Broken(_))));
    }
}
