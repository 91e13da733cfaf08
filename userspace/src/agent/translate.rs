//! From the numbers of an event to the names that people use.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ebpf::{
    event::{Event, Outcome, ProcessName},
    packet::{ETH_ARP, ETH_IPV4, ETH_IPV6, Protocol},
    rules::Identity,
};
use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

use super::destinations::Destinations;
use crate::{
    api::{Kind, VerdictEvent},
    facts::PodName,
    objects::{Labels, Pod},
};

/// Who is who, as of the last look around.
#[derive(Clone, Debug, Default)]
pub(super) struct Who {
    pub(super) pods: BTreeMap<Identity, Arc<Sender>>,
    pub(super) devices: BTreeMap<u32, String>,
    /// The policies behind the number that endpoints carry.
    pub(super) policies: BTreeMap<u32, Vec<String>>,
}

/// A pod that sends.
#[derive(Clone, Debug)]
pub(super) struct Sender {
    pub(super) pod: PodName,
    pub(super) workload: Option<String>,
    pub(super) labels: Labels,
}

impl Sender {
    /// Of a pod; of its labels those that say what it is.
    pub(super) fn new(pod: &Pod) -> Self {
        const TELLING: [&str; 4] = [
            "app",
            "k8s-app",
            "app.kubernetes.io/name",
            "app.kubernetes.io/component",
        ];
        let labels = pod
            .labels
            .iter()
            .filter(|(key, _)| TELLING.contains(&key.as_str()));
        Self {
            pod: pod.name.clone(),
            workload: pod.workload.clone(),
            labels: labels.map(|(key, value)| (key.clone(), value.clone())).collect(),
        }
    }
}

/// The kind and the word of an outcome.
pub(super) const fn words(outcome: Outcome) -> (Kind, &'static str) {
    match outcome {
        Outcome::Allowed(reason) => (Kind::Allow, reason.word()),
        Outcome::Redirected(reason) => (Kind::Redirect, reason.word()),
        Outcome::Denied(reason) => (Kind::Deny, reason.word()),
        Outcome::Audited(reason) => (Kind::Audit, reason.word()),
    }
}

/// The name of a protocol, or of what is below it.
fn protocol(number: Protocol, ether_type: u16) -> String {
    match (number, ether_type) {
        (Protocol(0), ETH_ARP) => "ARP".to_owned(),
        (Protocol(0), ether_type) if !matches!(ether_type, 0 | ETH_IPV4 | ETH_IPV6) => {
            format!("ethertype {ether_type:#06x}")
        }
        (number, _) => number.to_string(),
    }
}

/// `None` if the event is of a version that this one does not know.
pub(super) fn verdict(event: &Event, who: &Who, destinations: &Destinations) -> Option<VerdictEvent> {
    let about = event.about();
    let (verdict, reason) = words(about.outcome()?);
    let subject = about.subject()?;
    let tuple = about.tuple();
    let dst = IpAddr::from(tuple.dst);
    let sender = who.pods.get(&subject.identity);
    let device = match subject.identity {
        Identity::Device(index) => who
            .devices
            .get(&index)
            .cloned()
            .or_else(|| Some(format!("#{index}"))),
        Identity::Netns(_) | Identity::Cgroup(_) => None,
    };
    Some(VerdictEvent {
        time: wall_clock(event.time_ns()),
        verdict,
        reason: reason.to_owned(),
        hook: about.hook()?.word().to_owned(),
        count: event.count(),
        pod: sender.map(|sender| sender.pod.clone()),
        workload: sender.and_then(|sender| sender.workload.clone()),
        labels: sender.map(|sender| sender.labels.clone()).unwrap_or_default(),
        process: process(event.process()),
        device,
        src: IpAddr::from(tuple.src),
        dst,
        destination: destinations.name(dst).map(str::to_owned),
        sport: tuple.sport,
        dport: tuple.dport,
        protocol: protocol(tuple.protocol, about.ether_type()),
        len: event.len(),
        policies: who.policies.get(&subject.policy.0).cloned().unwrap_or_default(),
        generation: subject.generation,
    })
}

/// The name of a process. It chose it itself: what is not plain text is shown as such.
fn process(name: ProcessName) -> Option<String> {
    let end = name.iter().position(|octet| *octet == 0).unwrap_or(name.len());
    (end > 0).then(|| name[..end].escape_ascii().to_string())
}

/// The wall clock's time (RFC 3339) of a moment of the monotonic clock.
fn wall_clock(monotonic_ns: u64) -> String {
    let read = |clock| {
        clock_gettime(clock).map_or(0, |time| {
            i128::from(time.tv_sec()) * 1_000_000_000 + i128::from(time.tv_nsec())
        })
    };
    let age = read(ClockId::CLOCK_MONOTONIC) - i128::from(monotonic_ns);
    let then = read(ClockId::CLOCK_REALTIME) - age;
    Timestamp::from_nanosecond(then).map_or_else(|_| "?".to_owned(), |time| format!("{time:.6}"))
}
