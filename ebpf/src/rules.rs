//! What the agent writes and the programs read: rules, endpoints, and the bank that makes a change atomic.
//!
//! Every rule lives in one of two *banks*, and every key begins with its bank. A program reads the active bank
//! once and stays with it; the agent writes the other bank and then switches. So no packet sees half of a
//! change, whatever its size, and the previous generation stays complete until nobody can be reading it.

pub mod capacity;
pub mod cgroup_depth;
pub mod device_slot;
mod endpoint;

pub use endpoint::Endpoint;

use bytemuck::{Pod, Zeroable};

use crate::{Addr, capture::CgroupRef, packet::Protocol};

/// Version of the layout and the meaning of everything shared. Pins live in a directory of this name.
pub const ABI: u32 = 3;

/// Cgroups that are as many levels below the root, or more, are not told apart: the programs look at each level.
pub const CGROUP_LEVELS: u32 = 12;

/// One of the two complete sets of rules.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct Bank(u32);

impl Bank {
    /// Both.
    pub const ALL: [Self; 2] = [Self(0), Self(1)];

    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        Self(self.0 ^ 1)
    }

    /// Its place in an array of two.
    #[inline(always)]
    pub const fn index(self) -> u32 {
        self.0 & 1
    }
}

/// What is true for a whole generation.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Header {
    generation: u64,
    enforcement: u32,
    cgroup_levels: u32,
    kubelet: CgroupRef,
    node_port: u32,
}

const _: () = assert!(size_of::<Header>() == 32);

/// What happens to a sender of whom nothing is known, and at the backstop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Enforcement {
    /// No EgressPolicy exists: everything passes.
    #[default]
    Off,
    /// Only policies in audit mode exist: everything passes, and what would not is reported.
    Audit,
    /// Drop.
    Enforce,
}

impl Header {
    /// `cgroup_levels` has bit *n* set when a cgroup *n* levels below the root is an endpoint; `kubelet` is the cgroup
    /// whose calls to captured pods are probes.
    pub const fn new(
        generation: u64,
        enforcement: Enforcement,
        cgroup_levels: u32,
        kubelet: CgroupRef,
    ) -> Self {
        Self {
            generation,
            enforcement: enforcement as u32,
            cgroup_levels,
            kubelet,
            node_port: 0,
        }
    }

    /// With a proxy on the node that listens on this port, 0 for none.
    #[must_use]
    pub const fn with_node_proxy(mut self, port: u16) -> Self {
        self.node_port = port as u32;
        self
    }

    /// The number of the generation.
    #[inline(always)]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// See [`Enforcement`]. What cannot be read is enforced.
    #[inline(always)]
    pub const fn enforcement(&self) -> Enforcement {
        match self.enforcement {
            0 => Enforcement::Off,
            1 => Enforcement::Audit,
            _ => Enforcement::Enforce,
        }
    }

    /// Whether an endpoint is told by a cgroup at this level.
    #[inline(always)]
    pub const fn has_cgroups_at(&self, level: u32) -> bool {
        self.cgroup_levels & (1 << level) != 0
    }

    /// The levels, as a bit each.
    #[inline(always)]
    pub const fn cgroup_levels(&self) -> u32 {
        self.cgroup_levels
    }

    /// The port of the proxy on the node, 0 for none.
    #[inline(always)]
    pub const fn node_port(&self) -> u16 {
        self.node_port as u16
    }

    /// The cgroup whose calls to captured pods are probes.
    #[inline(always)]
    pub const fn kubelet(&self) -> CgroupRef {
        self.kubelet
    }
}

/// How an endpoint is told: nothing that can be chosen from inside a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// By the index of its pod device in the node's network namespace.
    Device(u32),
    /// By the cookie of its network namespace.
    Netns(u64),
    /// By its cgroup, for pods in the node's network namespace.
    Cgroup(u64),
}

impl Identity {
    /// Which kind, as a number for keys and events.
    #[inline(always)]
    pub const fn kind(self) -> u32 {
        match self {
            Self::Device(_) => 0,
            Self::Netns(_) => 1,
            Self::Cgroup(_) => 2,
        }
    }

    /// The number of that kind.
    #[inline(always)]
    pub const fn id(self) -> u64 {
        match self {
            Self::Device(index) => index as u64,
            Self::Netns(cookie) => cookie,
            Self::Cgroup(id) => id,
        }
    }

    /// Back from kind and number.
    pub const fn from_parts(kind: u32, id: u64) -> Option<Self> {
        match kind {
            0 => Some(Self::Device(id as u32)),
            1 => Some(Self::Netns(id)),
            2 => Some(Self::Cgroup(id)),
            _ => None,
        }
    }
}

/// Key of an [`Endpoint`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct EndpointKey {
    bank: Bank,
    kind: u32,
    id: u64,
}

const _: () = assert!(size_of::<EndpointKey>() == 16);

impl EndpointKey {
    /// The key of `identity` in `bank`.
    #[inline(always)]
    pub const fn new(bank: Bank, identity: Identity) -> Self {
        Self {
            bank,
            kind: identity.kind(),
            id: identity.id(),
        }
    }
}

/// A combination of rules that one or more endpoints are held to.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct PolicyId(pub u32);

/// The address groups that cover a destination, as one number; internal or not is part of it.
///
/// 0 is what no group covers: external, and known to no policy.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct GroupSet(u32);

impl GroupSet {
    const INTERNAL_BIT: u32 = 1 << 31;
    /// External, in no group.
    pub const EXTERNAL: Self = Self(0);
    /// Inside the cluster. What else covers it does not matter, as internal destinations are permitted.
    pub const INTERNAL: Self = Self(Self::INTERNAL_BIT);

    /// The `number`th set of groups, from 1.
    pub const fn numbered(number: u32) -> Self {
        Self(number & !Self::INTERNAL_BIT)
    }

    /// Whether the destination is inside the cluster.
    #[inline(always)]
    pub const fn is_internal(self) -> bool {
        self.0 & Self::INTERNAL_BIT != 0
    }
}

/// Key of a destination: a host in the hash of hosts, or the data of a prefix in the trie of networks.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct DestinationKey {
    bank: Bank,
    addr: Addr,
}

const _: () = assert!(size_of::<DestinationKey>() == 20);

impl DestinationKey {
    /// Bits of the key before the address.
    pub const BANK_BITS: u32 = 32;
    /// All bits: the prefix length to look an address up with.
    pub const BITS: u32 = Self::BANK_BITS + 128;

    /// `addr` in `bank`.
    #[inline(always)]
    pub const fn new(bank: Bank, addr: Addr) -> Self {
        Self { bank, addr }
    }
}

/// Key of a rule: for this policy, to destinations of this group set, with this protocol and port.
///
/// A key of a longest-prefix trie, so that a rule may leave out the protocol and the port
/// ([`RuleKey::ANY_PROTOCOL_BITS`]), the port ([`RuleKey::ANY_PORT_BITS`]) or the last bits of the port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct RuleKey {
    bank: Bank,
    policy: PolicyId,
    groups: GroupSet,
    protocol: u8,
    reserved: u8,
    port: [u8; 2],
}

const _: () = assert!(size_of::<RuleKey>() == 16);

impl RuleKey {
    /// Prefix length of a rule for every protocol and port.
    pub const ANY_PROTOCOL_BITS: u32 = 96;
    /// Prefix length of a rule for one protocol and every port.
    pub const ANY_PORT_BITS: u32 = 112;
    /// Prefix length of a rule for one port, and of a look-up.
    pub const BITS: u32 = 128;

    /// The key of a look-up, or the data of a rule. Both ICMPs are one protocol here.
    #[inline(always)]
    pub const fn new(bank: Bank, policy: PolicyId, groups: GroupSet, protocol: Protocol, port: u16) -> Self {
        let protocol = if protocol.0 == Protocol::ICMPV6.0 {
            Protocol::ICMP.0
        } else {
            protocol.0
        };
        Self {
            bank,
            policy,
            groups,
            protocol,
            reserved: 0,
            port: port.to_be_bytes(),
        }
    }
}
