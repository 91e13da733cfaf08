//! The thread that goes through the pods' namespaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    io, mem,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::{debug, error, warn};

use super::{
    Error, Programs, Repairs, Wanted,
    ground::Home,
    namespace::{Depth, Tools},
    programs::Loaded,
    record::{Record, Records},
    slot::Slot,
    undo::undo,
};
use crate::{dataplane::AttachMode, facts::NetnsCookie, problem::Problem};

/// How often every namespace is looked at.
const TICK: Duration = Duration::from_millis(400);

/// How closely a namespace is looked at when its `turn` comes. Within a second everything has been looked at that may be
/// changed from inside; what is dear comes seldom, and not for all at once.
const fn depth(turn: u64) -> Depth {
    if turn.is_multiple_of(150) {
        Depth::All
    } else if turn.is_multiple_of(8) {
        Depth::Path
    } else if turn.is_multiple_of(2) {
        Depth::Unheard
    } else {
        Depth::News
    }
}

/// What came of a wish, by namespace; those that are no longer wanted are in it as well.
pub type Outcome = BTreeMap<NetnsCookie, Result<(), Error>>;

/// Keeps the pods' namespaces as they are wanted.
///
/// When it is dropped, everything stays where it is, and the next one takes it over.
#[derive(Debug)]
pub struct Keeper {
    orders: Option<SyncSender<Order>>,
    thread: Option<JoinHandle<()>>,
    seen: Arc<Mutex<Seen>>,
}

struct Order {
    wanted: BTreeMap<NetnsCookie, Wanted>,
    done: SyncSender<Outcome>,
}

/// What everybody may look at.
#[derive(Debug, Default)]
struct Seen {
    repairs: Repairs,
    problems: Vec<Problem>,
    busy: Duration,
}

impl Keeper {
    /// Starts it. `links` is a directory for pins on a bpffs (see [`crate::dataplane::Options::links`]), `records` one for
    /// notes of what was in the namespaces before.
    ///
    /// To be called in the node's network namespace, by one process at a time. What an earlier process left in the
    /// namespaces stays until the first [`Keeper::want`].
    pub fn start(
        mode: AttachMode,
        links: PathBuf,
        records: &Path,
        programs: Programs,
    ) -> Result<Self, Error> {
        let (orders, asked) = mpsc::sync_channel(1);
        let (started, start) = mpsc::sync_channel(1);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let (records, shared) = (Records::open(records)?, Arc::clone(&seen));
        let programs = Loaded::all(programs)?;
        allow_many_files();
        let run = move || {
            let home = match Home::here() {
                Ok(home) => home,
                Err(error) => return drop(started.send(Err(error))),
            };
            let tools = Tools {
                home,
                mode,
                links,
                records,
                programs,
            };
            drop(started.send(Ok(())));
            Rounds {
                tools,
                slots: BTreeMap::new(),
                started: false,
                damaged: Vec::new(),
                unfinished: BTreeSet::new(),
                failures: Vec::new(),
                seen: shared,
                tick: 0,
            }
            .run(&asked);
        };
        let thread = thread::Builder::new()
            .name("pods".into())
            .spawn(run)
            .map_err(Error::Thread)?;
        start.recv().map_err(|_| stopped())??;
        Ok(Self {
            orders: Some(orders),
            thread: Some(thread),
            seen,
        })
    }

    /// Replaces everything that is wanted; everything is taken out of namespaces that are no longer, those of an earlier
    /// process included. Returns when that is done: it waits, some ten milliseconds for each program that is new on a
    /// device. Where something failed, it is tried again every second.
    pub fn want(&self, wanted: BTreeMap<NetnsCookie, Wanted>) -> Result<Outcome, Error> {
        let (done, outcome) = mpsc::sync_channel(1);
        let orders = self.orders.as_ref().ok_or_else(stopped)?;
        orders.send(Order { wanted, done }).map_err(|_| stopped())?;
        outcome.recv().map_err(|_| stopped())
    }

    /// How often something had to be mended.
    pub fn repairs(&self) -> Repairs {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).repairs
    }

    /// What is wrong.
    pub fn problems(&self) -> Vec<Problem> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.problems.clone()
    }

    /// How much time has gone into looking after namespaces, mending included.
    pub fn busy(&self) -> Duration {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).busy
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Without anybody who could give orders the thread ends.
        drop(self.orders.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            error!("the keeper of the pods' namespaces panicked");
        }
    }
}

/// Takes all the descriptors that the process may have: a namespace takes five, and the usual limit is 1024.
fn allow_many_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        warn!(%error, "the limit of open files stays as it is");
    }
}

fn stopped() -> Error {
    Error::Thread(io::Error::other("it has ended"))
}

/// The thread's own.
struct Rounds {
    tools: Tools,
    slots: BTreeMap<NetnsCookie, Slot>,
    /// Whether what an earlier process left has been looked for.
    started: bool,
    /// Records that cannot be read.
    damaged: Vec<Problem>,
    /// Namespaces out of which not everything could be taken, and why.
    unfinished: BTreeSet<NetnsCookie>,
    failures: Vec<Problem>,
    seen: Arc<Mutex<Seen>>,
    tick: u64,
}

impl Rounds {
    fn run(mut self, asked: &Receiver<Order>) {
        let mut next = Instant::now() + TICK;
        loop {
            match asked.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Order { wanted, done }) => {
                    let outcome = self.want(wanted);
                    if done.send(outcome).is_err() {
                        debug!("nobody waits for the answer any more");
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.tick();
                    next = Instant::now() + TICK;
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn want(&mut self, mut wanted: BTreeMap<NetnsCookie, Wanted>) -> Outcome {
        let mut outcome = self.undo_others(&wanted);
        let mut repairs = Repairs::default();
        for (&cookie, slot) in &mut self.slots {
            if let Some(wanted) = wanted.remove(&cookie) {
                outcome.insert(cookie, slot.want(&self.tools, wanted, &mut repairs));
            }
        }
        for (cookie, wanted) in wanted {
            let mut slot = Slot::new(cookie, wanted.clone());
            outcome.insert(cookie, slot.want(&self.tools, wanted, &mut repairs));
            self.slots.insert(cookie, slot);
        }
        self.show(repairs);
        outcome
    }

    fn undo_others(&mut self, wanted: &BTreeMap<NetnsCookie, Wanted>) -> Outcome {
        let mut outcome = Outcome::new();
        self.failures.clear();
        for record in self.others(wanted) {
            let mut errors = undo(&self.tools.home, &self.tools.records, &record);
            for error in &errors {
                warn!(pod = record.name, %error, "not everything could be taken out of a pod");
                self.failures.push(failure(error));
            }
            let done = if errors.is_empty() {
                Ok(())
            } else {
                self.unfinished.insert(record.cookie);
                Err(errors.swap_remove(0))
            };
            outcome.insert(record.cookie, done);
        }
        outcome
    }

    /// The namespaces that something is to be taken out of: those of an earlier process, those that were wanted until
    /// now, and those that it did not work for before.
    fn others(&mut self, wanted: &BTreeMap<NetnsCookie, Wanted>) -> Vec<Record> {
        let mut others = mem::take(&mut self.unfinished);
        others.extend(self.slots.keys());
        others.retain(|cookie| !wanted.contains_key(cookie));
        self.slots.retain(|cookie, _| wanted.contains_key(cookie));
        if !mem::replace(&mut self.started, true) {
            let (records, errors) = self.tools.records.all();
            self.damaged = errors.iter().map(failure).collect();
            // The node's own is none of ours.
            let left = |record: &Record| record.netns.is_some() && !wanted.contains_key(&record.cookie);
            return records.into_iter().filter(left).collect();
        }
        let mut records = Vec::new();
        for cookie in others {
            match self.tools.records.find(cookie) {
                Ok(record) => records.extend(record),
                Err(error) => self.failures.push(failure(&error)),
            }
        }
        records
    }

    fn tick(&mut self) {
        let start = Instant::now();
        self.tick += 1;
        let mut repairs = Repairs::default();
        for (turn, slot) in (self.tick..).zip(self.slots.values_mut()) {
            slot.check(&self.tools, depth(turn), &mut repairs);
        }
        if let Err(error) = self.tools.home.go() {
            // The next namespace is entered from wherever this is.
            warn!(%error, "the keeper cannot return");
        }
        self.show(repairs);
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).busy += start.elapsed();
    }

    fn show(&self, repairs: Repairs) {
        let problems = self.slots.values().flat_map(Slot::problems);
        let problems = problems
            .chain(self.damaged.iter().chain(&self.failures).cloned())
            .collect();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.repairs.add(repairs);
        seen.problems = problems;
    }
}

fn failure(error: &Error) -> Problem {
    Problem::new(crate::problem::Severity::Error, error.to_string())
}
