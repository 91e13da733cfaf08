//! Sets of protocols and ports, with union and intersection.

use ebpf::packet::Protocol;

use crate::{
    desired::Ports,
    objects::{EntryPort, PortRange},
};

/// Protocols and ports. ICMP, of either family, is in it or not.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PortSet {
    tcp: Ranges,
    udp: Ranges,
    sctp: Ranges,
    icmp: bool,
}

impl PortSet {
    /// Everything that is known.
    pub(super) fn all() -> Self {
        Self {
            tcp: Ranges::all(),
            udp: Ranges::all(),
            sctp: Ranges::all(),
            icmp: true,
        }
    }

    /// What an exception's ports stand for.
    pub(super) fn of_exception(ports: Option<&[PortRange]>) -> Self {
        let Some(ports) = ports else { return Self::all() };
        let mut set = Self::default();
        for PortRange { protocol, ports } in ports {
            set.add(*protocol, ports.unwrap_or((0, u16::MAX)));
        }
        set
    }

    /// One port for each.
    pub(super) fn of_entry<'a>(ports: impl IntoIterator<Item = &'a EntryPort>) -> Self {
        let mut set = Self::default();
        for EntryPort {
            name: _,
            transport,
            target,
        } in ports
        {
            set.add(*transport, (*target, *target));
        }
        set
    }

    fn add(&mut self, protocol: Protocol, (first, last): (u16, u16)) {
        match protocol {
            Protocol::TCP => self.tcp.add(first, last),
            Protocol::UDP => self.udp.add(first, last),
            Protocol::SCTP => self.sctp.add(first, last),
            _ => self.icmp |= protocol.is_icmp(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What is in either.
    pub(super) fn union(&mut self, other: &Self) {
        let Self { tcp, udp, sctp, icmp } = other;
        self.tcp.union(tcp);
        self.udp.union(udp);
        self.sctp.union(sctp);
        self.icmp |= icmp;
    }

    /// What is in both.
    pub(super) fn intersection(&self, other: &Self) -> Self {
        Self {
            tcp: self.tcp.intersection(&other.tcp),
            udp: self.udp.intersection(&other.udp),
            sctp: self.sctp.intersection(&other.sctp),
            icmp: self.icmp && other.icmp,
        }
    }

    /// Whether this protocol and port are in it.
    pub(super) fn contains(&self, protocol: Protocol, port: u16) -> bool {
        match protocol {
            Protocol::TCP => self.tcp.contains(port),
            Protocol::UDP => self.udp.contains(port),
            Protocol::SCTP => self.sctp.contains(port),
            _ => self.icmp && protocol.is_icmp(),
        }
    }

    /// As few rules as say it.
    pub(super) fn rules(&self) -> Vec<Ports> {
        if *self == Self::all() {
            return vec![Ports::Any];
        }
        let mut rules = Vec::new();
        if !self.is_empty() {
            // So that a refusal can tell a port that is not permitted from a destination that is not.
            rules.push(Ports::Protocol(Protocol::MARKER.0));
        }
        for (protocol, ranges) in self.transports() {
            if *ranges == Ranges::all() {
                rules.push(Ports::Protocol(protocol.0));
                continue;
            }
            for (first, last) in &ranges.0 {
                rules.extend(Ports::range(protocol, *first, *last));
            }
        }
        if self.icmp {
            rules.push(Ports::Protocol(Protocol::ICMP.0));
        }
        rules
    }

    /// As people write it: `80/TCP`, `1000-2000/UDP`, `ICMP`, `any`.
    pub(super) fn words(&self) -> Vec<String> {
        if *self == Self::all() {
            return vec!["any".to_owned()];
        }
        let mut words = Vec::new();
        for (protocol, ranges) in self.transports() {
            let protocol = protocol_word(protocol);
            if *ranges == Ranges::all() {
                words.push(protocol.to_owned());
                continue;
            }
            words.extend(ranges.0.iter().map(|(first, last)| {
                if first == last {
                    format!("{first}/{protocol}")
                } else {
                    format!("{first}-{last}/{protocol}")
                }
            }));
        }
        if self.icmp {
            words.push("ICMP".to_owned());
        }
        words
    }

    fn transports(&self) -> [(Protocol, &Ranges); 3] {
        [
            (Protocol::TCP, &self.tcp),
            (Protocol::UDP, &self.udp),
            (Protocol::SCTP, &self.sctp),
        ]
    }
}

/// The name of a protocol, as people write it.
fn protocol_word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::TCP => "TCP",
        Protocol::UDP => "UDP",
        Protocol::SCTP => "SCTP",
        _ => "ICMP",
    }
}

/// Ports as ranges: sorted, and with a gap between each two.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Ranges(Vec<(u16, u16)>);

impl Ranges {
    fn all() -> Self {
        Self(vec![(0, u16::MAX)])
    }

    fn contains(&self, port: u16) -> bool {
        self.0
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&port))
    }

    fn add(&mut self, mut first: u16, mut last: u16) {
        self.0.retain(|(other_first, other_last)| {
            let apart = *other_first > last.saturating_add(1) || first > other_last.saturating_add(1);
            if !apart {
                first = first.min(*other_first);
                last = last.max(*other_last);
            }
            apart
        });
        let place = self.0.partition_point(|(other, _)| *other < first);
        self.0.insert(place, (first, last));
    }

    fn union(&mut self, other: &Self) {
        for (first, last) in &other.0 {
            self.add(*first, *last);
        }
    }

    fn intersection(&self, other: &Self) -> Self {
        let mut both = Vec::new();
        for (first, last) in &self.0 {
            for (other_first, other_last) in &other.0 {
                let (from, to) = (*first.max(other_first), *last.min(other_last));
                if from <= to {
                    both.push((from, to));
                }
            }
        }
        Self(both)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn set(ranges: &[(u16, u16)]) -> PortSet {
        let mut set = PortSet::default();
        for (a, b) in ranges {
            set.add(Protocol::TCP, (*a.min(b), *a.max(b)));
        }
        set
    }

    fn within(ranges: &[(u16, u16)], port: u16) -> bool {
        ranges
            .iter()
            .any(|(a, b)| (*a.min(b)..=*a.max(b)).contains(&port))
    }

    proptest! {
        #[test]
        fn sets_are_what_their_ranges_are(
            a in vec((0..200u16, 0..200u16), 0..6),
            b in vec((0..200u16, 0..200u16), 0..6),
        ) {
            let (first, second) = (set(&a), set(&b));
            let mut either = first.clone();
            either.union(&second);
            let both = first.intersection(&second);
            for port in 0..=201 {
                prop_assert_eq!(first.contains(Protocol::TCP, port), within(&a, port));
                prop_assert_eq!(either.contains(Protocol::TCP, port), within(&a, port) || within(&b, port));
                prop_assert_eq!(both.contains(Protocol::TCP, port), within(&a, port) && within(&b, port));
            }
            // What is the same is equal, however it came to be.
            let mut sorted = a.clone();
            sorted.sort_unstable();
            prop_assert_eq!(set(&sorted), first);
        }
    }

    #[test]
    fn rules_are_as_few_as_can_be() {
        assert_eq!(PortSet::all().rules(), [Ports::Any]);
        let ports = [
            PortRange {
                protocol: Protocol::UDP,
                ports: None,
            },
            PortRange {
                protocol: Protocol::ICMP,
                ports: None,
            },
            PortRange {
                protocol: Protocol::TCP,
                ports: Some((80, 81)),
            },
        ];
        let set = PortSet::of_exception(Some(&ports));
        let range = Ports::Range {
            protocol: 6,
            port: 80,
            bits: 15,
        };
        let some = Ports::Protocol(Protocol::MARKER.0);
        assert_eq!(
            set.rules(),
            [some, range, Ports::Protocol(17), Ports::Protocol(1)]
        );
        assert_eq!(set.words(), ["80-81/TCP", "UDP", "ICMP"]);
        assert!(set.contains(Protocol::ICMPV6, 0));
        assert_eq!(PortSet::of_exception(Some(&[])).rules(), []);
        assert_eq!(PortSet::of_exception(None), PortSet::all());
    }
}
