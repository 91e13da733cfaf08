//! Verdicts on their way from the kernel to whoever observes.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{broadcast, watch},
    time::Instant,
};

use crate::api::VerdictEvent;

/// How many verdicts `observe` shows without `--follow`.
const RECENT: usize = 4096;

/// The last verdicts, and those who wait for the next.
#[derive(Debug)]
pub struct Verdicts {
    recent: Mutex<VecDeque<Arc<VerdictEvent>>>,
    sender: broadcast::Sender<Arc<VerdictEvent>>,
    allowed_wanted: watch::Sender<usize>,
    /// Until when somebody who looks from time to time wants to see allowed packets.
    watched: Mutex<Option<Instant>>,
}

impl Default for Verdicts {
    fn default() -> Self {
        Self {
            recent: Mutex::new(VecDeque::with_capacity(RECENT)),
            sender: broadcast::channel(RECENT).0,
            allowed_wanted: watch::channel(0).0,
            watched: Mutex::new(None),
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

    /// Asks for allowed packets for some time from now on, however often this is called meanwhile.
    pub fn want_allowed_for(self: Arc<Self>, time: Duration) {
        let until = Instant::now() + time;
        let before = self
            .watched
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(until);
        if before.is_none() {
            tokio::spawn(async move { self.want_while_watched().await });
        }
    }

    async fn want_while_watched(&self) {
        let _wanting = self.want_allowed();
        loop {
            let until = {
                let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
                match *watched {
                    Some(until) if until > Instant::now() => until,
                    Some(_) | None => {
                        *watched = None;
                        return;
                    }
                }
            };
            tokio::time::sleep_until(until).await;
        }
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
