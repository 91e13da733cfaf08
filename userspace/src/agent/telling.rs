//! Carries events from the kernel to whoever observes.

use std::{sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, timeout},
};
use tracing::warn;

use super::{
    destinations::Destinations,
    translate::{self, Who},
    verdicts::Verdicts,
};
use crate::{api::server::Command, dataplane::Events};

/// How often names of destinations are brought up to date at the most.
const NAMES_EVERY: Duration = Duration::from_secs(2);
/// How long an event waits for them; without them it is told with its address alone.
const NAMES_WITHIN: Duration = Duration::from_millis(500);

/// Everything that makes a verdict out of an event.
pub(super) struct Teller {
    events: Events,
    who: watch::Receiver<Arc<Who>>,
    commands: mpsc::Sender<Command>,
    verdicts: Arc<Verdicts>,
    destinations: Destinations,
    asked: Option<Instant>,
}

impl Teller {
    /// From these events to those verdicts; the loop behind `commands` knows the names.
    pub(super) fn new(
        events: Events,
        who: watch::Receiver<Arc<Who>>,
        commands: mpsc::Sender<Command>,
        verdicts: Arc<Verdicts>,
    ) -> Self {
        Self {
            events,
            who,
            commands,
            verdicts,
            destinations: Destinations::default(),
            asked: None,
        }
    }

    /// Goes on until the agent ends.
    pub(super) async fn run(mut self) {
        while let Some(event) = self.events.next().await {
            let generation = event.about().subject().map_or(0, |subject| subject.generation);
            self.ensure_names(generation).await;
            let who = Arc::clone(&self.who.borrow());
            if let Some(verdict) = translate::verdict(&event, &who, &self.destinations) {
                self.verdicts.push(verdict);
            } else {
                warn!("an event of a version that this agent does not know");
            }
        }
    }

    /// Nobody pays for names while there is nothing to tell.
    async fn ensure_names(&mut self, generation: u64) {
        let is_recent = |asked: Instant| asked.elapsed() < NAMES_EVERY;
        if self.destinations.generation >= generation || self.asked.is_some_and(is_recent) {
            return;
        }
        self.asked = Some(Instant::now());
        if let Ok(Some(destinations)) = timeout(NAMES_WITHIN, self.names()).await {
            self.destinations = destinations;
        }
    }

    async fn names(&self) -> Option<Destinations> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Objects { answer }).await.ok()?;
        let objects = answered.await.ok()?;
        // It may take a while.
        let made = tokio::task::spawn_blocking(move || Destinations::of(&objects));
        made.await.ok()
    }
}
