//! What can be wrong with a server.

use std::time::Duration;

/// Faults that are on, seen by every request and every watch.
#[derive(Clone, Debug)]
pub(super) struct Faults {
    /// Requests are taken and not answered; watches tell nothing.
    pub(super) stalled: bool,
    /// How long every request waits before it is looked at.
    pub(super) delay: Duration,
    /// Watches that began in another epoch end.
    pub(super) epoch: u64,
    /// How often a watch gets a bookmark. No fault, but nobody can wait for the real server's minute.
    pub(super) bookmark_interval: Duration,
}

impl Default for Faults {
    fn default() -> Self {
        Self {
            stalled: false,
            delay: Duration::ZERO,
            epoch: 0,
            bookmark_interval: Duration::from_secs(1),
        }
    }
}
