//! Verdicts, as `sluice observe --follow -o json` prints them.

use std::{
    io::{BufRead as _, BufReader},
    net::IpAddr,
    process::{Child, ChildStdout},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Result, bail};
use serde::Deserialize;

use crate::PATIENCE;

/// One verdict. The fields are those of the stable JSON that tests rely on, written down a second time on purpose.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Event {
    /// `allow`, `deny` or `audit`.
    pub verdict: String,
    /// Why, in a word.
    pub reason: String,
    /// Where it was given.
    pub hook: String,
    /// How many packets or calls it stands for.
    pub count: u64,
    /// Who, if known.
    pub pod: Option<Pod>,
    /// What the pod is one of.
    pub workload: Option<String>,
    /// Who called.
    pub process: Option<String>,
    /// The device that it came in by.
    pub device: Option<String>,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// The object that it belongs to.
    pub destination: Option<String>,
    /// Source port or ICMP identifier.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// Protocol by name or number.
    pub protocol: String,
    /// Octets of the frame, 0 for a call.
    pub len: u32,
    /// The policies that the sender is held to.
    pub policies: Vec<String>,
    /// The rules that decided.
    pub generation: u64,
}

/// A pod, as events name it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// A stream of verdicts; it ends when it is dropped.
#[derive(Debug)]
pub struct Events {
    child: Child,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    lines: Mutex<Lines>,
    more: Condvar,
}

#[derive(Debug, Default)]
struct Lines {
    events: Vec<Event>,
    unreadable: Option<String>,
}

impl Events {
    /// Reads what `child` prints.
    pub(crate) fn of(mut child: Child) -> Result<Self> {
        let Some(stdout) = child.stdout.take() else {
            bail!("`sluice observe` has no standard output")
        };
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        thread::spawn(move || theirs.read(stdout));
        Ok(Self { child, shared })
    }

    /// Forgets those so far.
    pub fn clear(&self) {
        self.shared.lock().events.clear();
    }

    /// Those so far.
    pub fn all(&self) -> Vec<Event> {
        self.shared.lock().events.clone()
    }

    /// Waits for one that is wanted; `what` says which for the message of its absence.
    pub fn wait_for(&self, what: &str, wanted: impl Fn(&Event) -> bool) -> Result<Event> {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.shared.lock();
        loop {
            if let Some(event) = lines.events.iter().find(|event| wanted(event)) {
                return Ok(event.clone());
            }
            if let Some(line) = &lines.unreadable {
                bail!("`sluice observe` printed what is no verdict: {line}");
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else {
                let seen: Vec<String> = lines
                    .events
                    .iter()
                    .rev()
                    .take(12)
                    .map(|event| format!("{event:?}"))
                    .collect();
                bail!("no verdict on {what}; the last ones were\n{}", seen.join("\n"));
            };
            lines = match self.shared.more.wait_timeout(lines, left) {
                Ok((lines, _)) => lines,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // It may have ended with its agent.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, stdout: ChildStdout) {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let mut lines = self.lock();
            match serde_json::from_str(&line) {
                Ok(event) => lines.events.push(event),
                Err(error) => lines.unreadable = Some(format!("{line} ({error})")),
            }
            self.more.notify_all();
        }
    }
}
