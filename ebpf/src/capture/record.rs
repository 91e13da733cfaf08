//! How one network namespace is captured.

use bytemuck::{Pod, Zeroable};

use super::{join, port, split};
use crate::{Addr, reason::RedirectReason};

/// How a pod's connections reach the proxy.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Nothing is captured, but the proxy's ports are kept for it: the node's own network namespace.
    Guard = 0,
    /// The proxy listens in the node's network namespace.
    Node = 1,
    /// The proxy listens in the pod's network namespace, as ztunnel does.
    InPod = 2,
    /// The proxy is a container of the pod.
    Sidecar = 3,
}

/// A cgroup that processes are told by: its number, and how many levels below the root it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct CgroupRef {
    id: [u32; 2],
    level: u32,
}

impl CgroupRef {
    /// None.
    pub const NONE: Self = Self { id: [0; 2], level: 0 };

    /// The cgroup `id`, `level` levels below the root.
    pub const fn new(id: u64, level: u32) -> Self {
        Self { id: split(id), level }
    }

    /// Its number, 0 for none.
    #[inline(always)]
    pub const fn id(&self) -> u64 {
        join(self.id)
    }

    /// Levels below the root.
    #[inline(always)]
    pub const fn level(&self) -> u32 {
        self.level
    }

    /// Whether who is asked about is in this cgroup; `at` answers the number of his cgroup at a level.
    #[inline(always)]
    pub fn holds(&self, at: impl Fn(u32) -> u64) -> bool {
        self.id() != 0 && at(self.level) == self.id()
    }
}

/// How many cgroups may be the proxy's at once: an old and a new one, and as many again.
pub const PROXIES: usize = 4;

/// How the connections of one network namespace are captured.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct Capture {
    netns: [u32; 2],
    own_v4: Addr,
    own_v6: Addr,
    node_v4: Addr,
    node_v6: Addr,
    proxies: [CgroupRef; PROXIES],
    uid: u32,
    gid: u32,
    outbound: [u8; 2],
    dns: [u8; 2],
    mode: u8,
    flags: u8,
    reserved: [u8; 2],
}

const _: () = assert!(size_of::<Capture>() == 136);

impl Capture {
    /// Stands for no user and no group.
    pub const NOBODY: u32 = u32::MAX;

    const EVERY_RANGE: u8 = 1;
    const INBOUND: u8 = 1 << 1;
    const EVERY_PORT: u8 = 1 << 2;
    const DNS: u8 = 1 << 3;
    const RANGES: u8 = 1 << 4;
    const PORTS: u8 = 1 << 5;
    const AT_CALL: u8 = 1 << 6;

    /// Of the network namespace with this cookie; without a proxy and with nothing that is captured.
    pub const fn new(netns: u64, mode: Mode) -> Self {
        Self {
            netns: split(netns),
            own_v4: Addr::UNSPECIFIED,
            own_v6: Addr::UNSPECIFIED,
            node_v4: Addr::UNSPECIFIED,
            node_v6: Addr::UNSPECIFIED,
            proxies: [CgroupRef::NONE; PROXIES],
            uid: Self::NOBODY,
            gid: Self::NOBODY,
            outbound: port::OUTBOUND.to_be_bytes(),
            dns: port::DNS.to_be_bytes(),
            mode: mode as u8,
            flags: 0,
            reserved: [0; 2],
        }
    }

    /// With these addresses of its own.
    #[must_use]
    pub const fn at(mut self, v4: Option<Addr>, v6: Option<Addr>) -> Self {
        if let Some(addr) = v4 {
            self.own_v4 = addr;
        }
        if let Some(addr) = v6 {
            self.own_v6 = addr;
        }
        self
    }

    /// With these cgroups of the proxy; more than [`PROXIES`] are left out.
    #[must_use]
    pub fn proxied_by(mut self, proxies: &[CgroupRef]) -> Self {
        for (place, proxy) in self.proxies.iter_mut().zip(proxies) {
            *place = *proxy;
        }
        self
    }

    /// With this user or group of the proxy besides; [`Capture::NOBODY`] for none.
    #[must_use]
    pub const fn run_as(mut self, uid: u32, gid: u32) -> Self {
        self.uid = uid;
        self.gid = gid;
        self
    }

    /// With the proxy listening on this port for captured calls.
    #[must_use]
    pub const fn outbound_to(mut self, port: u16) -> Self {
        self.outbound = port.to_be_bytes();
        self
    }

    /// Capturing DNS; the proxy's resolver listens on this port.
    #[must_use]
    pub const fn dns_to(mut self, port: u16) -> Self {
        self.dns = port.to_be_bytes();
        self.flags |= Self::DNS;
        self
    }

    /// With the proxy of the node at these addresses.
    #[must_use]
    pub const fn reached_at(mut self, v4: Option<Addr>, v6: Option<Addr>) -> Self {
        if let Some(addr) = v4 {
            self.node_v4 = addr;
        }
        if let Some(addr) = v6 {
            self.node_v6 = addr;
        }
        self
    }

    /// Capturing calls to every range that is not excluded, or to those that are included only.
    #[must_use]
    pub const fn every_range(self, yes: bool) -> Self {
        self.flagged(Self::EVERY_RANGE, yes)
    }

    /// Capturing calls to the pod at all.
    #[must_use]
    pub const fn inbound(self, yes: bool) -> Self {
        self.flagged(Self::INBOUND, yes)
    }

    /// Capturing calls to every port of the pod that is not excluded, or to those that are included only.
    #[must_use]
    pub const fn every_port(self, yes: bool) -> Self {
        self.flagged(Self::EVERY_PORT, yes)
    }

    /// With a proxy on the node, whatever is called: redirected at the call, because packets go past the node's sockets.
    #[must_use]
    pub const fn at_call(self, yes: bool) -> Self {
        self.flagged(Self::AT_CALL, yes)
    }

    /// With ranges that say more.
    #[must_use]
    pub const fn with_ranges(self, yes: bool) -> Self {
        self.flagged(Self::RANGES, yes)
    }

    /// With ports that say more.
    #[must_use]
    pub const fn with_ports(self, yes: bool) -> Self {
        self.flagged(Self::PORTS, yes)
    }

    const fn flagged(mut self, flag: u8, yes: bool) -> Self {
        if yes {
            self.flags |= flag;
        } else {
            self.flags &= !flag;
        }
        self
    }

    /// The cookie of the network namespace.
    #[inline(always)]
    pub const fn netns(&self) -> u64 {
        join(self.netns)
    }

    /// How. What cannot be read captures nothing and keeps the ports.
    #[inline(always)]
    pub const fn mode(&self) -> Mode {
        match self.mode {
            1 => Mode::Node,
            2 => Mode::InPod,
            3 => Mode::Sidecar,
            _ => Mode::Guard,
        }
    }

    /// Whether the proxy listens inside the pod's network namespace.
    #[inline(always)]
    pub const fn is_inside(&self) -> bool {
        matches!(self.mode(), Mode::InPod | Mode::Sidecar)
    }

    /// Whether calls to the pod are captured.
    #[inline(always)]
    pub const fn has_inbound(&self) -> bool {
        self.flags & Self::INBOUND != 0
    }

    /// Whether DNS is captured.
    #[inline(always)]
    pub const fn has_dns(&self) -> bool {
        self.flags & Self::DNS != 0
    }

    /// The cgroups of the proxy.
    #[inline(always)]
    pub const fn proxies(&self) -> &[CgroupRef; PROXIES] {
        &self.proxies
    }

    /// Whether who is asked about is the proxy; `at` answers the number of his cgroup at a level.
    #[inline(always)]
    pub fn is_proxy(&self, at: impl Fn(u32) -> u64) -> bool {
        // Not a loop: the verifier is to see four questions, not a counter.
        let [first, second, third, fourth] = &self.proxies;
        first.holds(&at) || second.holds(&at) || third.holds(&at) || fourth.holds(&at)
    }

    /// Whether the operator says that this user or group is the proxy.
    #[inline(always)]
    pub const fn is_proxy_user(&self, uid: u32, gid: u32) -> bool {
        (self.uid != Self::NOBODY && self.uid == uid) || (self.gid != Self::NOBODY && self.gid == gid)
    }

    /// Whether a user or a group counts at all.
    #[inline(always)]
    pub const fn has_proxy_user(&self) -> bool {
        self.uid != Self::NOBODY || self.gid != Self::NOBODY
    }

    /// Whether it is said at all who the proxy is.
    #[inline(always)]
    pub const fn knows_proxy(&self) -> bool {
        let [first, second, third, fourth] = &self.proxies;
        first.id() != 0 || second.id() != 0 || third.id() != 0 || fourth.id() != 0 || self.has_proxy_user()
    }

    /// Where a call for the proxy inside the pod is sent instead of `dst`: the pod's own address, so that the caller's is its
    /// own too; the loopback one if the pod has none of this family.
    #[inline(always)]
    pub const fn own_for(&self, dst: Addr) -> Addr {
        let own = if dst.is_v4() { self.own_v4 } else { self.own_v6 };
        if own.is_unspecified() {
            loopback_for(dst)
        } else {
            own
        }
    }

    /// Where a call for the proxy on the node is sent instead; unspecified if the node has no address of this family.
    #[inline(always)]
    pub const fn node_for(&self, dst: Addr) -> Addr {
        if dst.is_v4() { self.node_v4 } else { self.node_v6 }
    }

    /// Where a question for `dst` is sent instead.
    #[inline(always)]
    pub const fn dns_for(&self, dst: Addr) -> Addr {
        let node = self.node_for(dst);
        if node.is_unspecified() {
            loopback_for(dst)
        } else {
            node
        }
    }

    /// The port of the proxy for a redirected call.
    #[inline(always)]
    pub const fn port_for(&self, reason: RedirectReason) -> u16 {
        match reason {
            RedirectReason::Outbound | RedirectReason::VirtualInterface => u16::from_be_bytes(self.outbound),
            RedirectReason::Inbound => port::INBOUND,
            RedirectReason::Dns => u16::from_be_bytes(self.dns),
        }
    }

    /// Whether every range is captured that is not excluded.
    #[inline(always)]
    pub const fn has_every_range(&self) -> bool {
        self.flags & Self::EVERY_RANGE != 0
    }

    /// Whether calls to every port of the pod are captured that is not excluded.
    #[inline(always)]
    pub const fn has_every_port(&self) -> bool {
        self.flags & Self::EVERY_PORT != 0
    }

    /// Whether every call for the proxy on the node is redirected at the call.
    #[inline(always)]
    pub const fn is_at_call(&self) -> bool {
        self.flags & Self::AT_CALL != 0
    }

    /// Whether there are ranges that say more.
    #[inline(always)]
    pub const fn has_ranges(&self) -> bool {
        self.flags & Self::RANGES != 0
    }

    /// Whether there are ports that say more.
    #[inline(always)]
    pub const fn has_ports(&self) -> bool {
        self.flags & Self::PORTS != 0
    }
}

#[inline(always)]
const fn loopback_for(dst: Addr) -> Addr {
    if dst.is_v4() {
        Addr::v4([127, 0, 0, 1])
    } else {
        Addr::v6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
    }
}
