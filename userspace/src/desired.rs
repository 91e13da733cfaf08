//! What shall be in the kernel: the result of `project`, the input of `diff`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use ebpf::{
    Addr,
    capture::{Capture, CgroupRef, Scope},
    packet::Protocol,
    rules::{Endpoint, Enforcement, GroupSet, Identity, PolicyId},
};
use ipnet::IpNet;

use crate::facts::NetnsCookie;

/// One complete set of rules, without its number: the dataplane gives it a generation when it loads it.
///
/// Ordered maps, so that two of them can be compared entry by entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// What happens to senders of whom nothing is known, and at the backstop.
    pub enforcement: Enforcement,
    /// Who is who on this node.
    pub endpoints: BTreeMap<Identity, Endpoint>,
    /// The address groups that cover a prefix, those of the prefixes around it included: the longest prefix
    /// that covers an address has the last word on it.
    pub destinations: BTreeMap<IpNet, GroupSet>,
    /// What is permitted; all else is not.
    pub rules: BTreeSet<Rule>,
    /// Bit *n* is set when a cgroup *n* levels below the root of the cgroup hierarchy is an endpoint.
    pub cgroup_levels: u32,
    /// Whose connections go to the node proxy.
    pub captures: BTreeMap<NetnsCookie, Capture>,
    /// The addresses of those namespaces.
    pub owners: BTreeMap<Addr, NetnsCookie>,
    /// What they exclude and include; the longest prefix has the last word.
    pub ranges: BTreeMap<(NetnsCookie, IpNet), Scope>,
    /// The same for ports.
    pub ports: BTreeMap<(NetnsCookie, u16), Scope>,
    /// The cgroup whose calls to captured pods are probes.
    pub kubelet: CgroupRef,
    /// The port of the proxy on the node, 0 for none.
    pub node_port: u16,
}

/// A permission: endpoints held to `policy` may send to destinations of `groups`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rule {
    /// For whom.
    pub policy: PolicyId,
    /// Whereto.
    pub groups: GroupSet,
    /// With which transport.
    pub ports: Ports,
}

/// Protocols and ports of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ports {
    /// Every protocol that is known.
    Any,
    /// Every port of one protocol; ICMP stands for `ICMPv6`, too.
    Protocol(u8),
    /// The ports of one protocol whose first `bits` bits are those of `port`: an aligned range.
    Range {
        /// IP protocol number.
        protocol: u8,
        /// Lowest port.
        port: u16,
        /// How many leading bits count: 16 is one port.
        bits: u8,
    },
}

impl Ports {
    /// One port.
    pub const fn single(protocol: Protocol, port: u16) -> Self {
        Self::Range {
            protocol: protocol.0,
            port,
            bits: 16,
        }
    }

    /// The aligned ranges that make up `first..=last`.
    pub fn range(protocol: Protocol, first: u16, last: u16) -> Vec<Self> {
        let mut ranges = Vec::new();
        let (mut next, end) = (u32::from(first), u32::from(last));
        while next <= end {
            let aligned = if next == 0 {
                16
            } else {
                next.trailing_zeros().min(16)
            };
            let fitting = (end - next + 1).ilog2();
            let size = aligned.min(fitting);
            ranges.push(Self::Range {
                protocol: protocol.0,
                port: u16::try_from(next).unwrap_or(u16::MAX),
                bits: u8::try_from(16 - size).unwrap_or(0),
            });
            next += 1 << size;
        }
        ranges
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Any => f.write_str("any"),
            Self::Protocol(protocol) => write!(f, "any/{}", Protocol(protocol)),
            Self::Range {
                protocol,
                port,
                bits: 16,
            } => write!(f, "{port}/{}", Protocol(protocol)),
            Self::Range { protocol, port, bits } => {
                let last = u32::from(port) + (1_u32 << 16_u8.saturating_sub(bits)) - 1;
                write!(f, "{port}-{last}/{}", Protocol(protocol))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_exactly_what_they_should() {
        for (first, last) in [
            (0, 0),
            (0, 65535),
            (1, 65535),
            (80, 80),
            (1000, 2000),
            (65535, 65535),
            (0, 65534),
        ] {
            let mut covered = vec![false; 65536];
            for ports in Ports::range(Protocol::TCP, first, last) {
                let Ports::Range { port, bits, .. } = ports else {
                    unreachable!()
                };
                let size = 1usize << (16 - bits);
                assert_eq!(usize::from(port) % size, 0, "aligned");
                for seen in &mut covered[usize::from(port)..usize::from(port) + size] {
                    assert!(!*seen, "once");
                    *seen = true;
                }
            }
            let count = covered.iter().filter(|seen| **seen).count();
            assert_eq!(count, usize::from(last) - usize::from(first) + 1);
            assert!(covered[usize::from(first)] && covered[usize::from(last)]);
        }
    }
}
