//! Which network namespaces are captured, and as whose.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
};

use super::{
    CaptureMode, NotCaptured, Settings,
    eligible::{eligible, never},
};
use crate::{
    enrolled::{self, Enrolled},
    facts::{Depth, Inside, NetnsCookie, PodDevice, PodName, PodNetwork},
    objects::{Labels, ObjectRef, Pod, Stored},
    problem::{Problem, Severity},
    project::{
        Input,
        endpoints::{Endpoints, Local},
    },
};

/// A network namespace to capture.
pub(super) struct Chosen<'a> {
    pub(super) name: String,
    pub(super) pod: Option<&'a Stored<Pod>>,
    pub(super) mode: CaptureMode,
    /// Somebody has enrolled it.
    pub(super) enrolled: Option<&'a Enrolled>,
    pub(super) place: Place<'a>,
}

/// Where it is.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) netns: NetnsCookie,
    pub(super) devices: &'a [PodDevice],
    pub(super) path: &'a Path,
    pub(super) inside: &'a Inside,
}

/// Whom to capture, and what became of the pods of this node.
#[derive(Default)]
pub(super) struct Choice<'a> {
    pub(super) chosen: BTreeMap<NetnsCookie, Chosen<'a>>,
    pub(super) of_pods: BTreeMap<PodName, Result<CaptureMode, NotCaptured>>,
    pub(super) problems: Vec<Problem>,
}

impl Chosen<'_> {
    /// The addresses that the cluster says it has.
    pub(super) fn addresses(&self) -> &[IpAddr] {
        self.pod.map_or(&[], |pod| pod.addresses.as_slice())
    }
}

impl<'a> Place<'a> {
    fn of(network: &'a PodNetwork) -> Option<Self> {
        match network {
            PodNetwork::Own {
                netns,
                devices,
                path,
                inside,
            } => Some(Self {
                netns: *netns,
                devices,
                path,
                inside,
            }),
            PodNetwork::Host { .. } => None,
        }
    }
}

impl From<enrolled::Mode> for CaptureMode {
    fn from(mode: enrolled::Mode) -> Self {
        match mode {
            enrolled::Mode::InPod => Self::InPod,
            enrolled::Mode::Node => Self::Node,
        }
    }
}

/// Where a pod's packets come from: what was found for it, or for the namespace that somebody has enrolled as this pod.
pub fn network_of<'a>(input: &Input<'a>, pod: &PodName) -> Option<&'a Result<PodNetwork, String>> {
    let named = || input.enrolled.iter().find(|how| how.name.as_ref() == Some(pod));
    input
        .facts
        .pods
        .get(pod)
        .or_else(|| input.facts.enrolled.get(&named()?.netns))
}

/// Whether somebody has enrolled a namespace as this pod, which nothing else says to be elsewhere.
pub(in crate::project) fn is_enrolled(input: &Input<'_>, pod: &Pod) -> bool {
    pod.node.is_none()
        && input
            .enrolled
            .iter()
            .any(|how| how.name.as_ref() == Some(&pod.name))
}

/// How deep the agent has to look into a pod's network namespace.
pub fn depth(pod: &Pod, namespace: Option<&Labels>, enrolled: &[Enrolled], settings: &Settings) -> Depth {
    let by_hand = enrolled
        .iter()
        .any(|how| how.name.as_ref() == Some(&pod.name) || Some(&how.netns) == pod.netns.as_ref());
    match eligible(pod, namespace, settings).mode() {
        Ok(CaptureMode::Sidecar) => Depth::Routes,
        Ok(CaptureMode::InPod | CaptureMode::Node) => Depth::Addresses,
        Err(_) if by_hand => Depth::Addresses,
        Err(_) => Depth::Devices,
    }
}

pub(super) fn choose<'a>(input: &Input<'a>, endpoints: &Endpoints<'a>) -> Choice<'a> {
    let mut choice = Choice::default();
    let mut taken: BTreeSet<&PathBuf> = BTreeSet::new();
    for local in &endpoints.pods {
        let enrolled = enrolment(input, local);
        taken.extend(enrolled.map(|how| &how.netns));
        choice.pod(input, local, enrolled);
    }
    for how in input.enrolled.iter().filter(|how| !taken.contains(&how.netns)) {
        choice.stranger(input, how);
    }
    choice
}

/// The enrolment of a pod's namespace, by its name or because it is the same namespace.
fn enrolment<'a>(input: &Input<'a>, local: &Local<'a>) -> Option<&'a Enrolled> {
    let own = local.network.and_then(Place::of)?.netns;
    let is_same = |how: &&Enrolled| {
        let found = input
            .facts
            .enrolled
            .get(&how.netns)
            .and_then(|found| found.as_ref().ok());
        found.and_then(Place::of).is_some_and(|place| place.netns == own)
    };
    input.enrolled.iter().find(is_same)
}

impl<'a> Choice<'a> {
    fn pod(&mut self, input: &Input<'a>, local: &Local<'a>, enrolled: Option<&'a Enrolled>) {
        let pod = local.pod;
        let namespace = input.stores.namespaces.get(&pod.name.namespace);
        let labels = namespace.map(|namespace| &namespace.labels);
        let by_hand = enrolled.filter(|_| never(pod).is_none());
        let mode = match by_hand {
            Some(how) => Ok(how.mode.into()),
            None => eligible(pod, labels, input.capture).mode(),
        };
        let place = local.network.and_then(Place::of);
        let mut about = |severity, message: String| {
            let problem = Problem::new(severity, message)
                .about(ObjectRef::from(&pod.name))
                .at(pod.origin.clone());
            self.problems.push(problem);
        };
        let told = match (mode, place) {
            (Ok(mode), Some(place)) => {
                // Several pods in one namespace are reported elsewhere; it is captured if one of them is.
                self.chosen.entry(place.netns).or_insert_with(|| Chosen {
                    name: pod.name.to_string(),
                    pod: Some(pod),
                    mode,
                    enrolled: by_hand,
                    place,
                });
                Ok(mode)
            }
            (Ok(mode), None) => {
                let message = format!(
                    "is not captured yet ({mode}): {}",
                    NotCaptured::Pending.explanation()
                );
                about(Severity::Warning, message);
                Err(NotCaptured::Pending)
            }
            (Err(why), _) => {
                if why == NotCaptured::UnknownNamespace {
                    about(
                        Severity::Warning,
                        format!("is not captured: {}", why.explanation()),
                    );
                }
                Err(why)
            }
        };
        self.of_pods.insert(pod.name.clone(), told);
    }

    /// A namespace that is no pod of this node.
    fn stranger(&mut self, input: &Input<'a>, how: &'a Enrolled) {
        let path = how.netns.display();
        match input.facts.enrolled.get(&how.netns) {
            None => {}
            Some(Err(reason)) => {
                let message = format!("enrolled network namespace {path} is not captured: {reason}");
                self.problems.push(Problem::new(Severity::Error, message));
            }
            Some(Ok(network)) => {
                let Some(place) = Place::of(network) else { return };
                if let Some(name) = &how.name {
                    let message = format!(
                        "network namespace {path} is enrolled as pod {name}, which does not run here or is elsewhere; \
                         it is captured as nobody's"
                    );
                    self.problems.push(Problem::new(Severity::Warning, message));
                }
                self.chosen.entry(place.netns).or_insert_with(|| Chosen {
                    name: how
                        .name
                        .as_ref()
                        .map_or_else(|| path.to_string(), ToString::to_string),
                    pod: None,
                    mode: how.mode.into(),
                    enrolled: Some(how),
                    place,
                });
            }
        }
    }
}
