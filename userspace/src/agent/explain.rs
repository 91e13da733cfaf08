//! What would become of a packet: the programs' own function on the kernel's own maps, and the objects behind the
//! answer.

use anyhow::{Context as _, bail};
use ebpf::{
    Addr, DropReason,
    capture::{self, Capture, Fate},
    decide,
    event::Outcome,
    packet::{Link, Packet, Protocol, Slice, Tuple, parse},
    rules::{Endpoint, Enforcement, Identity},
};
use tracing::warn;

use super::{pass::Agent, probe, translate};
use crate::{
    api::{CallFate, CaptureExplanation, Cause, Destination, Explanation, Live, Question, Transport, What},
    dataplane::ProgramInfo,
    desired::Ports,
    facts::{PodName, PodNetwork},
    project::{self, Because, CaptureMode, PolicyExplanation, Role},
};

impl Agent {
    /// Answers `sluice list`.
    pub(super) fn list(&self, what: What) -> serde_json::Value {
        let list = match what {
            What::Endpoints => serde_json::to_value(self.endpoints()),
            What::Captures => serde_json::to_value(self.captures()),
            What::Gateways => serde_json::to_value(&self.projection.report.policies),
            What::Registry => serde_json::to_value(self.with_input(project::registry)),
            What::Rules => serde_json::to_value(self.rules()),
            What::Programs => serde_json::to_value(self.programs()),
            What::Maps => serde_json::to_value(self.dataplane.maps()),
        };
        list.unwrap_or_else(|error| serde_json::Value::String(error.to_string()))
    }

    /// Answers `sluice explain`.
    pub(super) fn explain(&self, question: &Question) -> anyhow::Result<Explanation> {
        let Question {
            pod,
            destination,
            live,
        } = question;
        let identity = self.identity(pod)?;
        let rules = self.dataplane.lookup()?;
        let endpoint = rules
            .endpoint(identity)?
            .with_context(|| format!("{pod}: the kernel does not know it (yet); its packets are denied"))?;
        let capture = rules.capture(&endpoint)?;
        let frame = probe::frame(&endpoint, destination);
        let call = capture
            .as_ref()
            .and_then(|capture| explain_call(&rules, capture, destination, frame.as_deref()));
        let outcome = match &frame {
            Some(frame) => judge_frame(&rules, &endpoint, capture.as_ref(), frame),
            None if endpoint.is_host() => judge_call(&rules, &endpoint, destination),
            None => bail!("{pod} has no address of the family of {}", destination.address),
        };
        let generation = rules.generation().0;
        rules.check()?;
        let (kind, reason) = translate::words(outcome);
        let mut because = self.causes(pod, destination);
        if call.as_ref().is_some_and(|call| call.fate == CallFate::Leave) {
            because.extend(self.annotations(pod));
        }
        let live = match (live, &frame, identity) {
            (false, _, _) => None,
            (true, Some(frame), Identity::Device(index)) => {
                let (outcome, generation) = self.dataplane.replay(crate::facts::IfIndex(index), frame)?;
                let (verdict, reason) = translate::words(outcome);
                Some(Live {
                    verdict,
                    reason: reason.to_owned(),
                    generation: generation.0,
                })
            }
            (true, _, _) => {
                bail!("{pod} is in the node's network namespace: there is no device to replay its packets on")
            }
        };
        Ok(Explanation {
            verdict: kind,
            reason: reason.to_owned(),
            explanation: match outcome {
                Outcome::Allowed(reason) => reason.explanation(),
                Outcome::Redirected(reason) => reason.explanation(),
                Outcome::Denied(reason) | Outcome::Audited(reason) => reason.explanation(),
            }
            .to_owned(),
            pod: pod.clone(),
            destination: *destination,
            because,
            generation,
            capture: call,
            live,
        })
    }

    /// How the kernel tells a pod.
    fn identity(&self, pod: &PodName) -> anyhow::Result<Identity> {
        match self.with_input(|input| project::network_of(input, pod).cloned()) {
            Some(Ok(PodNetwork::Own { devices, .. })) => {
                let device = devices.first().with_context(|| format!("{pod} has no device"))?;
                Ok(Identity::Device(device.index.0))
            }
            Some(Ok(PodNetwork::Host { cgroup, .. })) => Ok(Identity::Cgroup(cgroup.id)),
            Some(Err(pending)) => bail!("{pod}: {pending}"),
            None if self.stores.pods.contains_key(pod) => {
                bail!("{pod} does not run on node {}", self.node_name())
            }
            None => bail!("there is no pod {pod}"),
        }
    }

    fn causes(&self, pod: &PodName, destination: &Destination) -> Vec<Cause> {
        let protocol = destination.protocol.protocol(destination.address);
        let explained = self.with_input(|input| {
            project::explain(input, pod, destination.address, protocol, destination.port)
        });
        let Some(explained) = explained else {
            return Vec::new();
        };
        let mut causes: Vec<Cause> = explained
            .internal
            .iter()
            .map(|range| Cause {
                object: range
                    .object
                    .as_ref()
                    .map_or_else(|| range.source.to_string(), ToString::to_string),
                origin: range.origin.as_ref().map(ToString::to_string),
                says: format!("{} is inside the cluster ({})", range.range, range.source),
            })
            .collect();
        if causes.is_empty() {
            causes.extend(explained.policies.iter().flat_map(policy_causes));
        }
        causes
    }

    /// What a pod's annotations exclude from capture, or include alone.
    fn annotations(&self, pod: &PodName) -> Vec<Cause> {
        let Some(pod) = self.stores.pods.get(pod) else {
            return Vec::new();
        };
        let said = pod.mesh.annotations.iter();
        let said = said.filter(|(key, _)| key.starts_with("traffic.sidecar.istio.io/"));
        let causes = said.map(|(key, value)| Cause {
            object: format!("Pod {}", pod.name),
            origin: Some(pod.origin.to_string()),
            says: format!("annotation {key}: {value:?}"),
        });
        causes.collect()
    }

    fn programs(&self) -> Vec<ProgramInfo> {
        self.dataplane.programs().unwrap_or_else(|error| {
            warn!("{error}");
            Vec::new()
        })
    }

    fn rules(&self) -> Vec<serde_json::Value> {
        let endpoints = &self.projection.report.endpoints;
        // What only says that there is something permitted is no permission of its own.
        let marker = Ports::Protocol(Protocol::MARKER.0);
        let rules = self
            .projection
            .desired
            .rules
            .iter()
            .filter(|rule| rule.ports != marker);
        let rows = rules.map(|rule| {
            let destinations: Vec<String> = self
                .projection
                .desired
                .destinations
                .iter()
                .filter(|(_, groups)| **groups == rule.groups)
                .map(|(prefix, _)| prefix.to_string())
                .collect();
            let pods: Vec<&PodName> = endpoints
                .iter()
                .filter(|endpoint| endpoint.policy_id == Some(rule.policy.0))
                .map(|endpoint| &endpoint.pod)
                .collect();
            serde_json::json!({
                "policy": rule.policy.0,
                "destinations": if destinations.is_empty() { vec!["everything else".to_owned()] } else { destinations },
                "ports": rule.ports.to_string(),
                "pods": pods,
            })
        });
        rows.collect()
    }
}

/// As `pod_out` does with a packet that is replayed.
fn judge_frame(
    rules: &crate::dataplane::Live<'_>,
    endpoint: &Endpoint,
    capture: Option<&Capture>,
    frame: &[u8],
) -> Outcome {
    let mut packet = Packet::EMPTY;
    let parsed = parse(&Slice(frame), Link::Ethernet, &mut packet);
    let by_rules = if endpoint.is_stranger() {
        let enforcement = rules.header().enforcement();
        let audited = enforcement == Enforcement::Audit;
        Outcome::of(decide::unknown_sender(enforcement), audited)
    } else {
        let verdict = decide::pod_out(rules, endpoint, &packet, parsed);
        Outcome::of(verdict, endpoint.is_audited())
    };
    match capture {
        Some(capture) => capture::overrule(by_rules, sent(rules, capture, &packet, parsed)),
        None => by_rules,
    }
}

/// With a proxy inside, it is the proxy's call that comes by the pod's device.
fn sent(
    rules: &crate::dataplane::Live<'_>,
    capture: &Capture,
    packet: &Packet,
    parsed: Result<(), DropReason>,
) -> Fate {
    capture::sent(rules, capture, packet, parsed, || capture.is_inside())
}

/// What becomes of a call: with a proxy on the node, that is decided where its first packet leaves the pod; otherwise
/// before there is one.
fn explain_call(
    rules: &crate::dataplane::Live<'_>,
    capture: &Capture,
    destination: &Destination,
    frame: Option<&[u8]>,
) -> Option<CaptureExplanation> {
    let mode = CaptureMode::of(capture.mode())?;
    if let (CaptureMode::Node, Transport::Tcp, Some(frame)) = (mode, destination.protocol, frame) {
        let mut packet = Packet::EMPTY;
        let parsed = parse(&Slice(frame), Link::Ethernet, &mut packet);
        return Some(CaptureExplanation::new(
            mode,
            sent(rules, capture, &packet, parsed),
        ));
    }
    let call = capture::Call {
        src: Addr::UNSPECIFIED,
        dst: destination.address.into(),
        dport: destination.port,
        protocol: destination.protocol.protocol(destination.address),
        by_proxy: false,
    };
    Some(CaptureExplanation::new(
        mode,
        capture::call(rules, capture, &call),
    ))
}

fn judge_call(rules: &crate::dataplane::Live<'_>, endpoint: &Endpoint, destination: &Destination) -> Outcome {
    let tuple = Tuple {
        dst: destination.address.into(),
        dport: destination.port,
        protocol: destination.protocol.protocol(destination.address),
        ..Tuple::EMPTY
    };
    Outcome::of(decide::call(rules, endpoint, &tuple), endpoint.is_audited())
}

fn policy_causes(policy: &PolicyExplanation) -> Vec<Cause> {
    let object = format!("EgressPolicy {}", policy.policy);
    let role = match policy.role {
        Role::Gateway => "a gateway",
        Role::Subject => "a subject",
        Role::None => "nothing",
    };
    let word = if policy.permits {
        "permits it"
    } else {
        "does not permit it"
    };
    let counts = if policy.effective {
        ""
    } else {
        " (does not count: another policy enforces)"
    };
    let mut causes = vec![Cause {
        object: object.clone(),
        origin: Some(policy.origin.to_string()),
        says: format!("the pod is {role} of it; it {word}{counts}"),
    }];
    for because in &policy.because {
        let ports = because.ports.join(", ");
        let (object, origin, what) = match &because.because {
            Because::AnyDestination => (object.clone(), None, "gatewayDestinations: Any".to_owned()),
            Because::ServiceEntry { name, prefix, origin } => (
                format!("ServiceEntry {name}"),
                Some(origin.to_string()),
                format!("declares {prefix}"),
            ),
            Because::Exception { name, cidr } => {
                (object.clone(), None, format!("exception {name} covers {cidr}"))
            }
            Because::Excepted { name, except } => (
                object.clone(),
                None,
                format!("exception {name} leaves out {except}"),
            ),
        };
        let says = if ports.is_empty() {
            what
        } else {
            format!("{what} with {ports}")
        };
        causes.push(Cause { object, origin, says });
    }
    causes
}
