//! Who is connected, what each has been told, and what it is told next. Pure: what comes in and the time are arguments,
//! what is to be done is the return value.
//!
//! The wanted set is compared with what a proxy holds each time that it is free to be asked something. So nothing is
//! queued: no change can be lost by a reconnect, and none has to wait for another connection.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use prost::{DecodeError, Message as _};
use tracing::{info, warn};

use super::{
    Peer, PodUid, Progress, Proxy, State, Workload,
    messages::{self, MAX_RESPONSE, ResponsePayload, Version, WorkloadResponse, ZdsHello},
    request::Request,
    session::Session,
};

/// How long a proxy may take to say hello, and to answer (as istio-cni has it: `readWriteDeadline` in its
/// `ztunnelserver.go`).
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
/// How many connections are kept. Two are what an upgrade takes; a proxy that connects again and again without letting
/// go must not eat the agent's descriptors.
pub(super) const MAX_CONNECTIONS: usize = 16;
/// The longest uid that a proxy is told of: that of any name in Kubernetes. Real ones have 36 letters.
const MAX_UID: usize = 253;

/// A connection, numbered in the order of coming.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ConnectionId(pub(super) u64);

/// Why a proxy is sent away.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(super) enum Why {
    /// It does not say hello.
    #[error("it has not said hello for {DEADLINE:?} (is it a ztunnel?)")]
    NoHello,
    /// It does not answer.
    #[error("it has not answered \"{0}\" for {DEADLINE:?} (does it hang?)")]
    NoAnswer(String),
    /// It speaks another version.
    #[error("it speaks version {0} of the protocol, and only 1 is known here (is it newer than this agent?)")]
    Version(i32),
    /// It talks when it was not asked.
    #[error("it said something without having been asked (has it answered twice?)")]
    Unasked,
    /// It says what cannot be read.
    #[error("it sent what is no message of the protocol: {0} (is it a ztunnel?)")]
    Malformed(#[from] DecodeError),
    /// It says more than can be read.
    #[error("it sent a message of more than {MAX_RESPONSE} octets")]
    TooLong,
    /// Its answer is of a kind that is not known.
    #[error("its answer is no acknowledgement (is it newer than this agent?)")]
    NoAcknowledgement,
    /// It refuses what cannot be refused; what it serves is not known any more.
    #[error("it refuses \"{request}\": {error:?}; it can connect again and be told everything anew")]
    Refusal {
        /// What.
        request: String,
        /// Its words.
        error: String,
    },
    /// Others came after it.
    #[error("{MAX_CONNECTIONS} others have connected since (does a proxy leave connections open?)")]
    Crowded,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Output {
    /// Send a request.
    Send(ConnectionId, Request),
    /// Close the connection, which is forgotten already.
    Close(ConnectionId, Why),
}

/// A workload as it is wanted.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) workload: Arc<Workload>,
    /// Whether ztunnel can read its names.
    pub(super) fits: bool,
}

/// All connections.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// Absent until it is known: a snapshot that lacks somebody ends that pod's service.
    wanted: Option<BTreeMap<PodUid, Wanted>>,
    /// The cgroups of those who are told; absent if everybody is.
    admitted: Option<Arc<BTreeSet<PathBuf>>>,
    by_id: BTreeMap<ConnectionId, Session>,
    /// How many have said hello.
    greeted: u64,
}

impl Sessions {
    /// Somebody has connected.
    pub(super) fn connected(&mut self, id: ConnectionId, peer: Peer, now: Instant) -> Vec<Output> {
        let mut outputs = Vec::new();
        if self.by_id.len() >= MAX_CONNECTIONS {
            // Whoever has not even said hello goes first, so that a crowd of silent ones drives no proxy out.
            let leaver = self
                .by_id
                .iter()
                .min_by_key(|(id, session)| (session.greeted.is_some(), **id));
            if let Some(id) = leaver.map(|(id, _)| *id) {
                self.close(id, Why::Crowded, &mut outputs);
            }
        }
        self.by_id.insert(id, Session::new(peer, now + DEADLINE));
        self.ask(&mut outputs, now);
        outputs
    }

    /// A datagram has come, as far as it was read.
    pub(super) fn received(&mut self, id: ConnectionId, datagram: &[u8], now: Instant) -> Vec<Output> {
        let mut outputs = Vec::new();
        // It may have been sent away in the meantime.
        if let Some(session) = self.by_id.get_mut(&id) {
            let understood = if datagram.len() > MAX_RESPONSE {
                Err(Why::TooLong)
            } else if session.greeted.is_none() {
                hello(datagram).map(|()| {
                    self.greeted += 1;
                    session.greet(self.greeted);
                })
            } else {
                acknowledgement(session, datagram)
            };
            if let Err(why) = understood {
                self.close(id, why, &mut outputs);
            }
        }
        self.ask(&mut outputs, now);
        outputs
    }

    /// A connection has ended.
    pub(super) fn closed(&mut self, id: ConnectionId, now: Instant) -> Vec<Output> {
        let mut outputs = Vec::new();
        if let Some(session) = self.by_id.remove(&id) {
            info!(pid = ?session.peer.pid, "a proxy has disconnected");
        }
        self.ask(&mut outputs, now);
        outputs
    }

    /// From now on, these workloads and no others.
    pub(super) fn want(&mut self, workloads: &BTreeMap<PodUid, Workload>, now: Instant) -> Vec<Output> {
        let wanted = workloads.iter().map(|(uid, workload)| {
            let fits = uid.0.len() <= MAX_UID && messages::fits(uid, workload);
            let workload = Arc::new(workload.clone());
            (uid.clone(), Wanted { workload, fits })
        });
        self.wanted = Some(wanted.collect());
        let mut outputs = Vec::new();
        self.ask(&mut outputs, now);
        outputs
    }

    /// From now on, only proxies of these cgroups are told; they are asked when there is something to do next.
    pub(super) fn admit(&mut self, cgroups: Option<Arc<BTreeSet<PathBuf>>>) {
        self.admitted = cgroups;
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Instant) -> Vec<Output> {
        let mut outputs = Vec::new();
        let late: Vec<_> = self
            .by_id
            .iter()
            .filter_map(|(id, session)| Some((*id, session.overdue(now)?)))
            .collect();
        for (id, why) in late {
            self.close(id, why, &mut outputs);
        }
        self.ask(&mut outputs, now);
        outputs
    }

    /// When [`tick`](Self::tick) is due.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        self.by_id.values().filter_map(Session::deadline).min()
    }

    /// How things are.
    pub(super) fn state(&self) -> State {
        let mut sessions: Vec<&Session> = self.by_id.values().filter(|s| s.greeted.is_some()).collect();
        sessions.sort_by_key(|session| std::cmp::Reverse(session.greeted));
        let progress = |uid: &PodUid, wanted: &Wanted| {
            if !wanted.fits {
                return Progress::Refused("its names are too long for ztunnel to read".to_owned());
            }
            let mut verdicts = sessions.iter().map(|session| session.progress(uid, wanted));
            // The newest proxy's word counts; while it has none, an older one may still be serving the pod.
            match verdicts.next() {
                Some(Progress::Pending) => verdicts
                    .find(|verdict| matches!(verdict, Progress::Acked(_)))
                    .unwrap_or(Progress::Pending),
                Some(verdict @ (Progress::Acked(_) | Progress::Refused(_))) => verdict,
                None => Progress::Pending,
            }
        };
        let wanted = self.wanted.iter().flatten();
        let told = self.by_id.values().flat_map(Session::told);
        let is_wanted = |uid: &PodUid| {
            self.wanted
                .as_ref()
                .is_some_and(|wanted| wanted.contains_key(uid))
        };
        State {
            workloads: wanted
                .map(|(uid, wanted)| (uid.clone(), progress(uid, wanted)))
                .collect(),
            leaving: told.filter(|uid| !is_wanted(uid)).cloned().collect(),
            proxies: sessions
                .iter()
                .map(|session| Proxy {
                    peer: session.peer.clone(),
                    synced: session.synced,
                })
                .collect(),
        }
    }

    /// Asks everybody who is free what is next to be asked.
    fn ask(&mut self, outputs: &mut Vec<Output>, now: Instant) {
        let Some(wanted) = &self.wanted else {
            return;
        };
        // By the hello and not by connecting: who only connects and says nothing gets nobody's pods.
        let newest = self.by_id.values().filter_map(|session| session.greeted).max();
        for (id, session) in &mut self.by_id {
            let is_newest = session.greeted == newest;
            let is_admitted = match (&self.admitted, &session.peer.cgroup) {
                (Some(admitted), Some(cgroup)) => admitted.contains(cgroup),
                (None, _) | (_, None) => true,
            };
            if !is_admitted {
                continue;
            }
            if let Some(request) = session.next(wanted, is_newest) {
                session.in_flight = Some((request.clone(), now + DEADLINE));
                outputs.push(Output::Send(*id, request));
            }
        }
    }

    fn close(&mut self, id: ConnectionId, why: Why, outputs: &mut Vec<Output>) {
        self.by_id.remove(&id);
        outputs.push(Output::Close(id, why));
    }
}

fn hello(datagram: &[u8]) -> Result<(), Why> {
    let hello = ZdsHello::decode(datagram)?;
    match Version::try_from(hello.version) {
        Ok(Version::V1) => Ok(()),
        Ok(Version::NotUsed) | Err(_) => Err(Why::Version(hello.version)),
    }
}

fn acknowledgement(session: &mut Session, datagram: &[u8]) -> Result<(), Why> {
    let (request, _) = session.in_flight.take().ok_or(Why::Unasked)?;
    let response = WorkloadResponse::decode(datagram)?;
    let Some(ResponsePayload::Ack(ack)) = response.payload else {
        return Err(Why::NoAcknowledgement);
    };
    if !ack.error.is_empty() {
        warn!(pid = ?session.peer.pid, %request, error = ?ack.error, "a proxy refuses");
    }
    session.answered(request, ack.error)
}
