//! What the programs tell, as a stream.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use aya::maps::{Map, MapData, RingBuf};
use ebpf::event::Event;
use futures_util::Stream;
use tokio::io::unix::AsyncFd;

use super::{Error, maps::EVENTS, pins::Pins};
use crate::sys::readable;

/// Events in the order in which they happened. There must be one reader only: what it takes is gone.
pub struct Events(AsyncFd<RingBuf<MapData>>);

impl Events {
    pub(super) fn open(pins: &Pins) -> Result<Self, Error> {
        let fail = |source| Error::map(EVENTS, source);
        let data = MapData::from_pin(pins.map(EVENTS)).map_err(fail)?;
        let ring = RingBuf::try_from(Map::RingBuf(data)).map_err(fail)?;
        readable(ring).map(Self).map_err(Error::Events)
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            // What is there is taken without asking whether the ring is readable.
            while let Some(item) = self.0.get_mut().next() {
                // Another length would be another version's, which the ABI in the path excludes.
                if let Ok(event) = bytemuck::try_pod_read_unaligned(&item) {
                    return Poll::Ready(Some(event));
                }
            }
            match ready!(self.0.poll_read_ready_mut(context)) {
                Ok(mut guard) => guard.clear_ready(),
                Err(_) => return Poll::Ready(None),
            }
        }
    }
}
