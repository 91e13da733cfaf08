//! One watch: a list, then what changes, again and again.

use std::{
    hash::{BuildHasher as _, RandomState},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use jiff::Timestamp;
use kube::Client;
use tokio::sync::Notify;
use tracing::debug;

use super::{
    api::{self, Error, Event},
    table::Table,
    target::Target,
};
use crate::objects::Kind;

/// How long to wait after a first failure; after each further one twice as long.
const FIRST_RETRY: Duration = Duration::from_millis(200);
/// How long to wait at the most, and how often a kind is looked for that the server does not have.
const LAST_RETRY: Duration = Duration::from_secs(30);
/// For how long the server must have been without a kind before its objects are taken for deleted.
const VANISHING: Duration = Duration::from_mins(1);

/// A watch, and what it has brought.
pub(super) struct Watch {
    pub(super) target: Target,
    known: Mutex<Known>,
    /// Told when anything is another.
    changed: Arc<Notify>,
}

/// What a watch has brought.
#[derive(Default)]
pub(super) struct Known {
    pub(super) table: Table,
    pub(super) health: Health,
    /// The version of the API that is used.
    pub(super) version: Option<&'static str>,
    /// When the server last said anything.
    pub(super) heard: Option<Instant>,
}

/// How a watch is.
#[derive(Default)]
pub(super) enum Health {
    /// It has only begun.
    #[default]
    Starting,
    /// The server answers.
    Well,
    /// The server has no such kind.
    Absent {
        /// Since it first said so.
        since: Instant,
    },
    /// It does not work.
    Failing {
        /// Since it first did not.
        since: Timestamp,
        /// Why, as of the last time.
        error: Error,
    },
}

/// Where a watch is.
#[derive(Default)]
struct Place {
    /// The version of the API.
    version: Option<&'static str>,
    /// The version of the objects that are known, from which a watch goes on.
    since: Option<String>,
}

impl Watch {
    pub(super) fn new(target: Target, changed: Arc<Notify>) -> Self {
        Self {
            target,
            known: Mutex::default(),
            changed,
        }
    }

    /// What it has brought up to now.
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches for as long as it is polled.
    pub(super) async fn run(self: Arc<Self>, client: Client) {
        let mut place = Place::default();
        let mut retry = Retry::default();
        loop {
            let begun = Instant::now();
            match self.step(&client, &mut place, &mut retry).await {
                // A server that ends every watch at once shall not be asked again at once.
                Ok(()) if begun.elapsed() > FIRST_RETRY => continue,
                Ok(()) => {}
                Err(Error::Expired) => {
                    debug!(target = %self.target, "the server wants a new list");
                    place.since = None;
                }
                Err(error) => {
                    if matches!(error, Error::NotServed(_)) {
                        place = Place::default();
                    } else if matches!(error, Error::Answer(_)) {
                        // What was missed is in the next list.
                        place.since = None;
                    }
                    self.fail(error);
                }
            }
            tokio::time::sleep(retry.next()).await;
        }
    }

    /// Goes on from where it is, until the server ends it.
    async fn step(&self, client: &Client, place: &mut Place, retry: &mut Retry) -> Result<(), Error> {
        let version = match place.version {
            Some(version) => version,
            None => self.find(client).await?,
        };
        place.version = Some(version);
        let since = match place.since.take() {
            Some(since) => since,
            None => self.list(client, version).await?,
        };
        let since = place.since.insert(since);
        let events = api::watch(client, &self.target, version, since, jitter()).await?;
        self.is_well();
        *retry = Retry::default();
        let mut events = pin!(events);
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => *since = self.take(event),
                // That the way to the server has gone is told when it cannot be found again.
                Err(Error::Unreachable(reason)) => {
                    debug!(target = %self.target, reason, "the watch has broken");
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn find(&self, client: &Client) -> Result<&'static str, Error> {
        let version = match (self.target.if_absent, self.target.versions.first()) {
            (None, Some(version)) => version,
            (Some(_), _) | (None, None) => api::served(client, &self.target).await?,
        };
        self.known().version = Some(version);
        Ok(version)
    }

    /// Lists all objects. Returns the version of the list.
    async fn list(&self, client: &Client, version: &str) -> Result<String, Error> {
        self.known().table.begin();
        let mut next = None;
        loop {
            let page = api::list(client, &self.target, version, next).await?;
            let mut known = self.known();
            for item in page.items {
                known.table.listed(item);
            }
            known.heard = Some(Instant::now());
            next = page.next;
            if next.is_none() {
                if known.table.finish() {
                    self.changed.notify_one();
                }
                return Ok(page.version);
            }
        }
    }

    /// Takes in what the server says. Returns the version up to which all is known.
    fn take(&self, event: Event) -> String {
        let mut known = self.known();
        known.heard = Some(Instant::now());
        let (changed, version) = match event {
            Event::Applied(item) => {
                let version = item.version.clone();
                (known.table.apply(item), version)
            }
            Event::Deleted(item) => (known.table.delete(&item.name), item.version),
            Event::Bookmark(version) => (false, version),
        };
        if changed {
            self.changed.notify_one();
        }
        version
    }

    fn is_well(&self) {
        let mut known = self.known();
        known.heard = Some(Instant::now());
        if !matches!(known.health, Health::Well) {
            known.health = Health::Well;
            self.changed.notify_one();
        }
    }

    fn fail(&self, error: Error) {
        let mut known = self.known();
        debug!(target = %self.target, %error, "the watch fails");
        known.health = match (&known.health, error) {
            (Health::Absent { since }, Error::NotServed(_)) => {
                let since = *since;
                known.heard = Some(Instant::now());
                // With a kind its objects are deleted one by one, which a watch is told of. Nobody has told of these; a
                // policy shall not end by that.
                if since.elapsed() > VANISHING && self.target.kind != Kind::EgressPolicy {
                    known.table.clear();
                }
                Health::Absent { since }
            }
            (_, Error::NotServed(_)) if self.target.if_absent.is_some() => {
                known.heard = Some(Instant::now());
                known.version = None;
                Health::Absent {
                    since: Instant::now(),
                }
            }
            (Health::Failing { since, error: _ }, error) => Health::Failing { since: *since, error },
            (_, error) => Health::Failing {
                since: Timestamp::now(),
                error,
            },
        };
        self.changed.notify_one();
    }
}

/// How long to wait before the next try.
struct Retry {
    pause: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self { pause: FIRST_RETRY }
    }
}

impl Retry {
    /// Between half of the pause and all of it, so that not all agents of a cluster come back at the same moment.
    fn next(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(LAST_RETRY);
        pause / 2 + pause / 2 * (jitter() % 1024) / 1024
    }
}

/// A number that is another each time.
fn jitter() -> u32 {
    let number = RandomState::new().hash_one(());
    u32::try_from(number >> 32).unwrap_or_default()
}
