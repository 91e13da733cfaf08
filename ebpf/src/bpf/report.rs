//! Counters and events.

use aya_ebpf::{
    helpers::{bpf_get_current_comm, bpf_ktime_get_ns},
    macros::map,
    maps::{Array, LruPerCpuHashMap, PerCpuArray, RingBuf},
};
use ebpf::{
    Hook,
    event::{About, Budget, Event, INTERVAL_NS, Outcome, ProcessName, Subject, Told, counter},
    packet::Tuple,
    rules::capacity,
};

#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(counter::COUNT, 0);
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(capacity::EVENT_BYTES, 0);
/// Flows that somebody was told of. Each processor counts for itself, and tells for itself.
#[map]
static TOLD: LruPerCpuHashMap<About, Told> = LruPerCpuHashMap::with_max_entries(capacity::TOLD, 0);
#[map]
static BUDGETS: PerCpuArray<Budget> = PerCpuArray::with_max_entries(Budget::COUNT, 0);
/// 1 while somebody wants to see what is allowed, too.
#[map]
static OBSERVE: Array<u32> = Array::with_max_entries(1, 0);

/// `BPF_ANY`.
const ANY: u64 = 0;

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
    hook: Hook,
    outcome: Outcome,
    subject: Subject,
    ether_type: u16,
    len: u32,
    process: ProcessName,
}

impl Report {
    /// Of a packet, whose frame has this length.
    #[inline(always)]
    pub(super) fn of_packet(
        hook: Hook,
        outcome: Outcome,
        subject: Subject,
        ether_type: u16,
        len: u32,
    ) -> Self {
        Self {
            hook,
            outcome,
            subject,
            ether_type,
            len,
            process: ProcessName::default(),
        }
    }

    /// Of a call, which is no packet. To be made where the caller is at work.
    #[inline(always)]
    pub(super) fn of_call(hook: Hook, outcome: Outcome, subject: Subject) -> Self {
        let process = if is_wanted(outcome) {
            bpf_get_current_comm().unwrap_or_default()
        } else {
            ProcessName::default()
        };
        Self {
            hook,
            outcome,
            subject,
            ether_type: 0,
            len: 0,
            process,
        }
    }

    /// Counts it, and tells of it if somebody wants to know.
    #[inline(always)]
    pub(super) fn send(&self, tuple: &Tuple) {
        count(counter::index(self.hook, self.outcome));
        if is_wanted(self.outcome) {
            tell(self, tuple);
        }
    }
}

#[inline(always)]
fn is_wanted(outcome: Outcome) -> bool {
    match outcome {
        Outcome::Denied(_) | Outcome::Audited(_) => true,
        Outcome::Allowed(_) | Outcome::Redirected(_) => OBSERVE.get(0).is_some_and(|&observe| observe != 0),
    }
}

/// Tells of the first of a flow at once, and of what follows together.
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a copy of the key would take an eighth of the stack"
)]
#[inline(never)]
fn tell(report: &Report, tuple: &Tuple) {
    let Report {
        hook,
        outcome,
        subject,
        ether_type,
        ..
    } = report;
    let about = About::new(*hook, *outcome, subject, tuple, *ether_type);
    // SAFETY: the helper has no requirements.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(told) = TOLD.get_ptr_mut(&about) else {
        if is_within_budget(subject, now) && submit(report, &about, now, 1) {
            // Without room in the table the next one is told as well, within the sender's budget.
            let _ = TOLD.insert(
                &about,
                Told {
                    time_ns: now,
                    more: 0,
                },
                ANY,
            );
        } else {
            count(counter::LOST_EVENTS);
        }
        return;
    };
    // SAFETY: a valid pointer to this processor's own part of the map, for as long as the program runs. A hook that
    // interrupts another on the same processor may make one of the two forget an addition; counters are exact.
    let told = unsafe { &mut *told };
    let due = now.wrapping_sub(told.time_ns) >= INTERVAL_NS;
    if due && is_within_budget(subject, now) && submit(report, &about, now, told.more + 1) {
        *told = Told {
            time_ns: now,
            more: 0,
        };
    } else {
        told.more += 1;
    }
}

/// Whether the sender may have another event told, which it then has.
#[inline(always)]
fn is_within_budget(subject: &Subject, now: u64) -> bool {
    let Some(budget) = BUDGETS.get_ptr_mut(Budget::place(subject.identity)) else {
        return false;
    };
    // SAFETY: as in `tell`.
    let budget = unsafe { &mut *budget };
    let stretch = Budget::stretch_at(now);
    if budget.stretch != stretch {
        *budget = Budget { stretch, events: 0 };
    }
    let is_within = budget.events < Budget::EVENTS;
    budget.events += 1;
    is_within
}

#[inline(always)]
fn submit(report: &Report, about: &About, now: u64, count: u64) -> bool {
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        return false;
    };
    // SAFETY: the kernel's memory, aligned to eight octets, as long as an event and nobody else's until it is submitted;
    // zeros are an event.
    let event = unsafe {
        entry.as_mut_ptr().write_bytes(0, 1);
        &mut *entry.as_mut_ptr()
    };
    event.fill(now, count, about, report.len, &report.process);
    entry.submit(0);
    true
}
