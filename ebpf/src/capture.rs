//! Which connections belong to the node proxy: what the agent writes, what the programs read, and the decision.
//!
//! Who calls is told by the network namespace of his socket; who is called, by an address of his own. The proxy itself is
//! told by its cgroup: nothing that can be chosen inside a pod exempts from capture.

use bytemuck::{Pod, Zeroable};

use crate::{
    Addr, DropReason, Verdict,
    packet::{Fragment, Kind, Packet, Protocol},
    reason::{LeaveReason, RedirectReason},
    rules::Bank,
};

/// Ports of a proxy inside a pod, as ztunnel and Istio's sidecar have them (`cni/pkg/config/config.go` in istio/istio).
pub mod port {
    /// Administration of an Envoy: it can be told to stop there.
    pub const ADMIN: u16 = 15000;
    /// Captured calls of the pod.
    pub const OUTBOUND: u16 = 15001;
    /// The debug interface of Istio's sidecar agent.
    pub const DEBUG: u16 = 15004;
    /// Captured calls to the pod.
    pub const INBOUND: u16 = 15006;
    /// Calls to the pod that come by HBONE; never captured.
    pub const HBONE: u16 = 15008;
    /// The resolver, on the loopback addresses.
    pub const DNS: u16 = 15053;
    /// Where resolvers are asked.
    pub const ASKED_DNS: u16 = 53;

    /// Ports that only the proxy may listen on.
    #[inline(always)]
    pub const fn is_proxys(port: u16) -> bool {
        matches!(port, OUTBOUND | INBOUND | HBONE | DNS)
    }

    /// Ports that lead round the capture, or into a loop, when the pod calls them at its own address.
    #[inline(always)]
    pub const fn is_way_round(port: u16) -> bool {
        matches!(port, ADMIN | OUTBOUND | DEBUG | INBOUND)
    }
}

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
    dns_v4: Addr,
    dns_v6: Addr,
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

    /// Of the network namespace with this cookie; without a proxy and with nothing that is captured.
    pub const fn new(netns: u64, mode: Mode) -> Self {
        Self {
            netns: split(netns),
            own_v4: Addr::UNSPECIFIED,
            own_v6: Addr::UNSPECIFIED,
            dns_v4: Addr::v4([127, 0, 0, 1]),
            dns_v6: Addr::v6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
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

    /// With the resolver at these addresses instead of the loopback ones.
    #[must_use]
    pub const fn dns_at(mut self, v4: Addr, v6: Addr) -> Self {
        self.dns_v4 = v4;
        self.dns_v6 = v6;
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

    /// Where a call for the proxy's port is sent instead of `dst`: the pod's own address, so that the caller's is its own
    /// too; the loopback one if the pod has none of this family.
    #[inline(always)]
    pub const fn own_for(&self, dst: Addr) -> Addr {
        let (own, loopback) = if dst.is_v4() {
            (self.own_v4, Addr::v4([127, 0, 0, 1]))
        } else {
            (
                self.own_v6,
                Addr::v6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
            )
        };
        if own.is_unspecified() { loopback } else { own }
    }

    /// Where a question for `dst` is sent instead.
    #[inline(always)]
    pub const fn dns_for(&self, dst: Addr) -> Addr {
        if dst.is_v4() { self.dns_v4 } else { self.dns_v6 }
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

    #[inline(always)]
    const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Key of a [`Capture`].
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
}

const _: () = assert!(size_of::<Original>() == 36);

impl Original {
    /// A call for `addr`:`port` that was sent to `via`:`via_port`.
    #[inline(always)]
    pub const fn new(addr: Addr, port: u16, via: Addr, via_port: u16) -> Self {
        Self {
            addr,
            via,
            port: port.to_be_bytes(),
            via_port: via_port.to_be_bytes(),
        }
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

#[inline(always)]
const fn split(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

#[inline(always)]
const fn join([low, high]: [u32; 2]) -> u64 {
    low as u64 | (high as u64) << 32
}

/// What one generation says of captures.
pub trait Lookup {
    /// What is said of a range.
    fn range(&self, netns: u64, addr: Addr) -> Scope;
    /// What is said of a port.
    fn port(&self, netns: u64, port: u16) -> Scope;
    /// The cookie of the captured network namespace that has this address; 0 if none has.
    fn owner(&self, addr: Addr) -> u64;
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is none of ours.
    Leave(LeaveReason),
    /// It goes to the proxy.
    Redirect(RedirectReason),
    /// It is refused.
    Refuse(DropReason),
}

/// A call of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// Address that the socket is bound to; unspecified if it is not.
    pub src: Addr,
    /// Whereto.
    pub dst: Addr,
    /// On which port.
    pub dport: u16,
    /// By which protocol.
    pub protocol: Protocol,
    /// The proxy calls.
    pub by_proxy: bool,
}

/// Where a sidecar's own calls to the application come from (`InboundPassthroughBindIpv4` in istio/istio).
const SIDECAR_SOURCES: [Addr; 2] = [
    Addr::v4([127, 0, 0, 6]),
    Addr::v6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6]),
];

/// Judges a call of a pod.
#[inline(always)]
pub fn call<L: Lookup>(lookup: &L, capture: &Capture, call: &Call) -> Fate {
    let Call {
        src,
        dst,
        dport,
        protocol,
        by_proxy,
    } = *call;
    if matches!(capture.mode(), Mode::Guard) {
        return Fate::Leave(LeaveReason::NotIncluded);
    }
    let own = is_own(lookup, capture, dst);
    if own && capture.is_inside() && protocol.0 == Protocol::TCP.0 {
        if matches!(dport, port::OUTBOUND | port::INBOUND) || (!by_proxy && port::is_way_round(dport)) {
            return Fate::Refuse(DropReason::ProxyPort);
        }
        // A sidecar that calls its own pod by a Service is to be answered by its own inbound listener.
        let calls_itself = by_proxy
            && matches!(capture.mode(), Mode::Sidecar)
            && capture.has_inbound()
            && !dst.is_loopback()
            && !dst.is_unspecified()
            && dport != port::HBONE
            && src != SIDECAR_SOURCES[0]
            && src != SIDECAR_SOURCES[1];
        if calls_itself {
            return Fate::Redirect(RedirectReason::Inbound);
        }
    }
    if by_proxy {
        return Fate::Leave(LeaveReason::Proxy);
    }
    if own {
        return Fate::Leave(LeaveReason::Own);
    }
    outbound(lookup, capture, dst, dport, protocol)
}

/// Whether an address is the pod's own, or stands for it.
#[inline(always)]
fn is_own<L: Lookup>(lookup: &L, capture: &Capture, addr: Addr) -> bool {
    addr.is_loopback() || addr.is_unspecified() || lookup.owner(addr) == capture.netns()
}

/// Istio's order: what excludes comes first, ports before ranges (`tools/istio-iptables/pkg/capture/run.go`).
#[inline(always)]
fn outbound<L: Lookup>(lookup: &L, capture: &Capture, dst: Addr, dport: u16, protocol: Protocol) -> Fate {
    let is_dns = dport == port::ASKED_DNS && capture.has_dns();
    match protocol {
        Protocol::TCP => {}
        Protocol::UDP if is_dns => {}
        Protocol(_) => return Fate::Leave(LeaveReason::Protocol),
    }
    let port = if capture.has(Capture::PORTS) {
        lookup.port(capture.netns(), dport)
    } else {
        Scope::NONE
    };
    if port.says(Scope::EXCLUDED) {
        return Fate::Leave(LeaveReason::ExcludedPort);
    }
    if is_dns {
        return Fate::Redirect(RedirectReason::Dns);
    }
    let range = if capture.has(Capture::RANGES) {
        lookup.range(capture.netns(), dst)
    } else {
        Scope::NONE
    };
    if range.says(Scope::EXCLUDED) {
        return Fate::Leave(LeaveReason::ExcludedRange);
    }
    if port.says(Scope::INCLUDED) || capture.has(Capture::EVERY_RANGE) || range.says(Scope::INCLUDED) {
        return Fate::Redirect(RedirectReason::Outbound);
    }
    Fate::Leave(LeaveReason::NotIncluded)
}

/// Judges a call to a pod whose proxy listens inside, by its port.
#[inline(always)]
pub fn inbound<L: Lookup>(lookup: &L, capture: &Capture, dport: u16) -> Fate {
    if matches!(dport, port::OUTBOUND | port::INBOUND) {
        return Fate::Refuse(DropReason::ProxyPort);
    }
    if !capture.has_inbound() {
        return Fate::Leave(LeaveReason::Bypass);
    }
    if dport == port::HBONE {
        return Fate::Leave(LeaveReason::Hbone);
    }
    let scope = if capture.has(Capture::PORTS) {
        lookup.port(capture.netns(), dport)
    } else {
        Scope::NONE
    };
    if scope.says(Scope::INBOUND_EXCLUDED) {
        Fate::Leave(LeaveReason::ExcludedPort)
    } else if capture.has(Capture::EVERY_PORT) || scope.says(Scope::INBOUND_INCLUDED) {
        Fate::Redirect(RedirectReason::Inbound)
    } else {
        Fate::Leave(LeaveReason::NotIncluded)
    }
}

/// Judges a packet that a captured pod sends, on its device: with a proxy inside, a call that comes by here and should
/// have been redirected at its socket has dodged that; with a proxy on the node, here is where it is redirected.
#[inline(always)]
pub fn sent<L: Lookup>(
    lookup: &L,
    capture: &Capture,
    packet: &Packet,
    by_proxy: impl FnOnce() -> bool,
) -> Fate {
    let tuple = &packet.tuple;
    if tuple.protocol.0 != Protocol::TCP.0 {
        return Fate::Leave(LeaveReason::Protocol);
    }
    let whole = matches!(packet.fragment, Fragment::Whole);
    if whole && !matches!(packet.kind, Kind::Tcp(flags) if flags.opens()) {
        return Fate::Leave(LeaveReason::Established);
    }
    if by_proxy() {
        return Fate::Leave(LeaveReason::Proxy);
    }
    if !whole {
        return Fate::Refuse(DropReason::TcpFragment);
    }
    // The node's own addresses have an owner, too: the proxy would be asked to call itself.
    let way_round =
        port::is_way_round(tuple.dport) || tuple.dport == capture.port_for(RedirectReason::Outbound);
    if !capture.is_inside() && way_round && lookup.owner(tuple.dst) != 0 {
        return Fate::Refuse(DropReason::ProxyPort);
    }
    match outbound(lookup, capture, tuple.dst, tuple.dport, tuple.protocol) {
        Fate::Redirect(_) if capture.is_inside() => Fate::Refuse(DropReason::Uncaptured),
        fate @ (Fate::Redirect(_) | Fate::Leave(_) | Fate::Refuse(_)) => fate,
    }
}

/// What capture makes of the verdict on a packet: the proxy is held to the rules itself, so what goes to it need not be
/// permitted to the pod; but a packet that is not the pod's, or not sound, stays refused.
#[inline(always)]
pub const fn overrule(verdict: Verdict, fate: Fate) -> Verdict {
    let by_rules = match verdict {
        Verdict::Allow(_) | Verdict::Redirect(_) => true,
        Verdict::Deny(reason) => matches!(
            reason,
            DropReason::NotGateway | DropReason::NotRegistered | DropReason::Port
        ),
    };
    match fate {
        Fate::Redirect(reason) if by_rules => Verdict::Redirect(reason),
        Fate::Refuse(reason) if by_rules => Verdict::Deny(reason),
        Fate::Leave(_) | Fate::Redirect(_) | Fate::Refuse(_) => verdict,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const POD: Addr = Addr::v4([10, 0, 0, 5]);
    const OUTSIDE: Addr = Addr::v4([203, 0, 113, 9]);
    const COOKIE: u64 = 0x1_0000_0007;

    #[derive(Default)]
    struct Said {
        ranges: BTreeMap<Addr, Scope>,
        ports: BTreeMap<u16, Scope>,
    }

    impl Lookup for Said {
        fn range(&self, netns: u64, addr: Addr) -> Scope {
            assert_eq!(netns, COOKIE);
            self.ranges.get(&addr).copied().unwrap_or(Scope::NONE)
        }

        fn port(&self, netns: u64, port: u16) -> Scope {
            assert_eq!(netns, COOKIE);
            self.ports.get(&port).copied().unwrap_or(Scope::NONE)
        }

        fn owner(&self, addr: Addr) -> u64 {
            if addr == POD { COOKIE } else { 0 }
        }
    }

    const fn sidecar() -> Capture {
        Capture::new(COOKIE, Mode::Sidecar)
            .at(Some(POD), None)
            .dns_to(port::DNS)
            .every_range(true)
            .inbound(true)
            .every_port(true)
    }

    const fn tcp(dst: Addr, dport: u16) -> Call {
        Call {
            src: Addr::UNSPECIFIED,
            dst,
            dport,
            protocol: Protocol::TCP,
            by_proxy: false,
        }
    }

    #[test]
    fn what_is_excluded_goes_before_what_is_included_and_ports_before_ranges() {
        let said = Said {
            ranges: BTreeMap::from([(OUTSIDE, Scope::EXCLUDED.and(Scope::INCLUDED))]),
            ports: BTreeMap::from([(22, Scope::EXCLUDED), (8080, Scope::INCLUDED)]),
        };
        let capture = sidecar().with_ranges(true).with_ports(true);
        let other = Addr::v4([203, 0, 113, 10]);
        let judge = |call_: Call| call(&said, &capture, &call_);
        assert_eq!(judge(tcp(OUTSIDE, 80)), Fate::Leave(LeaveReason::ExcludedRange));
        assert_eq!(judge(tcp(OUTSIDE, 8080)), Fate::Leave(LeaveReason::ExcludedRange));
        assert_eq!(judge(tcp(other, 22)), Fate::Leave(LeaveReason::ExcludedPort));
        assert_eq!(judge(tcp(other, 80)), Fate::Redirect(RedirectReason::Outbound));
        let some = capture.every_range(false);
        assert_eq!(
            call(&said, &some, &tcp(other, 80)),
            Fate::Leave(LeaveReason::NotIncluded)
        );
        assert_eq!(
            call(&said, &some, &tcp(other, 8080)),
            Fate::Redirect(RedirectReason::Outbound)
        );
    }

    #[test]
    fn dns_is_captured_for_both_protocols_and_nothing_else_of_udp_is() {
        let said = Said::default();
        let udp = |dport| Call {
            protocol: Protocol::UDP,
            ..tcp(OUTSIDE, dport)
        };
        assert_eq!(
            call(&said, &sidecar(), &udp(53)),
            Fate::Redirect(RedirectReason::Dns)
        );
        assert_eq!(
            call(&said, &sidecar(), &tcp(OUTSIDE, 53)),
            Fate::Redirect(RedirectReason::Dns)
        );
        assert_eq!(
            call(&said, &sidecar(), &udp(443)),
            Fate::Leave(LeaveReason::Protocol)
        );
        let excluded = Said {
            ports: BTreeMap::from([(53, Scope::EXCLUDED)]),
            ..Said::default()
        };
        let capture = sidecar().with_ports(true);
        assert_eq!(
            call(&excluded, &capture, &udp(53)),
            Fate::Leave(LeaveReason::ExcludedPort)
        );
    }

    #[test]
    fn a_pod_that_talks_to_itself_is_left_alone_but_not_on_the_proxys_ports() {
        let said = Said::default();
        for own in [POD, Addr::v4([127, 0, 0, 1]), Addr::UNSPECIFIED] {
            assert_eq!(
                call(&said, &sidecar(), &tcp(own, 80)),
                Fate::Leave(LeaveReason::Own)
            );
            for port in [15000, 15001, 15004, 15006] {
                assert_eq!(
                    call(&said, &sidecar(), &tcp(own, port)),
                    Fate::Refuse(DropReason::ProxyPort)
                );
            }
        }
    }

    #[test]
    fn the_proxy_goes_where_it_wants_but_never_to_itself() {
        let said = Said::default();
        let by_proxy = |dst, dport| Call {
            by_proxy: true,
            ..tcp(dst, dport)
        };
        assert_eq!(
            call(&said, &sidecar(), &by_proxy(OUTSIDE, 80)),
            Fate::Leave(LeaveReason::Proxy)
        );
        assert_eq!(
            call(&said, &sidecar(), &by_proxy(POD, 15001)),
            Fate::Refuse(DropReason::ProxyPort)
        );
        // A Service that leads back to the pod.
        assert_eq!(
            call(&said, &sidecar(), &by_proxy(POD, 80)),
            Fate::Redirect(RedirectReason::Inbound)
        );
        for source in SIDECAR_SOURCES {
            let passed_on = Call {
                src: source,
                ..by_proxy(POD, 80)
            };
            assert_eq!(
                call(&said, &sidecar(), &passed_on),
                Fate::Leave(LeaveReason::Proxy)
            );
        }
        let ztunnel = Capture::new(COOKIE, Mode::InPod)
            .at(Some(POD), None)
            .inbound(true);
        assert_eq!(
            call(&said, &ztunnel, &by_proxy(POD, 80)),
            Fate::Leave(LeaveReason::Proxy)
        );
    }

    #[test]
    fn calls_to_a_pod_go_to_the_proxy_but_for_hbone_and_what_is_excluded() {
        let said = Said {
            ports: BTreeMap::from([(15021, Scope::INBOUND_EXCLUDED), (9000, Scope::INBOUND_INCLUDED)]),
            ..Said::default()
        };
        let capture = sidecar().with_ports(true);
        assert_eq!(
            inbound(&said, &capture, 80),
            Fate::Redirect(RedirectReason::Inbound)
        );
        assert_eq!(
            inbound(&said, &capture, 15021),
            Fate::Leave(LeaveReason::ExcludedPort)
        );
        assert_eq!(inbound(&said, &capture, 15008), Fate::Leave(LeaveReason::Hbone));
        assert_eq!(
            inbound(&said, &capture, 15006),
            Fate::Refuse(DropReason::ProxyPort)
        );
        let some = capture.every_port(false);
        assert_eq!(inbound(&said, &some, 80), Fate::Leave(LeaveReason::NotIncluded));
        assert_eq!(
            inbound(&said, &some, 9000),
            Fate::Redirect(RedirectReason::Inbound)
        );
        assert_eq!(
            inbound(&said, &capture.inbound(false), 80),
            Fate::Leave(LeaveReason::Bypass)
        );
    }

    #[test]
    fn the_node_itself_is_not_captured() {
        let guard = Capture::new(COOKIE, Mode::Guard).dns_to(port::DNS);
        let udp = Call {
            protocol: Protocol::UDP,
            ..tcp(OUTSIDE, 53)
        };
        assert_eq!(
            call(&Said::default(), &guard, &udp),
            Fate::Leave(LeaveReason::NotIncluded)
        );
    }

    #[test]
    fn capture_overrules_what_the_rules_say_and_nothing_else() {
        let redirect = Fate::Redirect(RedirectReason::Outbound);
        let overruled = overrule(Verdict::Deny(DropReason::NotGateway), redirect);
        assert_eq!(overruled, Verdict::Redirect(RedirectReason::Outbound));
        for reason in [
            DropReason::ForgedSource,
            DropReason::UnknownEndpoint,
            DropReason::Martian,
        ] {
            assert_eq!(overrule(Verdict::Deny(reason), redirect), Verdict::Deny(reason));
        }
        let left = Fate::Leave(LeaveReason::Own);
        assert_eq!(
            overrule(Verdict::Deny(DropReason::NotGateway), left),
            Verdict::Deny(DropReason::NotGateway)
        );
    }
}
