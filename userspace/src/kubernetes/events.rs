//! Kubernetes Events on pods: the first denial of a kind.
//!
//! A pod that may not will try again and again. Of each pod and reason one event is reported in five minutes, which Kubernetes
//! counts into one series, and of all of them together ten in a minute after the first 25. What is beyond is in the metrics
//! and in `sluice observe`.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::sync::mpsc;

use super::{Failures, REPORTER};
use crate::{agent::published::Pod, api::VerdictEvent, facts::PodName};

/// The reason of the event.
pub const EGRESS_DENIED: &str = "EgressDenied";
/// How often one pod's denials for one reason are reported. Below the time for which a series is kept (kube: 6 minutes).
const REPEAT: Duration = Duration::from_mins(5);
/// How many may be reported at once.
const BURST: u32 = 25;
/// How often one more may be.
const REFILL: Duration = Duration::from_secs(6);
/// How many pods and reasons are remembered.
const REMEMBERED: usize = 4096;

/// Whether a denial is to be reported.
#[derive(Debug)]
pub struct Limiter {
    reported: HashMap<(String, String), Instant>,
    left: u32,
    refilled: Instant,
}

impl Limiter {
    /// One that has reported nothing.
    pub fn new(now: Instant) -> Self {
        Self {
            reported: HashMap::new(),
            left: BURST,
            refilled: now,
        }
    }

    /// Whether a denial of this pod, for this reason, is to be reported.
    pub fn admit(&mut self, uid: &str, reason: &str, now: Instant) -> bool {
        let key = (uid.to_owned(), reason.to_owned());
        if self
            .reported
            .get(&key)
            .is_some_and(|at| now.duration_since(*at) < REPEAT)
        {
            return false;
        }
        while self.left < BURST && now.duration_since(self.refilled) >= REFILL {
            self.left += 1;
            self.refilled += REFILL;
        }
        if self.left == BURST {
            self.refilled = now;
        }
        if self.left == 0 {
            return false;
        }
        if self.reported.len() >= REMEMBERED {
            self.reported.retain(|_, at| now.duration_since(*at) < REPEAT);
        }
        // By the rates above it cannot be full then.
        self.left -= 1;
        self.reported.insert(key, now);
        true
    }
}

/// An event about a pod.
pub struct Report {
    event: Event,
    about: ObjectReference,
}

impl Report {
    /// That a packet or a call was denied.
    pub fn denied(verdict: &VerdictEvent, name: &PodName, uid: &str, pod: &Pod, node: &str) -> Self {
        let destination = match verdict.dport {
            0 => format!("{}/{}", verdict.dst, verdict.protocol),
            port => format!(
                "{}/{}",
                std::net::SocketAddr::new(verdict.dst, port),
                verdict.protocol
            ),
        };
        let by = match pod.policies.as_slice() {
            [] => String::new(),
            policies => format!(", held to EgressPolicy {}", policies.join(", ")),
        };
        Self {
            event: Event {
                type_: EventType::Warning,
                reason: EGRESS_DENIED.to_owned(),
                note: Some(format!(
                    "denied to {destination}: {}{by}; on node {node} `sluice explain {name} {destination}` says why",
                    verdict.reason
                )),
                // Each reason is a series of its own.
                action: verdict.reason.clone(),
                secondary: None,
            },
            about: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                namespace: Some(name.namespace.clone()),
                name: Some(name.name.clone()),
                uid: Some(uid.to_owned()),
                ..ObjectReference::default()
            },
        }
    }
}

/// As whom the agent of a node reports.
pub(super) fn reporter(node: &str) -> Reporter {
    Reporter {
        controller: REPORTER.to_owned(),
        instance: Some(node.to_owned()),
    }
}

/// Reports what it is given.
pub(super) async fn run(client: Client, node: String, mut reports: mpsc::Receiver<Report>) {
    let recorder = Recorder::new(client, reporter(&node));
    let mut failures = Failures::new("reporting an event");
    while let Some(report) = reports.recv().await {
        match recorder.publish(&report.event, &report.about).await {
            Ok(()) => failures.none(),
            // What could not be reported is old when it could.
            Err(error) => tokio::time::sleep(failures.one_more(&error)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_and_reason_is_reported_once_in_a_while() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        assert!(limiter.admit("a", "spoofed", start));
        assert!(!limiter.admit("a", "spoofed", start + REPEAT / 2));
        assert!(limiter.admit("a", "unknown", start + REPEAT / 2));
        assert!(limiter.admit("b", "spoofed", start + REPEAT / 2));
        assert!(limiter.admit("a", "spoofed", start + REPEAT));
    }

    #[test]
    fn all_together_are_bounded_in_number_and_in_memory() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start);
        let mut admitted = 0_u64;
        // A new pod every 10 ms, for an hour.
        for number in 0..360_000_u32 {
            let now = start + Duration::from_millis(10) * number;
            admitted += u64::from(limiter.admit(&number.to_string(), "unknown", now));
        }
        let refilled = Duration::from_hours(1).as_secs() / REFILL.as_secs();
        assert!(
            (refilled..=refilled + u64::from(BURST)).contains(&admitted),
            "{admitted}"
        );
        assert!(limiter.reported.len() <= REMEMBERED, "{}", limiter.reported.len());
    }
}
