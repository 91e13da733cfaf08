//! The rules and flows as the kernel has them, for the same decision on the host.

use std::cell::OnceCell;

use aya::maps::{MapError, lpm_trie::Key};
use ebpf::{
    Addr,
    capture::{self, Capture, CaptureKey, Owner, PortKey, RangeKey, Scope},
    decide::Lookup,
    flow::{Flow, FlowKey, FragmentKey},
    packet::Protocol,
    rules::{Bank, DestinationKey, Endpoint, EndpointKey, GroupSet, Header, Identity, PolicyId, RuleKey},
};
use nix::time::{ClockId, clock_gettime};

use super::{
    Error, Generation,
    maps::{FlowMaps, RuleMaps},
};
use crate::sys::Shared;

/// The generation that was active when this was made; it serves all look-ups.
pub struct Live<'a> {
    pub(super) rules: &'a RuleMaps,
    pub(super) flows: &'a FlowMaps,
    bank: Bank,
    header: Header,
    failed: OnceCell<Error>,
}

impl<'a> Live<'a> {
    pub(super) fn new(rules: &'a RuleMaps, flows: &'a FlowMaps) -> Result<Self, Error> {
        let (bank, header) = rules.active()?;
        Ok(Self {
            rules,
            flows,
            bank,
            header,
            failed: OnceCell::new(),
        })
    }

    /// Which generation this is.
    pub fn generation(&self) -> Generation {
        Generation(self.header.generation())
    }

    /// What is true for the whole generation.
    pub fn header(&self) -> Header {
        self.header
    }

    /// What the programs know of a local pod.
    pub fn endpoint(&self, identity: Identity) -> Result<Option<Endpoint>, Error> {
        let key = Shared(EndpointKey::new(self.bank, identity));
        let found = absent_is_none("ENDPOINTS", self.rules.endpoints.get(&key, 0))?;
        Ok(found.map(|Shared(endpoint)| endpoint))
    }

    /// How a local pod is captured, if it is.
    pub fn capture(&self, endpoint: &Endpoint) -> Result<Option<Capture>, Error> {
        let key = Shared(CaptureKey::new(self.bank, endpoint.captured()));
        let found = absent_is_none("CAPTURES", self.rules.captures.get(&key, 0))?;
        Ok(found.map(|Shared(capture)| capture))
    }

    /// Whether every look-up so far could be made. The decision asks for rules and cannot be told of an error: a
    /// look-up that fails finds nothing, so before a verdict is believed this has to be asked.
    pub fn check(self) -> Result<(), Error> {
        self.failed.into_inner().map_or(Ok(()), Err)
    }

    fn look<T>(&self, map: &'static str, found: Result<T, MapError>) -> Option<T> {
        absent_is_none(map, found).unwrap_or_else(|error| {
            // The first one is enough.
            let _ = self.failed.set(error);
            None
        })
    }
}

fn absent_is_none<T>(map: &'static str, found: Result<T, MapError>) -> Result<Option<T>, Error> {
    match found {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(source) => Err(Error::map(map, source)),
    }
}

impl Lookup for Live<'_> {
    fn groups(&self, addr: Addr) -> GroupSet {
        let key = Shared(DestinationKey::new(self.bank, addr));
        let network = self.rules.networks.get(&Key::new(DestinationKey::BITS, key), 0);
        let covering = self
            .look("NETWORKS", network)
            .map_or(GroupSet::EXTERNAL, |Shared(groups)| groups);
        // As in the programs: what is inside the cluster is that whatever else is said of it.
        if covering.is_internal() {
            return covering;
        }
        let host = self.look("HOSTS", self.rules.hosts.get(&key, 0));
        host.map_or(covering, |Shared(groups)| groups)
    }

    fn permits(&self, policy: PolicyId, groups: GroupSet, protocol: Protocol, port: u16) -> bool {
        let key = Shared(RuleKey::new(self.bank, policy, groups, protocol, port));
        self.look("RULES", self.rules.rules.get(&Key::new(RuleKey::BITS, key), 0))
            .is_some()
    }

    fn flow(&self, key: &FlowKey) -> Flow {
        let key = Shared(*key);
        let half_open = || self.look("HALF_OPEN", self.flows.half_open.get(&key, 0));
        let flow = self
            .look("ESTABLISHED", self.flows.established.get(&key, 0))
            .or_else(half_open);
        flow.map_or(Flow::ABSENT, |Shared(flow)| flow)
    }

    fn first_fragment(&self, key: &FragmentKey) -> Option<u64> {
        self.look("FRAGMENTS", self.flows.fragments.get(&Shared(*key), 0))
    }

    fn now_ns(&self) -> u64 {
        // `bpf_ktime_get_ns` is this clock.
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC)
            .map(std::time::Duration::from)
            .unwrap_or_default();
        u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
    }
}

impl capture::Lookup for Live<'_> {
    fn range(&self, netns: u64, addr: Addr) -> Scope {
        let key = Key::new(RangeKey::BITS, Shared(RangeKey::new(self.bank, netns, addr)));
        let found = self.look("RANGES", self.rules.ranges.get(&key, 0));
        found.map_or(Scope::NONE, |Shared(scope)| scope)
    }

    fn port(&self, netns: u64, port: u16) -> Scope {
        let key = Shared(PortKey::new(self.bank, netns, port));
        let found = self.look("PORTS", self.rules.ports.get(&key, 0));
        found.map_or(Scope::NONE, |Shared(scope)| scope)
    }

    fn owner(&self, addr: Addr) -> u64 {
        let key = Shared(DestinationKey::new(self.bank, addr));
        let found = self.look("OWNERS", self.rules.owners.get(&key, 0));
        found.as_ref().map_or(0, |Shared(owner)| Owner::netns(owner))
    }
}
