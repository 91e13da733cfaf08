//! Verdicts on their way from the kernel to whoever observes.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{broadcast, watch};

use crate::api::VerdictEvent;

/// How many verdicts `observe` shows without `--follow`.
const RECENT: usize = 4096;

/// The last verdicts, and those who wait for the next.
#[derive(Debug)]
pub struct Verdicts {
    recent: Mutex<VecDeque<Arc<VerdictEvent>>>,
    sender: broadcast::Sender<Arc<VerdictEvent>>,
    allowed_wanted: watch::Sender<usize>,
}

impl Default for Verdicts {
    fn default() -> Self {
        Self {
            recent: Mutex::new(VecDeque::with_capacity(RECENT)),
            sender: broadcast::channel(RECENT).0,
            allowed_wanted: watch::channel(0).0,
        }
    }
}

impl Verdicts {
    /// A verdict was given.
    pub fn push(&self, verdict: VerdictEvent) {
        let verdict = Arc::new(verdict);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back(Arc::clone(&verdict));
        // Nobody may be waiting.
        let _ = self.sender.send(verdict);
    }

    /// The last verdicts, oldest first, and a queue of those that come after them.
    pub fn subscribe(&self) -> (Vec<Arc<VerdictEvent>>, broadcast::Receiver<Arc<VerdictEvent>>) {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        (recent.iter().cloned().collect(), self.sender.subscribe())
    }

    /// Asks the kernel for allowed packets, too, until the guard is dropped.
    pub fn want_allowed(&self) -> Wanting<'_> {
        self.allowed_wanted.send_modify(|count| *count += 1);
        Wanting(&self.allowed_wanted)
    }

    /// How many want to see allowed packets.
    pub fn allowed_wanted(&self) -> watch::Receiver<usize> {
        self.allowed_wanted.subscribe()
    }
}

/// Somebody wants to see allowed packets.
#[derive(Debug)]
pub struct Wanting<'a>(&'a watch::Sender<usize>);

impl Drop for Wanting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
