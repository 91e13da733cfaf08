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

/// One line of the event ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Event {
    time_ns: u64,
    generation: u64,
    identity: u64,
    src: Addr,
    dst: Addr,
    sport: [u8; 2],
    dport: [u8; 2],
    policy: PolicyId,
    len: u32,
    protocol: u8,
    hook: u8,
    class: u8,
    reason: u8,
    ether_type: [u8; 2],
    identity_kind: u8,
    reserved: [u8; 5],
}

const _: () = assert!(size_of::<Event>() == 80);

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

impl Event {
    /// An event at `time_ns` of the monotonic clock; `len` is the length of the frame, 0 for a call.
    #[inline(always)]
    pub const fn new(
        time_ns: u64,
        hook: Hook,
        outcome: Outcome,
        subject: &Subject,
        tuple: &Tuple,
        ether_type: u16,
        len: u32,
    ) -> Self {
        let (class, reason) = outcome.parts();
        Self {
            time_ns,
            generation: subject.generation,
            identity: subject.identity.id(),
            src: tuple.src,
            dst: tuple.dst,
            sport: tuple.sport.to_be_bytes(),
            dport: tuple.dport.to_be_bytes(),
            policy: subject.policy,
            len,
            protocol: tuple.protocol.0,
            hook: hook as u8,
            class,
            reason,
            ether_type: ether_type.to_be_bytes(),
            identity_kind: subject.identity.kind() as u8,
            reserved: [0; 5],
        }
    }

    /// Nanoseconds of the monotonic clock.
    pub const fn time_ns(&self) -> u64 {
        self.time_ns
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

    /// Length of the frame in octets, 0 for a call.
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether this was a call, not a packet.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
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
