//! From the numbers of an event to the names that people use.

use std::{collections::BTreeMap, net::IpAddr};

use ebpf::{
    event::{Event, Outcome},
    packet::{ETH_ARP, ETH_IPV4, ETH_IPV6, Protocol},
    rules::Identity,
};
use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

use crate::{
    api::{Kind, VerdictEvent},
    facts::PodName,
};

/// Who is who, as of the last look around.
#[derive(Clone, Debug, Default)]
pub(super) struct Who {
    pub(super) pods: BTreeMap<Identity, PodName>,
    pub(super) devices: BTreeMap<u32, String>,
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
pub(super) fn verdict(event: &Event, who: &Who) -> Option<VerdictEvent> {
    let (verdict, reason) = words(event.outcome()?);
    let subject = event.subject()?;
    let tuple = event.tuple();
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
        hook: event.hook()?.word().to_owned(),
        pod: who.pods.get(&subject.identity).cloned(),
        device,
        src: IpAddr::from(tuple.src),
        dst: IpAddr::from(tuple.dst),
        sport: tuple.sport,
        dport: tuple.dport,
        protocol: protocol(tuple.protocol, event.ether_type()),
        len: event.len(),
        generation: subject.generation,
    })
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
