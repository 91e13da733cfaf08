//! The rules of the active bank.

use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{Array, HashMap, LpmTrie, lpm_trie::Key},
};
use ebpf::{
    Addr,
    decide::Lookup,
    flow::{Flow, FlowKey, FragmentKey},
    packet::Protocol,
    rules::{
        Bank, CGROUP_LEVELS, DestinationKey, Endpoint, EndpointKey, GroupSet, Header, Identity, PolicyId,
        RuleKey, capacity, device_slot,
    },
};

use super::flows;

/// `BPF_F_NO_PREALLOC`: memory is taken by what is there, not by what could be.
pub(super) const NO_PREALLOC: u32 = 1;

#[map]
static ACTIVE: Array<Bank> = Array::with_max_entries(1, 0);
#[map]
static HEADERS: Array<Header> = Array::with_max_entries(2, 0);
#[map]
static DEVICES: Array<Endpoint> = Array::with_max_entries(device_slot::COUNT, 0);
#[map]
static ENDPOINTS: HashMap<EndpointKey, Endpoint> =
    HashMap::with_max_entries(capacity::ENDPOINTS, NO_PREALLOC);
#[map]
static HOSTS: HashMap<DestinationKey, GroupSet> = HashMap::with_max_entries(capacity::HOSTS, NO_PREALLOC);
#[map]
static NETWORKS: LpmTrie<DestinationKey, GroupSet> =
    LpmTrie::with_max_entries(capacity::NETWORKS, NO_PREALLOC);
#[map]
static RULES: LpmTrie<RuleKey, u32> = LpmTrie::with_max_entries(capacity::RULES, NO_PREALLOC);

/// One generation of rules. It is chosen once per packet and serves all of its look-ups.
pub(super) struct Generation {
    pub(super) bank: Bank,
    pub(super) header: Header,
}

impl Generation {
    /// The active generation.
    #[inline(always)]
    pub(super) fn active() -> Option<Self> {
        let bank = *ACTIVE.get(0)?;
        let header = *HEADERS.get(bank.index())?;
        Some(Self { bank, header })
    }

    #[inline(always)]
    pub(super) fn endpoint(&self, identity: Identity) -> Option<&Endpoint> {
        // SAFETY: entries of the active bank are not changed in place while a program can read them; the agent
        // writes the other bank and waits for a grace period.
        unsafe { ENDPOINTS.get(EndpointKey::new(self.bank, identity)) }
    }

    /// The endpoint on a device.
    #[inline(always)]
    pub(super) fn endpoint_on(&self, device: u32) -> Option<&Endpoint> {
        match DEVICES.get(device_slot::of(self.bank, device)) {
            Some(endpoint) if endpoint.device() == device => Some(endpoint),
            Some(_) | None => self.endpoint(Identity::Device(device)),
        }
    }

    /// The endpoint of the innermost cgroup that is one.
    #[inline(always)]
    pub(super) fn endpoint_by_cgroup(&self, cgroup_at: impl Fn(u32) -> u64) -> Option<(Identity, &Endpoint)> {
        if self.header.cgroup_levels() == 0 {
            return None;
        }
        for level in (1..CGROUP_LEVELS).rev() {
            if self.header.has_cgroups_at(level) {
                let identity = Identity::Cgroup(cgroup_at(level));
                if let Some(endpoint) = self.endpoint(identity) {
                    return Some((identity, endpoint));
                }
            }
        }
        None
    }
}

impl Lookup for Generation {
    #[inline(always)]
    fn groups(&self, addr: Addr) -> GroupSet {
        let key = DestinationKey::new(self.bank, addr);
        let covering = match NETWORKS.get(Key::new(DestinationKey::BITS, key)) {
            // What is inside the cluster is that whatever else is said of it, so most packets need no second look.
            Some(groups) if groups.is_internal() => return *groups,
            Some(groups) => *groups,
            None => GroupSet::EXTERNAL,
        };
        // SAFETY: as in `endpoint`.
        match unsafe { HOSTS.get(key) } {
            Some(groups) => *groups,
            None => covering,
        }
    }

    #[inline(always)]
    fn permits(&self, policy: PolicyId, groups: GroupSet, protocol: Protocol, port: u16) -> bool {
        RULES
            .get(Key::new(
                RuleKey::BITS,
                RuleKey::new(self.bank, policy, groups, protocol, port),
            ))
            .is_some()
    }

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Flow {
        flows::get(key)
    }

    #[inline(always)]
    fn first_fragment(&self, key: &FragmentKey) -> Option<u64> {
        flows::first_fragment(key)
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: the helper has no requirements.
        unsafe { bpf_ktime_get_ns() }
    }
}
