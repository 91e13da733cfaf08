//! Flows that came in from outside, so that their answers may leave.
//!
//! `pod_in` sees the calls, `pod_out` the answers. A call waits in the table of *half-open* flows until it has been
//! answered, and only then moves to the table of *established* ones; so a flood of calls pushes out other
//! calls, never a live flow. A third table notes datagram flows that the pod itself opened with a rule's
//! permission, so that the peer's answers do not count as calls once the rule is gone.

use bytemuck::{Pod, Zeroable};

use crate::{
    Addr,
    packet::{Kind, Protocol, Tuple},
};

/// One flow as the pod sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct FlowKey {
    /// Index of the pod device, or [`FlowKey::NODE`].
    scope: u32,
    local: Addr,
    remote: Addr,
    local_port: [u8; 2],
    remote_port: [u8; 2],
    protocol: u8,
    reserved: [u8; 3],
}

const _: () = assert!(size_of::<FlowKey>() == 44);

impl FlowKey {
    /// Flows through the node's uplinks, whose addresses may be translated on the way to a pod.
    pub const NODE: u32 = 0;

    /// The flow that this packet, sent by the pod, would belong to.
    #[inline(always)]
    pub const fn outward(scope: u32, tuple: &Tuple) -> Self {
        Self {
            scope,
            local: tuple.src,
            remote: tuple.dst,
            local_port: tuple.sport.to_be_bytes(),
            remote_port: tuple.dport.to_be_bytes(),
            protocol: tuple.protocol.0,
            reserved: [0; 3],
        }
    }

    /// The flow that this packet, sent to the pod, belongs to.
    #[inline(always)]
    pub const fn inward(scope: u32, tuple: &Tuple) -> Self {
        Self {
            scope,
            local: tuple.dst,
            remote: tuple.src,
            local_port: tuple.dport.to_be_bytes(),
            remote_port: tuple.sport.to_be_bytes(),
            protocol: tuple.protocol.0,
            reserved: [0; 3],
        }
    }
}

/// How far a flow has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Called from outside, not answered.
    Called,
    /// The pod has answered a TCP call; the caller has not confirmed.
    Answered,
    /// Both sides have spoken.
    Established,
    /// FIN or RST was seen.
    Closing,
    /// A datagram flow that the pod opened with a rule's permission: no reason to let anything leave.
    Ours,
    /// There is no such flow.
    Absent,
}

/// A flow's state and when it was last seen.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Flow {
    seen_ns: u64,
    state: u32,
    protocol: u32,
}

const SECOND: u64 = 1_000_000_000;

impl Flow {
    /// No flow. A value of its own instead of an `Option`, because Linux before 6.3 does not let a program copy the unset
    /// part of one.
    pub const ABSENT: Self = Self {
        seen_ns: 0,
        state: State::Absent as u32,
        protocol: 0,
    };

    /// Seen at `now_ns` of the monotonic clock.
    #[inline(always)]
    pub const fn new(state: State, protocol: Protocol, now_ns: u64) -> Self {
        Self {
            seen_ns: now_ns,
            state: state as u32,
            protocol: protocol.0 as u32,
        }
    }

    /// How far it has come. An unknown number is a flow that permits nothing.
    #[inline(always)]
    pub const fn state(&self) -> State {
        match self.state {
            0 => State::Called,
            1 => State::Answered,
            2 => State::Established,
            3 => State::Closing,
            4 => State::Ours,
            _ => State::Absent,
        }
    }

    /// For how long a flow without packets lives; the numbers are the defaults of `nf_conntrack`
    /// (`net/netfilter/nf_conntrack_proto_*.c`, Linux 6.12).
    #[inline(always)]
    const fn lifetime_ns(&self) -> u64 {
        let tcp = self.protocol == Protocol::TCP.0 as u32;
        SECOND
            * match self.state() {
                State::Called if tcp => 120,
                State::Called => 30,
                State::Answered => 60,
                State::Established if tcp => 5 * 24 * 3600,
                State::Established | State::Ours => 180,
                State::Closing => 120,
                State::Absent => 0,
            }
    }

    /// Whether it has not outlived itself.
    #[inline(always)]
    pub const fn is_live(&self, now_ns: u64) -> bool {
        now_ns.wrapping_sub(self.seen_ns) < self.lifetime_ns()
    }

    /// Whether an answer of the pod may leave because of it.
    #[inline(always)]
    pub const fn permits_answers(&self, now_ns: u64) -> bool {
        !matches!(self.state(), State::Ours | State::Absent) && self.is_live(now_ns)
    }

    /// Whether it is worth writing again that the flow was just seen.
    #[inline(always)]
    pub const fn is_stale(&self, now_ns: u64) -> bool {
        now_ns.wrapping_sub(self.seen_ns) >= SECOND
    }
}

/// What a packet does to the flow it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    None,
    /// Write this state into the table of half-open flows.
    HalfOpen(State),
    /// Write this state into the table of established flows, and take the flow out of the other.
    Establish(State),
}

/// What a packet that comes in from outside does. `half_open` and `established` are the live entries.
#[inline(always)]
pub fn inward_step(kind: Kind, half_open: Option<State>, established: Option<State>) -> Step {
    match (kind, half_open, established) {
        // A new call in the place of a flow that has ended, or of a call that was not finished.
        (Kind::Tcp(flags), _, None | Some(State::Closing)) if flags.opens() => Step::HalfOpen(State::Called),
        (Kind::Tcp(flags), _, Some(_)) if flags.closes() => Step::Establish(State::Closing),
        (Kind::Tcp(flags), Some(State::Answered), None) if !flags.closes() => {
            Step::Establish(State::Established)
        }
        (Kind::Tcp(_) | Kind::Datagram | Kind::Query | Kind::EchoReply, _, Some(state)) => {
            Step::Establish(state)
        }
        (Kind::Datagram | Kind::Query, _, None) => Step::HalfOpen(State::Called),
        (Kind::Tcp(_) | Kind::EchoReply, _, None)
        | (Kind::Arp { .. } | Kind::Neighbour { .. } | Kind::Error(_), _, _) => Step::None,
    }
}

/// What an answer of the pod does, once it may leave because of the flow.
#[inline(always)]
pub fn answer_step(kind: Kind, half_open: Option<State>, established: Option<State>) -> Step {
    match (kind, half_open, established) {
        (Kind::Tcp(flags), _, Some(_)) if flags.closes() => Step::Establish(State::Closing),
        (Kind::Tcp(flags), Some(_), None) if flags.answers() => Step::HalfOpen(State::Answered),
        (Kind::Tcp(_) | Kind::Datagram | Kind::Query | Kind::EchoReply, _, Some(state)) => {
            Step::Establish(state)
        }
        (Kind::Datagram | Kind::Query | Kind::EchoReply, _, None) => Step::Establish(State::Established),
        (Kind::Tcp(_), _, None) | (Kind::Arp { .. } | Kind::Neighbour { .. } | Kind::Error(_), _, _) => {
            Step::None
        }
    }
}

/// Key of an IP packet in parts.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct FragmentKey {
    scope: u32,
    src: Addr,
    dst: Addr,
    id: u32,
    protocol: u32,
}

const _: () = assert!(size_of::<FragmentKey>() == 44);

impl FragmentKey {
    /// The packet with this identification, as seen at `scope`.
    #[inline(always)]
    pub const fn new(scope: u32, tuple: &Tuple, id: u32) -> Self {
        Self {
            scope,
            src: tuple.src,
            dst: tuple.dst,
            id,
            protocol: tuple.protocol.0 as u32,
        }
    }

    /// For how long parts may follow the first one, in nanoseconds of the monotonic clock: the kernel's own
    /// `net.ipv4.ipfrag_time`.
    pub const LIFETIME_NS: u64 = 30 * SECOND;
}
