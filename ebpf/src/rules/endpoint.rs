//! A local pod, as the programs know it.

use bytemuck::{Pod, Zeroable};

use super::PolicyId;
use crate::Addr;

/// What the programs know of one local pod.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct Endpoint {
    v4: Addr,
    v6: Addr,
    policy: PolicyId,
    device: u32,
    flags: u32,
    mac: [u8; 6],
    reserved: [u8; 2],
    captured: [u32; 2],
}

const _: () = assert!(size_of::<Endpoint>() == 60);

impl Endpoint {
    const SUBJECT: u32 = 1;
    const GATEWAY: u32 = 1 << 1;
    const AUDIT: u32 = 1 << 2;
    const REJECT: u32 = 1 << 3;
    const HOST: u32 = 1 << 4;
    const STRANGER: u32 = 1 << 5;

    /// An endpoint that no policy selects, on the pod device with this index (0 for a pod in the node's own
    /// network namespace).
    pub const fn new(device: u32, mac: [u8; 6], v4: Option<Addr>, v6: Option<Addr>) -> Self {
        Self {
            v4: match v4 {
                Some(addr) => addr,
                None => Addr::UNSPECIFIED,
            },
            v6: match v6 {
                Some(addr) => addr,
                None => Addr::UNSPECIFIED,
            },
            policy: PolicyId(0),
            device,
            flags: if device == 0 { Self::HOST } else { 0 },
            mac,
            reserved: [0; 2],
            captured: [0; 2],
        }
    }

    /// No pod that any object tells of: to enforcement it is as unknown as before.
    #[must_use]
    pub const fn as_stranger(mut self) -> Self {
        self.flags |= Self::STRANGER;
        self
    }

    /// Captured, in the network namespace with this cookie.
    #[must_use]
    pub const fn captured_in(mut self, netns: u64) -> Self {
        self.captured = [netns as u32, (netns >> 32) as u32];
        self
    }

    /// Held to `policy`.
    #[must_use]
    pub const fn subject_to(mut self, policy: PolicyId) -> Self {
        self.policy = policy;
        self.flags |= Self::SUBJECT;
        self
    }

    /// A gateway: what it may do is the registry or `Any`, and its refusals say so.
    #[must_use]
    pub const fn as_gateway(mut self, gateway: bool) -> Self {
        if gateway {
            self.flags |= Self::GATEWAY;
        }
        self
    }

    /// Decide and report, drop nothing.
    #[must_use]
    pub const fn audited(mut self, audit: bool) -> Self {
        if audit {
            self.flags |= Self::AUDIT;
        }
        self
    }

    /// Answer what is dropped.
    #[must_use]
    pub const fn rejecting(mut self, reject: bool) -> Self {
        if reject {
            self.flags |= Self::REJECT;
        }
        self
    }

    /// Held to a policy at all.
    #[inline(always)]
    pub const fn is_subject(&self) -> bool {
        self.flags & Self::SUBJECT != 0
    }

    /// Named by a policy as a way out.
    #[inline(always)]
    pub const fn is_gateway(&self) -> bool {
        self.flags & Self::GATEWAY != 0
    }

    /// Decide and report, drop nothing.
    #[inline(always)]
    pub const fn is_audited(&self) -> bool {
        self.flags & Self::AUDIT != 0
    }

    /// Answer what is dropped.
    #[inline(always)]
    pub const fn rejects(&self) -> bool {
        self.flags & Self::REJECT != 0
    }

    /// In the node's network namespace, told by its cgroup: it has no device and no address of its own.
    #[inline(always)]
    pub const fn is_host(&self) -> bool {
        self.flags & Self::HOST != 0
    }

    /// Captured, but no pod that any object tells of.
    #[inline(always)]
    pub const fn is_stranger(&self) -> bool {
        self.flags & Self::STRANGER != 0
    }

    /// The cookie of its network namespace if it is captured, 0 otherwise.
    #[inline(always)]
    pub const fn captured(&self) -> u64 {
        self.captured[0] as u64 | (self.captured[1] as u64) << 32
    }

    /// The rules it is held to.
    #[inline(always)]
    pub const fn policy(&self) -> PolicyId {
        self.policy
    }

    /// Index of its pod device in the node's network namespace.
    #[inline(always)]
    pub const fn device(&self) -> u32 {
        self.device
    }

    /// The hardware address inside the pod.
    #[inline(always)]
    pub const fn mac(&self) -> [u8; 6] {
        self.mac
    }

    /// Its IPv4 address.
    #[inline(always)]
    pub fn v4(&self) -> Option<Addr> {
        (!self.v4.is_unspecified()).then_some(self.v4)
    }

    /// Its IPv6 address.
    #[inline(always)]
    pub fn v6(&self) -> Option<Addr> {
        (!self.v6.is_unspecified()).then_some(self.v6)
    }

    /// Whether `addr` is the pod's own.
    #[inline(always)]
    pub fn owns(&self, addr: Addr) -> bool {
        !addr.is_unspecified() && (addr == self.v4 || addr == self.v6)
    }

    /// The pod's own address of the same family as `peer`; unspecified if it has none.
    #[inline(always)]
    pub fn own_for(&self, peer: Addr) -> Addr {
        if peer.is_v4() { self.v4 } else { self.v6 }
    }
}
