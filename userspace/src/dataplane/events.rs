//! What the programs tell, as a stream.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use aya::maps::{self, Map, MapData, RingBuf};
use ebpf::event::{About, Event, INTERVAL_NS, Told};
use futures_util::Stream;
use nix::time::{ClockId, clock_gettime};
use tokio::{
    io::unix::AsyncFd,
    time::{Instant, Sleep},
};

use super::{
    Error,
    maps::{EVENTS, TOLD},
    pins::Pins,
};
use crate::sys::{Shared, readable};

/// How long after an event the rest of its flow is looked for: a little later than the programs tell of it themselves.
const REST_AFTER: Duration = Duration::from_millis(INTERVAL_NS / 1_000_000 + 100);

/// Events in the order in which they happened. There must be one reader only: what it takes is gone.
///
/// The programs tell of the first of a flow, and then of those that followed when another comes after an interval. What no
/// other follows is looked for here.
pub struct Events {
    ring: AsyncFd<RingBuf<MapData>>,
    told: maps::PerCpuHashMap<MapData, Shared<About>, Shared<Told>>,
    /// The last event of each flow, and when its rest is due.
    last: HashMap<About, (Instant, Event)>,
    /// The same in the order of time. Of a flow with several, only the last is meant.
    due: VecDeque<(Instant, About)>,
    alarm: Pin<Box<Sleep>>,
}

impl Events {
    pub(super) fn open(pins: &Pins) -> Result<Self, Error> {
        let open = |name| MapData::from_pin(pins.map(name)).map_err(|source| Error::map(name, source));
        let ring =
            RingBuf::try_from(Map::RingBuf(open(EVENTS)?)).map_err(|source| Error::map(EVENTS, source))?;
        let told = maps::PerCpuHashMap::try_from(Map::PerCpuLruHashMap(open(TOLD)?));
        Ok(Self {
            ring: readable(ring).map_err(Error::Events)?,
            told: told.map_err(|source| Error::map(TOLD, source))?,
            last: HashMap::new(),
            due: VecDeque::new(),
            alarm: Box::pin(tokio::time::sleep(Duration::ZERO)),
        })
    }

    fn next_in_ring(&mut self) -> Option<Event> {
        while let Some(item) = self.ring.get_mut().next() {
            // Another length would be another version's, which the ABI in the path excludes.
            if let Ok(event) = bytemuck::try_pod_read_unaligned(&item) {
                return Some(event);
            }
        }
        None
    }

    fn note(&mut self, event: &Event) {
        let due = Instant::now() + REST_AFTER;
        self.last.insert(*event.about(), (due, *event));
        self.due.push_back((due, *event.about()));
    }

    /// What has happened to the flow after its last event, of which nobody will be told otherwise.
    fn rest(&mut self, now: Instant) -> Option<Event> {
        while let Some(&(due, about)) = self.due.front() {
            if due > now {
                return None;
            }
            self.due.pop_front();
            match self.last.get(&about) {
                Some(&(last, event)) if last == due => {
                    self.last.remove(&about);
                    if let Some(rest) = self.take(&event) {
                        return Some(rest);
                    }
                }
                Some(_) | None => {}
            }
        }
        None
    }

    fn take(&mut self, event: &Event) -> Option<Event> {
        let about = Shared(*event.about());
        // The flow may have been pushed out by others.
        let told = self.told.get(&about, 0).ok()?;
        let _ = self.told.remove(&about);
        let more = told.iter().map(|Shared(told)| told.more).sum();
        let rest = Event::new(now_ns(), more, about.0, event.len(), event.process());
        (more > 0).then_some(rest)
    }
}

/// The clock of the programs.
fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from);
    u64::try_from(now.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let this = &mut *self;
        loop {
            // What is there is taken without asking whether the ring is readable.
            if let Some(event) = this.next_in_ring() {
                this.note(&event);
                return Poll::Ready(Some(event));
            }
            if let Some(rest) = this.rest(Instant::now()) {
                return Poll::Ready(Some(rest));
            }
            let ready = this.ring.poll_read_ready_mut(context);
            match ready {
                Poll::Ready(Ok(mut guard)) => guard.clear_ready(),
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Pending => {
                    let Some(&(due, _)) = this.due.front() else {
                        return Poll::Pending;
                    };
                    this.alarm.as_mut().reset(due);
                    if this.alarm.as_mut().poll(context).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
    }
}
