//! When a pod that CNI has announced may begin to send.

use std::fmt;

use ebpf::rules::Enforcement;

use super::{announcements::Announced, pass::Agent};
use crate::{
    api::{Admission, Announcement, Attachment, CniRequest},
    facts::PodNetwork,
    node,
    objects::Pod,
    problem::{Problem, Severity},
    project::{EndpointReport, NotCaptured},
};

/// What became of a request.
pub(super) enum Answer {
    /// That is all.
    Now(Result<Admission, Refusal>),
    /// When this one is admitted, or as many milliseconds have passed.
    Later(Attachment, u64),
}

/// Why a pod may not begin (yet).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal(String);

impl Refusal {
    fn new(reason: impl fmt::Display) -> Self {
        Self(reason.to_string())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        Self(format!("{error:#}"))
    }
}

impl Agent {
    /// Keeps the plugin in its place.
    pub(super) fn keep_plugin(&mut self, problems: &mut Vec<Problem>) {
        let Some(installation) = &mut self.installation else {
            return;
        };
        if let Err(error) = installation.keep() {
            problems.push(Problem::new(Severity::Warning, error.to_string()));
        } else if installation.state().file.is_none() {
            let message = format!(
                "{} has no network configuration yet that the CNI plugin could be chained to",
                installation.conf_dir().display()
            );
            problems.push(Problem::new(Severity::Info, message));
        }
    }

    /// Adds to the objects what was announced of pods before the cluster is told.
    pub(super) fn complete_announced(&mut self, problems: &mut Vec<Problem>) {
        if let Err(error) = self.announcements.prune() {
            problems.push(Problem::new(Severity::Warning, format!("{error:#}")));
        }
        self.announcements.complete(&mut self.stores);
    }

    /// Does what the CNI plugin wants. What is to be known of a new pod takes a look at everything.
    pub(super) async fn cni(&mut self, request: CniRequest) -> Answer {
        let generation = self.dataplane.generation().0;
        let done = |done: anyhow::Result<()>| {
            Answer::Now(done.map(|()| Admission { generation }).map_err(Refusal::from))
        };
        match request {
            CniRequest::Add {
                announcement,
                wait_ms,
            } => match self.announce(announcement).await {
                Ok(attachment) => Answer::Later(attachment, wait_ms),
                Err(refusal) => Answer::Now(Err(refusal)),
            },
            CniRequest::Check(attachment) => Answer::Now(self.admitted(&attachment)),
            CniRequest::Del(attachment) => done(self.announcements.remove(&attachment)),
            CniRequest::Gc { network, valid } => done(self.announcements.keep(&network, &valid)),
            CniRequest::Status => Answer::Now(self.could_admit().map(|()| Admission { generation })),
        }
    }

    /// Takes note of a pod, as it is found now.
    async fn announce(&mut self, mut announcement: Announcement) -> Result<Attachment, Refusal> {
        // A path below the runtime's /proc.
        if let Ok(process) = announcement.netns.strip_prefix("/proc") {
            announcement.netns = self.settings.proc_root.join(process);
        }
        let (cookie, inside) = node::inside(&announcement.netns).await.map_err(Refusal::new)?;
        // What was known of it is of before the plugins did their work.
        self.node.forget(&announcement.netns);
        let mut missing = announcement.addresses.clone();
        missing.retain(|address| !inside.addresses.contains(address));
        let attachment = announcement.attachment.clone();
        self.announcements.add(Announced {
            announcement,
            cookie,
            missing,
        })?;
        Ok(attachment)
    }

    /// Whether the pod of this attachment may send: the rules know it, and its connections go where they shall.
    pub(super) fn admitted(&self, attachment: &Attachment) -> Result<Admission, Refusal> {
        self.could_admit()?;
        let admission = Admission {
            generation: self.dataplane.generation().0,
        };
        if self.dataplane.enforcement() == Enforcement::Off && !self.captures_anybody() {
            return Ok(admission);
        }
        let announced = self.announcements.get(attachment);
        let announced = announced.ok_or_else(|| Refusal::new("it was announced, and deleted since"))?;
        if let Some(address) = announced.missing.first() {
            return Err(Refusal::new(format_args!(
                "{address} is said to be its address, and is not inside {}",
                announced.announcement.netns.display()
            )));
        }
        let pod = self.object_of(announced)?;
        self.is_enforced(announced, pod)?;
        self.is_captured(announced, pod)?;
        Ok(admission)
    }

    /// Whether pods can be judged at all.
    fn could_admit(&self) -> Result<(), Refusal> {
        if self.loaded {
            return Ok(());
        }
        let problems = self.status.problems.iter();
        let error = problems
            .filter(|problem| problem.severity == Severity::Error)
            .map(ToString::to_string)
            .next();
        let reason = error.unwrap_or_else(|| "the state of the cluster is not complete yet".to_owned());
        Err(Refusal(format!("the rules are not loaded: {reason}")))
    }

    fn captures_anybody(&self) -> bool {
        !self.capture.is_off() || !self.enrolments.all().is_empty()
    }

    /// The pod, as the cluster has it.
    fn object_of(&self, announced: &Announced) -> Result<&Pod, Refusal> {
        let Announcement { pod: name, uid, .. } = &announced.announcement;
        let Some(pod) = self.stores.pods.get(name) else {
            return Err(Refusal::new(
                "the cluster's state has no such pod on this node (yet)",
            ));
        };
        let known = self.announcements.of(pod);
        if known.map(|known| known.cookie) != Some(announced.cookie) {
            let [uid, own] = [uid, &pod.uid].map(|uid| uid.as_deref().unwrap_or("none"));
            return Err(Refusal(format!(
                "the cluster's state has another pod of this name (yet): uid {own}, not {uid}"
            )));
        }
        Ok(pod)
    }

    fn endpoint_of(&self, pod: &Pod) -> Option<&EndpointReport> {
        let mut endpoints = self.projection.report.endpoints.iter();
        endpoints.find(|endpoint| endpoint.pod == pod.name)
    }

    fn is_enforced(&self, announced: &Announced, pod: &Pod) -> Result<(), Refusal> {
        let devices = match self.facts.pods.get(&pod.name) {
            None => return Err(Refusal::new("it is not bound to this node")),
            Some(Err(reason)) => return Err(Refusal::new(reason)),
            Some(Ok(PodNetwork::Own { netns, devices, .. })) if *netns == announced.cookie => devices,
            Some(Ok(_)) => {
                return Err(Refusal::new(
                    "it was found in another network namespace than it was announced in",
                ));
            }
        };
        if let Some(device) = devices
            .iter()
            .find(|device| !self.dataplane.is_attached(device.index))
        {
            return Err(Refusal(format!(
                "no program is on its device {}; see `sluice status`",
                device.name
            )));
        }
        match self.endpoint_of(pod) {
            None => Err(Refusal::new("the rules do not know it (yet)")),
            Some(EndpointReport {
                pending: Some(reason),
                ..
            }) => Err(Refusal::new(reason)),
            Some(_) => Ok(()),
        }
    }

    fn is_captured(&self, announced: &Announced, pod: &Pod) -> Result<(), Refusal> {
        let endpoint = self.endpoint_of(pod);
        let (mode, not) = endpoint.map_or((None, None), |endpoint| (endpoint.capture, endpoint.not_captured));
        match (mode, not) {
            (Some(mode), _) => match self.progress.get(&announced.cookie).map(String::as_str) {
                Some("enrolled") => Ok(()),
                Some(reason) => Err(Refusal(format!("capture ({mode}): {reason}"))),
                None => Err(Refusal(format!("capture ({mode}) is not ready yet"))),
            },
            (None, Some(why @ (NotCaptured::Pending | NotCaptured::UnknownNamespace))) => {
                Err(Refusal(format!("capture: {}", why.explanation())))
            }
            (None, _) => Ok(()),
        }
    }
}
