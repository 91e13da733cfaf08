//! Rules and flows, as lists.

use std::net::IpAddr;

use ebpf::{
    Addr,
    decide::Lookup,
    flow::{Flow, FlowKey, FragmentKey, State},
    packet::{Protocol, Tuple},
    rules::{Endpoint, GroupSet, PolicyId},
};
use proptest::prelude::*;

use super::sketch::{MAC, OWN, Sketch, What};

pub(crate) const DEVICE: u32 = 42;
const POLICY: u32 = 7;
const NOW_S: u64 = 10_000_000;
const SECOND: u64 = 1_000_000_000;

/// Prefixes around the destinations of sketches: address and length.
const PREFIXES: [(&str, u8); 14] = [
    ("10.0.0.0", 8),
    ("10.244.0.0", 16),
    ("203.0.113.0", 24),
    ("203.0.113.10", 32),
    ("203.0.112.0", 22),
    ("169.254.0.0", 16),
    ("0.0.0.0", 0),
    ("192.0.2.2", 32),
    ("fd00:10::", 32),
    ("2001:db8:ffff::", 48),
    ("2001:db8:ffff::10", 128),
    ("2001:db8::", 32),
    ("::", 0),
    ("fd00::", 8),
];

/// Who stands where in the flows' table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    Pod,
    Node,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Prefix {
    pub(crate) address: IpAddr,
    pub(crate) len: u8,
    /// 0: external without a group; 9: internal.
    pub(crate) class: u32,
}

/// The class that stands for internal.
pub(crate) const INTERNAL: u32 = 9;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    pub(crate) class: u32,
    pub(crate) protocol: Option<u8>,
    pub(crate) ports: Option<(u16, u16)>,
    pub(crate) policy: u32,
}

/// A flow, if it is that of the packet in question.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) state: State,
    pub(crate) age_s: u64,
    /// The flow of another port.
    pub(crate) of_another: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) subject: bool,
    pub(crate) gateway: bool,
    pub(crate) prefixes: Vec<Prefix>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) flow: Option<Known>,
    /// How many seconds ago the first fragment of the packet passed.
    pub(crate) fragment_age_s: Option<u64>,
}

/// Any of them.
pub(crate) fn worlds() -> impl Strategy<Value = World> {
    let class = || prop::sample::select(vec![0, 1, 2, INTERNAL]);
    let prefix = (0..PREFIXES.len(), class()).prop_map(|(index, class)| {
        let (address, len) = PREFIXES[index];
        Prefix {
            address: address.parse().expect("a constant address"),
            len,
            class,
        }
    });
    let protocol = prop::option::weighted(0.7, prop::sample::select(vec![1_u8, 6, 17, 132]));
    let ports = prop::option::weighted(
        0.7,
        prop::sample::select(vec![(53, 53), (80, 443), (0, 65535), (444, 65535)]),
    );
    let policy = prop_oneof![4 => Just(POLICY), 1 => Just(POLICY + 1)];
    let rule = (prop::sample::select(vec![0, 1, 2]), protocol, ports, policy).prop_map(
        |(class, protocol, ports, policy)| Rule {
            class,
            protocol,
            ports: protocol.and(ports).filter(|_| protocol != Some(1)),
            policy,
        },
    );
    let state = prop::sample::select(vec![
        State::Called,
        State::Answered,
        State::Established,
        State::Closing,
        State::Ours,
    ]);
    let age = prop::sample::select(vec![0_u64, 29, 30, 59, 60, 119, 120, 179, 180, 431_999, 432_000]);
    let flow = (state, age, prop::bool::weighted(0.2)).prop_map(|(state, age_s, of_another)| Known {
        state,
        age_s,
        of_another,
    });
    (
        prop::bool::weighted(0.95),
        any::<bool>(),
        prop::collection::vec(prefix, 0..10),
        prop::collection::vec(rule, 0..6),
        prop::option::of(flow),
        prop::option::of(prop::sample::select(vec![0_u64, 29, 30, 31])),
    )
        .prop_map(
            |(subject, gateway, prefixes, rules, flow, fragment_age_s)| World {
                subject,
                gateway,
                prefixes: without_doubles(prefixes),
                rules,
                flow,
                fragment_age_s,
            },
        )
}

fn without_doubles(prefixes: Vec<Prefix>) -> Vec<Prefix> {
    let mut kept: Vec<Prefix> = Vec::new();
    for prefix in prefixes {
        if !kept
            .iter()
            .any(|other| other.address == prefix.address && other.len == prefix.len)
        {
            kept.push(prefix);
        }
    }
    kept
}

impl World {
    pub(crate) fn endpoint(&self) -> Endpoint {
        let [v4, v6] = OWN.map(|octets| Some(Addr::v6(octets)));
        let endpoint = Endpoint::new(DEVICE, MAC, v4, v6).as_gateway(self.gateway);
        if self.subject {
            endpoint.subject_to(PolicyId(POLICY))
        } else {
            endpoint
        }
    }

    pub(crate) fn policy() -> u32 {
        POLICY
    }

    /// As the decision asks for it.
    pub(crate) fn lookup<'a>(&'a self, sketch: &'a Sketch, scope: Scope) -> Table<'a> {
        Table {
            world: self,
            sketch,
            scope,
        }
    }
}

/// The flow that a sketch's packet belongs to, or that the packet quoted by it does: protocol, local port, remote
/// port.
fn flow_of(sketch: &Sketch) -> (u8, u16, u16) {
    match sketch.what {
        What::Tcp { .. } | What::Error { tcp: true, .. } => (6, sketch.sport, sketch.port),
        What::Sctp => (132, sketch.sport, sketch.port),
        What::Echo { .. } if sketch.v4 => (1, sketch.sport, sketch.sport),
        What::Echo { .. } => (58, sketch.sport, sketch.sport),
        What::Guidance | What::Neighbour { .. } => (58, 0, 0),
        What::Other { protocol } => (protocol, 0, 0),
        What::Udp | What::Error { tcp: false, .. } => (17, sketch.sport, sketch.port),
    }
}

pub(crate) struct Table<'a> {
    world: &'a World,
    sketch: &'a Sketch,
    scope: Scope,
}

impl Table<'_> {
    fn scope(&self) -> u32 {
        match self.scope {
            Scope::Pod => DEVICE,
            Scope::Node => FlowKey::NODE,
        }
    }
}

impl Lookup for Table<'_> {
    fn groups(&self, addr: Addr) -> GroupSet {
        let bits = u128::from_be_bytes(addr.octets());
        let mut best = (0, GroupSet::EXTERNAL);
        for prefix in &self.world.prefixes {
            let (address, len) = match prefix.address {
                IpAddr::V4(v4) => (v4.to_ipv6_mapped(), u32::from(prefix.len) + 96),
                IpAddr::V6(v6) => (v6, u32::from(prefix.len)),
            };
            // `::/0` does not cover IPv4: the families only share a table.
            if prefix.address.is_ipv6() && addr.is_v4() {
                continue;
            }
            let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
            if bits & mask == u128::from(address) & mask && len + 1 > best.0 {
                let groups = if prefix.class == INTERNAL {
                    GroupSet::INTERNAL
                } else {
                    GroupSet::numbered(prefix.class)
                };
                best = (len + 1, groups);
            }
        }
        best.1
    }

    fn permits(&self, policy: PolicyId, groups: GroupSet, protocol: Protocol, port: u16) -> bool {
        let number = if protocol == Protocol::ICMPV6 {
            1
        } else {
            protocol.0
        };
        let any = protocol == Protocol::MARKER;
        self.world.rules.iter().any(|rule| {
            rule.policy == policy.0
                && GroupSet::numbered(rule.class) == groups
                && (any || rule.protocol.is_none_or(|wanted| wanted == number))
                && (any
                    || rule
                        .ports
                        .is_none_or(|(first, last)| (first..=last).contains(&port)))
        })
    }

    fn flow(&self, key: &FlowKey) -> Flow {
        let Some(known) = self.world.flow else {
            return Flow::ABSENT;
        };
        let (protocol, local, remote) = flow_of(self.sketch);
        let tuple = Tuple {
            src: Addr::from(self.sketch.src()),
            dst: Addr::from(self.sketch.dst),
            sport: if known.of_another { local ^ 1 } else { local },
            dport: remote,
            protocol: Protocol(protocol),
        };
        let seen_ns = (NOW_S - known.age_s) * SECOND;
        if *key == FlowKey::outward(self.scope(), &tuple) {
            Flow::new(known.state, Protocol(protocol), seen_ns)
        } else {
            Flow::ABSENT
        }
    }

    fn first_fragment(&self, key: &FragmentKey) -> Option<u64> {
        let age = self.world.fragment_age_s?;
        // The identification is the frame's affair; scope and addresses are not.
        let tuple = Tuple {
            src: Addr::from(self.sketch.src()),
            dst: Addr::from(self.sketch.dst),
            protocol: Protocol(flow_of(self.sketch).0),
            ..Tuple::EMPTY
        };
        let same = (0..=u16::MAX).any(|id| {
            let id = if self.sketch.v4 {
                u32::from(id.to_be())
            } else {
                u32::from(id).to_be()
            };
            *key == FragmentKey::new(self.scope(), &tuple, id)
        });
        same.then_some((NOW_S - age) * SECOND)
    }

    fn now_ns(&self) -> u64 {
        NOW_S * SECOND
    }
}
