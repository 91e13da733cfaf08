//! Keys and values of what is looked up beside that.

use bytemuck::{Pod, Zeroable};

use super::{join, split};
use crate::{Addr, packet::Packet, rules::Bank};

/// Key of a [`Capture`](super::Capture).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct CaptureKey {
    bank: Bank,
    netns: [u32; 2],
}

const _: () = assert!(size_of::<CaptureKey>() == 12);

impl CaptureKey {
    /// Of the network namespace with this cookie.
    #[inline(always)]
    pub const fn new(bank: Bank, netns: u64) -> Self {
        Self {
            bank,
            netns: split(netns),
        }
    }
}

/// The network namespace that an address belongs to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct Owner([u32; 2]);

impl Owner {
    /// The namespace with this cookie.
    pub const fn new(netns: u64) -> Self {
        Self(split(netns))
    }

    /// Its cookie.
    #[inline(always)]
    pub const fn netns(&self) -> u64 {
        join(self.0)
    }
}

/// Key of what is said of a range, in a longest-prefix trie.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct RangeKey {
    bank: Bank,
    netns: [u32; 2],
    addr: Addr,
}

const _: () = assert!(size_of::<RangeKey>() == 28);

impl RangeKey {
    /// Stands for all namespaces.
    pub const EVERYBODY: u64 = 0;
    /// Bits of the key before the address.
    pub const BEFORE_BITS: u32 = 96;
    /// All bits: the prefix length to look an address up with.
    pub const BITS: u32 = Self::BEFORE_BITS + 128;

    /// `addr`, as the namespace with this cookie sees it.
    #[inline(always)]
    pub const fn new(bank: Bank, netns: u64, addr: Addr) -> Self {
        Self {
            bank,
            netns: split(netns),
            addr,
        }
    }
}

/// Key of what is said of a port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct PortKey {
    bank: Bank,
    netns: [u32; 2],
    port: [u8; 2],
    reserved: [u8; 2],
}

const _: () = assert!(size_of::<PortKey>() == 16);

impl PortKey {
    /// `port`, in the namespace with this cookie.
    #[inline(always)]
    pub const fn new(bank: Bank, netns: u64, port: u16) -> Self {
        Self {
            bank,
            netns: split(netns),
            port: port.to_be_bytes(),
            reserved: [0; 2],
        }
    }
}

/// What is said of a range or a port: a range inherits what is said of those around it.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct Scope(u32);

impl Scope {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Calls there are not captured.
    pub const EXCLUDED: Self = Self(1);
    /// Calls there are captured.
    pub const INCLUDED: Self = Self(1 << 1);
    /// Calls to this port of the pod are not captured.
    pub const INBOUND_EXCLUDED: Self = Self(1 << 2);
    /// Calls to this port of the pod are captured.
    pub const INBOUND_INCLUDED: Self = Self(1 << 3);
    /// The node translates this destination into another (a Service). Said of no namespace in particular, see
    /// [`RangeKey::EVERYBODY`].
    pub const TRANSLATED: Self = Self(1 << 4);

    /// Both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether it says so.
    #[inline(always)]
    pub const fn says(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Where a redirected call wanted to go, kept in the storage of its socket for as long as that lives.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Original {
    addr: Addr,
    via: Addr,
    port: [u8; 2],
    via_port: [u8; 2],
    crosses: u32,
}

const _: () = assert!(size_of::<Original>() == 40);

impl Original {
    /// A call for `addr`:`port` that was sent to `via`:`via_port`.
    #[inline(always)]
    pub const fn new(addr: Addr, port: u16, via: Addr, via_port: u16) -> Self {
        Self {
            addr,
            via,
            port: port.to_be_bytes(),
            via_port: via_port.to_be_bytes(),
            crosses: 0,
        }
    }

    /// Sent to another network namespace, the node's.
    #[must_use]
    #[inline(always)]
    pub const fn crossing(mut self, crosses: bool) -> Self {
        self.crosses = crosses as u32;
        self
    }

    /// Whether it was sent to another network namespace.
    #[inline(always)]
    pub const fn crosses(&self) -> bool {
        self.crosses != 0
    }

    /// Where it wanted to go.
    #[inline(always)]
    pub const fn addr(&self) -> Addr {
        self.addr
    }

    /// On which port.
    #[inline(always)]
    pub const fn port(&self) -> u16 {
        u16::from_be_bytes(self.port)
    }

    /// Whether it was sent there instead.
    #[inline(always)]
    pub fn was_sent_to(&self, addr: Addr, port: u16) -> bool {
        self.via == addr && u16::from_be_bytes(self.via_port) == port
    }
}

/// A connection that is being made to the proxy, as the proxy sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct HandshakeKey {
    netns: [u32; 2],
    caller: Addr,
    proxy: Addr,
    caller_port: [u8; 2],
    proxy_port: [u8; 2],
}

const _: () = assert!(size_of::<HandshakeKey>() == 44);

impl HandshakeKey {
    /// Stands for no namespace in particular: the caller is in one and the proxy in the node's. The caller is then known to
    /// have the address that it calls from.
    pub const CROSSING: u64 = 0;

    /// From `caller` to `proxy` in the namespace with this cookie.
    #[inline(always)]
    pub const fn new(netns: u64, caller: Addr, caller_port: u16, proxy: Addr, proxy_port: u16) -> Self {
        Self {
            netns: split(netns),
            caller,
            proxy,
            caller_port: caller_port.to_be_bytes(),
            proxy_port: proxy_port.to_be_bytes(),
        }
    }
}

/// A call to a pod that the kubelet makes, as the pod sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct ProbeKey {
    src: Addr,
    dst: Addr,
    sport: [u8; 2],
    dport: [u8; 2],
}

const _: () = assert!(size_of::<ProbeKey>() == 36);

impl ProbeKey {
    /// How long a call may take to be made: the kernel gives up before (`tcp_syn_retries` 6 are 127 s).
    pub const LIFETIME_NS: u64 = 128_000_000_000;

    /// The call of a packet.
    #[inline(always)]
    pub const fn of(packet: &Packet) -> Self {
        let tuple = &packet.tuple;
        Self {
            src: tuple.src,
            dst: tuple.dst,
            sport: tuple.sport.to_be_bytes(),
            dport: tuple.dport.to_be_bytes(),
        }
    }
}
