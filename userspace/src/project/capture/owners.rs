//! Which captured namespace has which address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ebpf::Addr;

use crate::{
    facts::{Facts, NetnsCookie},
    problem::{Problem, Severity},
};

/// How many addresses are looked at inside one namespace. Whoever may configure a pod's network can give it any number,
/// and shall not fill the table for all others.
const MAX_INSIDE: usize = 64;

/// Who says that an address is a namespace's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    /// It was found inside.
    Inside,
    /// Its pod has it, as the cluster says. What somebody does inside another pod cannot take it away.
    Pod,
    /// A device of the node has it.
    Node,
}

/// An address that is nobody else's at the same time.
pub(super) fn is_global(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
    }
}

/// Collects whose addresses are whose.
#[derive(Default)]
pub(super) struct Owners {
    claims: BTreeMap<IpAddr, BTreeMap<NetnsCookie, Claim>>,
}

impl Owners {
    pub(super) fn add(&mut self, netns: NetnsCookie, pod: &[IpAddr], inside: &BTreeSet<IpAddr>) {
        for address in inside.iter().take(MAX_INSIDE) {
            self.claim(netns, *address, Claim::Inside);
        }
        for address in pod {
            self.claim(netns, *address, Claim::Pod);
        }
    }

    /// The node's own addresses, so that the proxy is not asked to call itself.
    pub(super) fn add_node(&mut self, facts: &Facts) {
        let Some(netns) = facts.netns else { return };
        for address in facts.own_addresses.iter().filter(|address| is_global(address)) {
            self.claim(netns, *address, Claim::Node);
        }
    }

    fn claim(&mut self, netns: NetnsCookie, address: IpAddr, claim: Claim) {
        let claims = self.claims.entry(address.to_canonical()).or_default();
        let known = claims.entry(netns).or_insert(claim);
        *known = (*known).max(claim);
    }

    /// Every address that is one namespace's alone. `name` names a namespace.
    pub(super) fn finish(
        self,
        name: impl Fn(NetnsCookie) -> String,
        problems: &mut Vec<Problem>,
    ) -> BTreeMap<Addr, NetnsCookie> {
        let mut owners = BTreeMap::new();
        for (address, claims) in self.claims {
            let best = claims.values().max().copied().unwrap_or(Claim::Inside);
            let best_of: Vec<_> = claims
                .iter()
                .filter(|(_, claim)| **claim == best)
                .map(|(netns, _)| *netns)
                .collect();
            if let [netns] = best_of.as_slice() {
                owners.insert(Addr::from(address), *netns);
                continue;
            }
            let names: Vec<_> = best_of.into_iter().map(&name).collect();
            let (severity, effect) = match best {
                Claim::Pod | Claim::Node => (Severity::Error, "calls to it are captured for none of them"),
                // As on a bridge that every pod with containers of its own has.
                Claim::Inside => (Severity::Warning, "it counts as none of theirs"),
            };
            let names = names.join(", ");
            let message =
                format!("several captured namespaces have the address {address}: {names}; {effect}");
            problems.push(Problem::new(severity, message));
        }
        owners
    }
}
