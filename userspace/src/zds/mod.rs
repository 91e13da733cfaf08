//! The hand-over of pods to ztunnel: the server's side of its protocol ZDS, in place of istio-cni's.
//!
//! ztunnel connects, says hello, and is told of every pod that it is to serve, each with a descriptor of the pod's
//! network namespace; then that this was all; then what changes. It answers each message before it gets another one.
//!
//! While one ztunnel replaces another, both are connected. Each gets a whole snapshot. After that, new pods go to the
//! newest alone, and pods that are gone are told to all. If the newest goes, the one before it gets what it lacks.
//!
//! ztunnel exits at some messages that come at the wrong time, so `sessions` decides what is sent, without any I/O,
//! and its tests drive it through every order of events. `driver` gives it time and datagrams, `socket` has the
//! system calls.
#![forbid(unsafe_code)]

mod driver;
mod messages;
mod request;
mod session;
mod sessions;
mod socket;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};

use crate::facts::{NetnsCookie, PodName};

/// A pod's `metadata.uid`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodUid(pub String);

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A network namespace that can be handed over.
#[derive(Clone, Debug)]
pub struct Netns {
    /// Any handle on it: `/proc/PID/ns/net` or a file that it is mounted on, opened.
    pub descriptor: Arc<OwnedFd>,
    /// Which it is. A pod that appears with another one is handed over again.
    pub cookie: NetnsCookie,
}

/// A pod to be served.
#[derive(Clone, Debug)]
pub struct Workload {
    /// What it is called. ztunnel has to know it by the same name from istiod, or denies its traffic.
    pub pod: PodName,
    /// The name of its service account; the same holds.
    pub service_account: String,
    /// Where it is. `None` if that was not found (yet): a proxy that serves it is told to go on.
    pub netns: Option<Netns>,
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its process as it was when it connected; absent if that is in a PID namespace that cannot be seen from here.
    pub pid: Option<i32>,
    /// Its cgroup of the second version, as `/proc/PID/cgroup` has it: beginning with `/`, which is the root of this
    /// agent's cgroup namespace. Absent if there is none, or if the process is not to be seen or has ended.
    pub cgroup: Option<PathBuf>,
    /// When it connected.
    pub since: SystemTime,
}

/// A connected proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Who that is.
    pub peer: Peer,
    /// Whether it has taken its snapshot to the end.
    pub synced: bool,
}

/// How far the hand-over of a workload is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A connected proxy serves it: it listens in this namespace. That is the last one that was wanted and known.
    Acked(NetnsCookie),
    /// No connected proxy has said that it serves it. One that has disconnected goes on serving what it served.
    Pending,
    /// The newest proxy does not manage to, in its own words. It goes on trying by itself every 5 s, without a word when
    /// it succeeds; so this stays until the workload is wanted in another way or the proxy connects anew.
    Refused(String),
}

/// How things are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// The proxies that have said hello, the newest first.
    pub proxies: Vec<Proxy>,
    /// All wanted workloads.
    pub workloads: BTreeMap<PodUid, Progress>,
    /// Those that are wanted no more, and that a connected proxy has not let go of yet.
    pub leaving: BTreeSet<PodUid>,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen for ztunnel at {path}: {source} (is the directory writable? is anything there that is no socket?)"
)]
pub struct BindError {
    path: PathBuf,
    source: io::Error,
}

/// What the agent has said so far.
#[derive(Clone, Debug, Default)]
struct Wants {
    /// Absent until it is known.
    workloads: Option<Arc<BTreeMap<PodUid, Workload>>>,
    /// Absent if it does not matter who asks.
    admitted: Option<Arc<BTreeSet<PathBuf>>>,
}

/// The server, in tasks of its own. They end with it, and so do all connections; the proxies go on as they are.
#[derive(Debug)]
pub struct Server {
    wants: watch::Sender<Wants>,
    state: watch::Receiver<State>,
    tasks: [JoinHandle<()>; 2],
}

impl Server {
    /// Listens at `path`, for root alone; what a server before it left there is removed. Needs tokio with I/O and time.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let listener = socket::bind(path).map_err(|source| BindError {
            path: path.to_owned(),
            source,
        })?;
        let (wants, wants_here) = watch::channel(Wants::default());
        let (state_here, state) = watch::channel(State::default());
        let (events, events_here) = mpsc::channel(driver::EVENTS);
        let tasks = [
            tokio::spawn(driver::accept(listener, events.clone())),
            tokio::spawn(driver::drive(wants_here, events, events_here, state_here)),
        ];
        Ok(Self { wants, state, tasks })
    }

    /// From now on, these workloads and no others. To be called first when they are all known: until then proxies wait,
    /// because whatever a snapshot lacks is served no longer. What is wanted already and served is left alone.
    pub fn want(&self, workloads: BTreeMap<PodUid, Workload>) {
        self.wants
            .send_modify(|wants| wants.workloads = Some(Arc::new(workloads)));
    }

    /// From now on, only proxies of these cgroups are told of workloads, and those whose cgroup is not known: one that
    /// nobody knows for a proxy yet cannot listen inside a captured pod, and says so. To be called before [`want`](Self::want).
    pub fn admit(&self, cgroups: BTreeSet<PathBuf>) {
        self.wants.send_if_modified(|wants| {
            let changed = wants.admitted.as_deref() != Some(&cgroups);
            wants.admitted = Some(Arc::new(cgroups));
            changed
        });
    }

    /// How things are now; what was last wanted is in it a moment later. It counts as seen by [`changed`](Self::changed).
    pub fn state(&mut self) -> State {
        self.state.borrow_and_update().clone()
    }

    /// Waits until things are other than [`state`](Self::state) last said. May be dropped at any time.
    pub async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            // The task is gone, and with it all change.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        // The socket's file stays: it may be that of the next server by now.
    }
}

#[cfg(test)]
mod tests;
