//! The programs' decision on a projection that is in no kernel: for rehearsals and tests, as every look-up walks along all
//! rules.

use std::net::{IpAddr, Ipv6Addr};

use ebpf::{
    Addr,
    capture::{self, Scope},
    decide::{Lookup, Verdict, call},
    flow::{Flow, FlowKey, FragmentKey},
    packet::{Protocol, Tuple},
    rules::{Endpoint, GroupSet, Identity, PolicyId},
};
use ipnet::{IpNet, Ipv6Net};

use crate::{
    desired::{Desired, Ports},
    facts::NetnsCookie,
};

/// Rules as the programs would look them up.
#[derive(Clone, Copy, Debug)]
pub struct Kernel<'a>(pub &'a Desired);

impl Kernel<'_> {
    /// What becomes of a call of this endpoint; `None` if there is none.
    pub fn call(&self, identity: Identity, dst: IpAddr, protocol: Protocol, dport: u16) -> Option<Verdict> {
        let endpoint: &Endpoint = self.0.endpoints.get(&identity)?;
        let src = endpoint.own_for(dst.into());
        let tuple = Tuple {
            src,
            dst: dst.into(),
            sport: 40000,
            dport,
            protocol,
        };
        Some(call(self, endpoint, &tuple))
    }
}

/// As the programs' table has it: IPv4 in its IPv4-mapped form.
fn mapped(net: &IpNet) -> Ipv6Net {
    match net {
        IpNet::V6(v6) => *v6,
        IpNet::V4(v4) => Ipv6Net::new_assert(v4.addr().to_ipv6_mapped(), 96 + v4.prefix_len()),
    }
}

impl Lookup for Kernel<'_> {
    fn groups(&self, addr: Addr) -> GroupSet {
        let addr = Ipv6Addr::from(addr.octets());
        let covering = self
            .0
            .destinations
            .iter()
            .map(|(net, groups)| (mapped(net), groups));
        let longest = covering
            .filter(|(net, _)| net.contains(&addr))
            .max_by_key(|(net, _)| net.prefix_len());
        longest.map_or(GroupSet::EXTERNAL, |(_, groups)| *groups)
    }

    fn permits(&self, policy: PolicyId, groups: GroupSet, protocol: Protocol, port: u16) -> bool {
        let number = if protocol == Protocol::ICMPV6 {
            Protocol::ICMP.0
        } else {
            protocol.0
        };
        let mut rules = self
            .0
            .rules
            .iter()
            .filter(|rule| rule.policy == policy && rule.groups == groups);
        rules.any(|rule| match rule.ports {
            Ports::Any => true,
            Ports::Protocol(protocol) => protocol == number,
            Ports::Range {
                protocol,
                port: first,
                bits,
            } => protocol == number && u32::from(first ^ port) >> (16 - bits) == 0,
        })
    }

    fn flow(&self, _: &FlowKey) -> Flow {
        Flow::ABSENT
    }

    fn first_fragment(&self, _: &FragmentKey) -> Option<u64> {
        None
    }

    fn now_ns(&self) -> u64 {
        0
    }
}

impl capture::Lookup for Kernel<'_> {
    fn range(&self, netns: u64, addr: Addr) -> Scope {
        let addr = Ipv6Addr::from(addr.octets());
        let own = self.0.ranges.iter().filter(|((of, _), _)| of.0 == netns);
        let covering = own.map(|((_, net), scope)| (mapped(net), scope));
        let longest = covering
            .filter(|(net, _)| net.contains(&addr))
            .max_by_key(|(net, _)| net.prefix_len());
        longest.map_or(Scope::NONE, |(_, scope)| *scope)
    }

    fn port(&self, netns: u64, port: u16) -> Scope {
        let key = (NetnsCookie(netns), port);
        self.0.ports.get(&key).copied().unwrap_or_default()
    }

    fn owner(&self, addr: Addr) -> u64 {
        self.0.owners.get(&addr).map_or(0, |netns| netns.0)
    }
}
