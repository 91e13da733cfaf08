//! Waiting for a ring of events.

use std::io;

use aya::maps::{MapData, RingBuf};
use tokio::io::{Interest, unix::AsyncFd};

/// Lets tokio wait for the ring. To be called inside a runtime.
pub(crate) fn readable(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the ring owns its map's descriptor, has no way to exchange it, and closes it when it is dropped itself,
    // which `AsyncFd` does after it has taken the descriptor out of the runtime.
    unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }.map_err(io::Error::from)
}
