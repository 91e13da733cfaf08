//! Counters and events.

use aya_ebpf::{
    helpers::bpf_ktime_get_ns,
    macros::map,
    maps::{Array, PerCpuArray, RingBuf},
};
use ebpf::{
    Hook,
    event::{Event, Outcome, Subject, counter},
    packet::Tuple,
    rules::capacity,
};

#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::COUNT, 0);
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(capacity::EVENT_BYTES, 0);
/// 1 while somebody wants to see what is allowed, too.
#[map]
static OBSERVE: Array<u32> = Array::with_max_entries(1, 0);

#[inline(always)]
fn count(index: u32) {
    if let Some(counter) = COUNTERS.get_ptr_mut(index) {
        // SAFETY: a valid pointer into this CPU's own copy, which no other CPU writes.
        unsafe { *counter += 1 }
    }
}

/// A flow that could not be noted.
#[inline(always)]
pub(super) fn count_lost_flow() {
    count(counter::LOST_FLOWS);
}

/// What became of a packet or a call.
pub(super) struct Report {
    pub(super) hook: Hook,
    pub(super) outcome: Outcome,
    pub(super) subject: Subject,
    pub(super) ether_type: u16,
    pub(super) len: u32,
}

impl Report {
    /// Of a call, which is no packet.
    #[inline(always)]
    pub(super) fn of_call(hook: Hook, outcome: Outcome, subject: Subject) -> Self {
        Self {
            hook,
            outcome,
            subject,
            ether_type: 0,
            len: 0,
        }
    }

    /// Counts it, and tells of it if somebody wants to know.
    #[inline(always)]
    pub(super) fn send(&self, tuple: &Tuple) {
        count(counter::index(self.hook, self.outcome));
        let wanted = match self.outcome {
            Outcome::Denied(_) | Outcome::Audited(_) => true,
            Outcome::Allowed(_) | Outcome::Redirected(_) => {
                OBSERVE.get(0).is_some_and(|&observe| observe != 0)
            }
        };
        if wanted {
            tell(self, tuple);
        }
    }
}

#[inline(never)]
fn tell(report: &Report, tuple: &Tuple) {
    let Report {
        hook,
        outcome,
        subject,
        ether_type,
        len,
    } = report;
    match EVENTS.reserve::<Event>(0) {
        Some(mut entry) => {
            // SAFETY: the helper has no requirements.
            let now = unsafe { bpf_ktime_get_ns() };
            entry.write(Event::new(
                now,
                *hook,
                *outcome,
                subject,
                tuple,
                *ether_type,
                *len,
            ));
            entry.submit(0);
        }
        None => count(counter::LOST_EVENTS),
    }
}
