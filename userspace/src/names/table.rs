//! What is known of names, for how long, and when to ask again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{
    Names, Resolved,
    ask::{Answer, Outcome},
};
use crate::objects::Host;

/// No name is asked for more often than this, whatever its owner says.
const MIN_TTL: Duration = Duration::from_secs(5);
/// Nor less often than this.
const MAX_TTL: Duration = Duration::from_hours(1);
/// An address stays at least so long after it was last heard of: a gateway may have learnt it just before.
const MIN_GRACE: Duration = Duration::from_mins(1);
/// The longest pause after failures.
const MAX_PAUSE: Duration = Duration::from_mins(1);

/// Names, and what is known of them.
#[derive(Debug, Default)]
pub(super) struct Table {
    entries: BTreeMap<Host, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// With the moment at which each is forgotten, if it is no longer heard of.
    addresses: BTreeMap<IpAddr, Option<Instant>>,
    /// When to ask again; `None` while an answer is awaited.
    next: Option<Instant>,
    failures: u32,
    error: Option<String>,
}

impl Table {
    /// Knows these names and no others.
    pub(super) fn want(&mut self, names: &BTreeSet<Host>, now: Instant) {
        self.entries.retain(|host, _| names.contains(host));
        for host in names {
            self.entries.entry(host.clone()).or_insert_with(|| Entry {
                addresses: BTreeMap::new(),
                next: Some(now),
                failures: 0,
                error: None,
            });
        }
    }

    /// Names that shall be asked for now, those first that have waited longest.
    pub(super) fn due(&mut self, now: Instant, at_most: usize) -> Vec<Host> {
        let mut due: Vec<_> = self
            .entries
            .iter_mut()
            .filter(|(_, entry)| entry.next.is_some_and(|next| next <= now))
            .collect();
        due.sort_by_key(|(_, entry)| entry.next);
        due.truncate(at_most);
        due.into_iter()
            .map(|(host, entry)| {
                entry.next = None;
                host.clone()
            })
            .collect()
    }

    /// When there is something to do. `may_ask`: there is room for a question.
    pub(super) fn next_wake(&self, may_ask: bool) -> Option<Instant> {
        let asking = self
            .entries
            .values()
            .filter_map(|entry| entry.next)
            .filter(|_| may_ask);
        let forgetting = self
            .entries
            .values()
            .flat_map(|entry| entry.addresses.values().copied().flatten());
        asking.chain(forgetting).min()
    }

    /// Takes note of an answer.
    pub(super) fn learn(&mut self, host: &Host, Outcome { v4, v6 }: Outcome, now: Instant) {
        // Nobody may want it any more.
        let Some(entry) = self.entries.get_mut(host) else {
            return;
        };
        let (mut pause, mut error) = (MAX_TTL, None);
        for (answer, family) in [
            (v4, IpAddr::is_ipv4 as fn(&IpAddr) -> bool),
            (v6, IpAddr::is_ipv6),
        ] {
            match answer {
                Answer::Addresses(addresses, ttl) => {
                    let ttl = ttl.clamp(MIN_TTL, MAX_TTL);
                    pause = pause.min(ttl);
                    entry.heard(addresses, family, now + ttl.max(MIN_GRACE));
                }
                Answer::Failed(reason) => error = Some(reason),
            }
        }
        entry.failures = if error.is_some() {
            entry.failures.saturating_add(1)
        } else {
            0
        };
        if error.is_some() {
            pause = pause.min(
                MIN_TTL
                    .saturating_mul(1 << entry.failures.min(5).saturating_sub(1))
                    .min(MAX_PAUSE),
            );
        }
        entry.error = error;
        entry.next = Some(now + pause);
    }

    /// Forgets addresses that have not been heard of for long enough.
    pub(super) fn forget(&mut self, now: Instant) {
        for entry in self.entries.values_mut() {
            entry
                .addresses
                .retain(|_, until| until.is_none_or(|until| until > now));
        }
    }

    /// What is known.
    pub(super) fn names(&self) -> Names {
        let resolved = |entry: &Entry| Resolved {
            addresses: entry.addresses.keys().copied().collect(),
            error: entry.error.clone(),
        };
        self.entries
            .iter()
            .map(|(host, entry)| (host.clone(), resolved(entry)))
            .collect()
    }
}

impl Entry {
    /// The addresses of one family are these; others are forgotten at `until`.
    fn heard(&mut self, addresses: BTreeSet<IpAddr>, family: fn(&IpAddr) -> bool, until: Instant) {
        for (address, forget) in &mut self.addresses {
            if family(address) && !addresses.contains(address) {
                forget.get_or_insert(until);
            }
        }
        self.addresses
            .extend(addresses.into_iter().map(|address| (address, None)));
    }
}
