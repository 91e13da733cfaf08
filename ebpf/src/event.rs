//! What a program reports, and how it counts.

use bytemuck::{Pod, Zeroable};

use crate::{
    Addr, AllowReason, DropReason, Hook, RedirectReason, Verdict,
    packet::{Protocol, Tuple},
    rules::{Identity, PolicyId},
};

/// What became of a packet or a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Let through.
    Allowed(AllowReason),
    /// Refused.
    Denied(DropReason),
    /// Let through, though enforcement would have refused it.
    Audited(DropReason),
    /// Handed to the node proxy.
    Redirected(RedirectReason),
}

impl Outcome {
    /// What becomes of a verdict under a policy that is audited or not.
    #[inline(always)]
    pub const fn of(verdict: Verdict, audited: bool) -> Self {
        match verdict {
            Verdict::Allow(reason) => Self::Allowed(reason),
            Verdict::Redirect(reason) => Self::Redirected(reason),
            Verdict::Deny(reason) if audited => Self::Audited(reason),
            Verdict::Deny(reason) => Self::Denied(reason),
        }
    }

    #[inline(always)]
    const fn parts(self) -> (u8, u8) {
        match self {
            Self::Allowed(reason) => (0, reason as u8),
            Self::Denied(reason) => (1, reason as u8),
            Self::Audited(reason) => (2, reason as u8),
            Self::Redirected(reason) => (3, reason as u8),
        }
    }

    /// As one number, for the answer to a replayed packet.
    #[inline(always)]
    pub const fn to_word(self) -> u16 {
        let (class, reason) = self.parts();
        u16::from_be_bytes([class, reason])
    }

    /// Back from [`Outcome::to_word`].
    pub const fn from_word(word: u16) -> Option<Self> {
        let [class, reason] = word.to_be_bytes();
        Self::from_parts(class, reason)
    }

    const fn from_parts(class: u8, reason: u8) -> Option<Self> {
        match class {
            0 => match AllowReason::from_number(reason) {
                Some(reason) => Some(Self::Allowed(reason)),
                None => None,
            },
            1 | 2 => match DropReason::from_number(reason) {
                Some(reason) if class == 1 => Some(Self::Denied(reason)),
                Some(reason) => Some(Self::Audited(reason)),
                None => None,
            },
            3 => match RedirectReason::from_number(reason) {
                Some(reason) => Some(Self::Redirected(reason)),
                None => None,
            },
            _ => None,
        }
    }
}

/// What an event is about: one flow with one outcome, under one generation. What happens to the same again within
/// [`INTERVAL_NS`] is told together.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Pod, Zeroable)]
pub struct About {
    generation: u64,
    identity: u64,
    src: Addr,
    dst: Addr,
    sport: [u8; 2],
    dport: [u8; 2],
    policy: PolicyId,
    ether_type: [u8; 2],
    protocol: u8,
    hook: u8,
    class: u8,
    reason: u8,
    identity_kind: u8,
    reserved: u8,
}

const _: () = assert!(size_of::<About>() == 64);

/// The circumstances of a verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Who.
    pub identity: Identity,
    /// Held to what.
    pub policy: PolicyId,
    /// By which generation of rules.
    pub generation: u64,
}

impl About {
    /// A packet, or a call, whose ethertype is 0.
    #[inline(always)]
    pub const fn new(
        hook: Hook,
        outcome: Outcome,
        subject: &Subject,
        tuple: &Tuple,
        ether_type: u16,
    ) -> Self {
        let (class, reason) = outcome.parts();
        Self {
            generation: subject.generation,
            identity: subject.identity.id(),
            src: tuple.src,
            dst: tuple.dst,
            sport: tuple.sport.to_be_bytes(),
            dport: tuple.dport.to_be_bytes(),
            policy: subject.policy,
            ether_type: ether_type.to_be_bytes(),
            protocol: tuple.protocol.0,
            hook: hook as u8,
            class,
            reason,
            identity_kind: subject.identity.kind() as u8,
            reserved: 0,
        }
    }

    /// Where the verdict was given.
    pub const fn hook(&self) -> Option<Hook> {
        Hook::from_number(self.hook)
    }

    /// What became of it.
    pub const fn outcome(&self) -> Option<Outcome> {
        Outcome::from_parts(self.class, self.reason)
    }

    /// Who, under what, by which rules.
    pub const fn subject(&self) -> Option<Subject> {
        match Identity::from_parts(self.identity_kind as u32, self.identity) {
            Some(identity) => Some(Subject {
                identity,
                policy: self.policy,
                generation: self.generation,
            }),
            None => None,
        }
    }

    /// Who spoke to whom.
    pub const fn tuple(&self) -> Tuple {
        Tuple {
            src: self.src,
            dst: self.dst,
            sport: u16::from_be_bytes(self.sport),
            dport: u16::from_be_bytes(self.dport),
            protocol: Protocol(self.protocol),
        }
    }

    /// The ethertype, 0 for a call.
    pub const fn ether_type(&self) -> u16 {
        u16::from_be_bytes(self.ether_type)
    }
}

/// The name of a process, as the kernel keeps it, filled up with zeros; all zeros where there is none to be named.
pub type ProcessName = [u8; 16];

/// One line of the event ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Event {
    time_ns: u64,
    count: u64,
    about: About,
    process: ProcessName,
    len: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<Event>() == 104);

impl Event {
    /// An event at `time_ns` of the monotonic clock, the last of `count` of its kind that were not told of; `len` is the
    /// length of the frame, 0 for a call, and `process` who called.
    #[inline(always)]
    pub const fn new(time_ns: u64, count: u64, about: About, len: u32, process: ProcessName) -> Self {
        Self {
            time_ns,
            count,
            about,
            process,
            len,
            reserved: 0,
        }
    }

    /// The same in its place: a program has no room for two of them.
    #[inline(always)]
    pub fn fill(&mut self, time_ns: u64, count: u64, about: &About, len: u32, process: &ProcessName) {
        self.time_ns = time_ns;
        self.count = count;
        self.about = *about;
        self.process = *process;
        self.len = len;
        self.reserved = 0;
    }

    /// Nanoseconds of the monotonic clock.
    pub const fn time_ns(&self) -> u64 {
        self.time_ns
    }

    /// For how many packets or calls it stands.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// What it is about.
    pub const fn about(&self) -> &About {
        &self.about
    }

    /// Who called; not known of a packet.
    pub const fn process(&self) -> ProcessName {
        self.process
    }

    /// Length of the frame in octets, 0 for a call.
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether this was a call, not a packet.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// How long what happens to a flow is gathered after somebody was told of it.
pub const INTERVAL_NS: u64 = 1_000_000_000;

/// What a processor gathers on a flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Told {
    /// When somebody was last told, in nanoseconds of the monotonic clock.
    pub time_ns: u64,
    /// What has happened since then.
    pub more: u64,
}

/// How much a sender has had told by a processor in a stretch of time, so that one that sends to everybody at once costs no more than
/// others, and nobody else's events.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Budget {
    /// Number of the stretch.
    pub stretch: u64,
    /// Events in it.
    pub events: u64,
}

impl Budget {
    /// How many there are. Senders whose numbers differ by a multiple of it share one.
    pub const COUNT: u32 = 1024;
    /// Events in one stretch.
    pub const EVENTS: u64 = 1024;

    /// The number of the stretch, of some 1.07 seconds, that a moment of the monotonic clock is in.
    #[inline(always)]
    pub const fn stretch_at(time_ns: u64) -> u64 {
        time_ns >> 30
    }

    /// The place of a sender's.
    #[inline(always)]
    pub const fn place(identity: Identity) -> u32 {
        identity.id() as u32 % Self::COUNT
    }
}

/// A question about a packet, put to the live program by `BPF_PROG_TEST_RUN`.
pub mod replay {
    use super::Outcome;

    /// The mark of a packet that is not real: it asks for a verdict without counters, events and flows. No packet of
    /// a pod can have it, as a change of network namespace clears the mark.
    pub const MARK: u32 = 0x51_1c_e0_00;

    /// The answer, for the first three words of `__sk_buff::cb`.
    #[inline(always)]
    pub const fn answer(outcome: Outcome, generation: u64) -> [u32; 3] {
        [
            outcome.to_word() as u32,
            generation as u32,
            (generation >> 32) as u32,
        ]
    }

    /// Back from [`answer`]: what became of the packet, and by which generation.
    pub const fn read(cb: [u32; 3]) -> Option<(Outcome, u64)> {
        match Outcome::from_word(cb[0] as u16) {
            Some(outcome) => Some((outcome, cb[1] as u64 | (cb[2] as u64) << 32)),
            None => None,
        }
    }
}

/// Places of the counters: packets by hook and outcome.
pub mod counter {
    use super::{Hook, Outcome};

    /// Places for one class of outcome.
    const REASONS: u32 = 32;
    const CLASSES: u32 = 4;
    /// Events that found the ring full.
    pub const LOST_EVENTS: u32 = Hook::ALL.len() as u32 * CLASSES * REASONS;
    /// Flows that found their table full of live ones.
    pub const LOST_FLOWS: u32 = LOST_EVENTS + 1;
    /// How many places there are.
    pub const COUNT: u32 = LOST_FLOWS + 1;

    /// The place of one outcome at one hook.
    #[inline(always)]
    pub const fn index(hook: Hook, outcome: Outcome) -> u32 {
        let (class, reason) = outcome.parts();
        (hook as u32 * CLASSES + class as u32) * REASONS + reason as u32
    }

    /// What a place counts.
    pub const fn meaning(index: u32) -> Option<(Hook, Outcome)> {
        let hook = index / REASONS / CLASSES;
        if hook >= Hook::ALL.len() as u32 {
            return None;
        }
        let (Some(hook), Some(outcome)) = (
            Hook::from_number(hook as u8),
            Outcome::from_parts((index / REASONS % CLASSES) as u8, (index % REASONS) as u8),
        ) else {
            return None;
        };
        Some((hook, outcome))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_has_a_counter_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        for &hook in Hook::ALL {
            let outcomes = AllowReason::ALL.iter().map(|&r| Outcome::Allowed(r)).chain(
                DropReason::ALL
                    .iter()
                    .flat_map(|&r| [Outcome::Denied(r), Outcome::Audited(r)]),
            );
            let outcomes = outcomes.chain(RedirectReason::ALL.iter().map(|&r| Outcome::Redirected(r)));
            for outcome in outcomes {
                let index = counter::index(hook, outcome);
                assert!(index < counter::LOST_EVENTS);
                assert!(seen.insert(index), "{hook} {outcome:?}");
                assert_eq!(counter::meaning(index), Some((hook, outcome)));
            }
        }
        assert_eq!(counter::meaning(counter::LOST_EVENTS), None);
    }

    #[test]
    fn an_answer_to_a_replay_reads_back() {
        let outcome = Outcome::Denied(DropReason::NotRegistered);
        assert_eq!(
            replay::read(replay::answer(outcome, u64::MAX - 7)),
            Some((outcome, u64::MAX - 7))
        );
        assert_eq!(replay::read([u32::MAX; 3]), None);
    }
}
