//! The tables of flows and of packets in parts.

use aya_ebpf::{helpers::bpf_ktime_get_ns, macros::map, maps::LruHashMap};
use ebpf::{
    flow::{Flow, FlowKey, FragmentKey, State, Step, answer_step, inward_step},
    packet::{Fragment, Kind, Packet},
    rules::capacity,
};

use super::report;

#[map]
static HALF_OPEN: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(capacity::HALF_OPEN, 0);
#[map]
static ESTABLISHED: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(capacity::ESTABLISHED, 0);
/// Datagram flows that pods opened with a rule's permission: apart from the others, so that a pod that may send much
/// pushes out nobody's calls.
#[map]
static OURS: LruHashMap<FlowKey, Flow> = LruHashMap::with_max_entries(capacity::OURS, 0);
#[map]
static FRAGMENTS: LruHashMap<FragmentKey, u64> = LruHashMap::with_max_entries(capacity::FRAGMENTS, 0);

/// `BPF_ANY`.
const ANY: u64 = 0;

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: the helper has no requirements.
    unsafe { bpf_ktime_get_ns() }
}

/// The established flow, or else the half-open one.
#[inline(always)]
pub(super) fn get(key: &FlowKey) -> Flow {
    let established = established(key);
    if matches!(established.state(), State::Absent) {
        half_open(key)
    } else {
        established
    }
}

#[inline(always)]
fn established(key: &FlowKey) -> Flow {
    // SAFETY: a torn read of two words can only mistake the age of a flow by one refresh.
    match unsafe { ESTABLISHED.get(key) } {
        Some(flow) => *flow,
        None => Flow::ABSENT,
    }
}

#[inline(always)]
fn half_open(key: &FlowKey) -> Flow {
    // SAFETY: as in `established`.
    match unsafe { HALF_OPEN.get(key) } {
        Some(flow) => *flow,
        None => Flow::ABSENT,
    }
}

#[inline(always)]
pub(super) fn first_fragment(key: &FragmentKey) -> Option<u64> {
    // SAFETY: one aligned word.
    unsafe { FRAGMENTS.get(key) }.copied()
}

/// Notes a packet that came in from outside.
#[inline(never)]
pub(super) fn note_inward(scope: u32, packet: &Packet) {
    if matches!(packet.fragment, Fragment::Later(_)) {
        return;
    }
    let key = FlowKey::inward(scope, &packet.tuple);
    if !matches!(packet.kind, Kind::Tcp(_)) {
        let (known, now) = (ours(&key), now_ns());
        if known.is_live(now) {
            return write_ours(&key, packet, &known, now);
        }
    }
    step(&key, packet, inward_step);
}

/// Notes an answer that was let out because of its flow.
#[inline(never)]
pub(super) fn note_answer(scope: u32, packet: &Packet) {
    step(&FlowKey::outward(scope, &packet.tuple), packet, answer_step);
}

/// Notes a datagram that a rule let out, so that what comes back does not count as a call.
#[inline(never)]
pub(super) fn note_ours(scope: u32, packet: &Packet) {
    let key = FlowKey::outward(scope, &packet.tuple);
    let now = now_ns();
    if matches!(packet.kind, Kind::Datagram | Kind::Query) && !established(&key).is_live(now) {
        write_ours(&key, packet, &ours(&key), now);
    }
}

#[inline(always)]
fn ours(key: &FlowKey) -> Flow {
    // SAFETY: as in `established`.
    match unsafe { OURS.get(key) } {
        Some(flow) => *flow,
        None => Flow::ABSENT,
    }
}

#[inline(always)]
fn write_ours(key: &FlowKey, packet: &Packet, known: &Flow, now_ns: u64) {
    if unchanged(known, State::Ours, now_ns) {
        return;
    }
    if OURS
        .insert(key, Flow::new(State::Ours, packet.tuple.protocol, now_ns), ANY)
        .is_err()
    {
        report::count_lost_flow();
    }
}

/// Notes that the first fragment of a packet was let through.
#[inline(never)]
pub(super) fn note_first_fragment(scope: u32, packet: &Packet) {
    if let Fragment::First(id) = packet.fragment
        && FRAGMENTS
            .insert(FragmentKey::new(scope, &packet.tuple, id), now_ns(), ANY)
            .is_err()
    {
        report::count_lost_flow();
    }
}

#[inline(always)]
fn step(key: &FlowKey, packet: &Packet, next: impl Fn(Kind, Option<State>, Option<State>) -> Step) {
    let now = now_ns();
    let established = established(key);
    let half_open = half_open(key);
    let written = match next(packet.kind, live(&half_open, now), live(&established, now)) {
        Step::None => Ok(()),
        Step::HalfOpen(state) if unchanged(&half_open, state, now) => Ok(()),
        Step::HalfOpen(state) => HALF_OPEN.insert(key, Flow::new(state, packet.tuple.protocol, now), ANY),
        Step::Establish(state) if unchanged(&established, state, now) => Ok(()),
        Step::Establish(state) => {
            let written = ESTABLISHED.insert(key, Flow::new(state, packet.tuple.protocol, now), ANY);
            // It may not have been there, or have been pushed out.
            let _ = HALF_OPEN.remove(key);
            written
        }
    };
    if written.is_err() {
        report::count_lost_flow();
    }
}

/// The state of a flow that has not outlived itself.
#[inline(always)]
fn live(flow: &Flow, now_ns: u64) -> Option<State> {
    flow.is_live(now_ns).then(|| flow.state())
}

/// Whether the entry says already what would be written; its age is kept to the second.
#[inline(always)]
fn unchanged(flow: &Flow, state: State, now_ns: u64) -> bool {
    flow.state() as u32 == state as u32 && !flow.is_stale(now_ns)
}
