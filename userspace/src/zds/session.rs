//! One connected proxy: what it holds and what it is asked next.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use super::{
    Peer, PodUid, Progress, Workload,
    request::Request,
    sessions::{Wanted, Why},
};
use crate::facts::NetnsCookie;

/// What a proxy has been told of a workload, and has answered.
#[derive(Debug)]
enum Held {
    /// To go on with it, if it serves it.
    Kept,
    /// To serve it.
    Added {
        /// Who it is, as it was told then.
        workload: Arc<Workload>,
        /// Where, as it was told then.
        netns: NetnsCookie,
        /// Why it did not manage to. It goes on trying by itself (every 5 s, `RETRY_DURATION` in ztunnel's
        /// `workloadmanager.rs`), so it is not asked again.
        refusal: Option<String>,
    },
}

/// A connection.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) peer: Peer,
    /// Which hello this was; absent before it.
    pub(super) greeted: Option<u64>,
    /// When it has to have said hello.
    hello_by: Instant,
    /// Whether it has taken the end of the snapshot.
    pub(super) synced: bool,
    /// What it has not answered yet, and when it has to. Answers have no number: there is never a second one.
    pub(super) in_flight: Option<(Request, Instant)>,
    held: BTreeMap<PodUid, Held>,
}

impl Session {
    pub(super) fn new(peer: Peer, hello_by: Instant) -> Self {
        Self {
            peer,
            greeted: None,
            hello_by,
            synced: false,
            in_flight: None,
            held: BTreeMap::new(),
        }
    }

    /// It has said hello, the how-manieth of all.
    pub(super) fn greet(&mut self, order: u64) {
        self.greeted = Some(order);
    }

    /// When its patience with us, or ours with it, is over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match (&self.in_flight, self.greeted) {
            (Some((_, by)), _) => Some(*by),
            (None, None) => Some(self.hello_by),
            (None, Some(_)) => None,
        }
    }

    /// What it has failed to do in time.
    pub(super) fn overdue(&self, now: Instant) -> Option<Why> {
        self.deadline().filter(|by| *by <= now)?;
        Some(match &self.in_flight {
            Some((request, _)) => Why::NoAnswer(request.to_string()),
            None => Why::NoHello,
        })
    }

    /// Notes the answer to a request; an empty `error` is "done".
    pub(super) fn answered(&mut self, request: Request, error: String) -> Result<(), Why> {
        match request {
            Request::Add { uid, workload, netns } => {
                let held = Held::Added {
                    workload,
                    netns: netns.cookie,
                    refusal: (!error.is_empty()).then_some(error),
                };
                self.held.insert(uid, held);
                return Ok(());
            }
            // ztunnel refuses these only when it and we do not agree on where we are, and then leaves by itself.
            Request::Keep(_) | Request::Del(_) | Request::SnapshotSent if !error.is_empty() => {
                let request = request.to_string();
                return Err(Why::Refusal { request, error });
            }
            Request::Keep(uid) => drop(self.held.insert(uid, Held::Kept)),
            Request::Del(uid) => drop(self.held.remove(&uid)),
            Request::SnapshotSent => self.synced = true,
        }
        Ok(())
    }

    /// What to ask now, if anything and if it is free.
    pub(super) fn next(&self, wanted: &BTreeMap<PodUid, Wanted>, newest: bool) -> Option<Request> {
        if self.greeted.is_none() || self.in_flight.is_some() {
            None
        } else if self.synced {
            self.del(wanted, newest)
                .or_else(|| newest.then(|| self.add(wanted)).flatten())
        } else {
            // The snapshot is a whole one for everybody, newest or not: who is not named loses its service. It follows
            // what is wanted while it goes on; who was named and is wanted no more is deleted right after, because
            // earlier versions of ztunnel take a Del inside a snapshot for an error.
            self.add(wanted)
                .or_else(|| self.keep(wanted))
                .or(Some(Request::SnapshotSent))
        }
    }

    /// What it says of a workload.
    pub(super) fn progress(&self, uid: &PodUid, wanted: &Wanted) -> Progress {
        match self.held.get(uid) {
            Some(held) if held.is(wanted) => held.progress(),
            Some(_) | None => Progress::Pending,
        }
    }

    /// The workloads that it may be serving because of this connection.
    pub(super) fn told(&self) -> impl Iterator<Item = &PodUid> {
        let coming = self.in_flight.iter().filter_map(|(request, _)| match request {
            Request::Add { uid, .. } | Request::Keep(uid) => Some(uid),
            Request::Del(_) | Request::SnapshotSent => None,
        });
        self.held.keys().chain(coming)
    }

    fn del(&self, wanted: &BTreeMap<PodUid, Wanted>, newest: bool) -> Option<Request> {
        let gone = |uid: &PodUid, held: &Held| match wanted.get(uid) {
            None => true,
            // ztunnel ignores an Add that differs in nothing but the names.
            Some(wanted) if !held.is_named(wanted) => true,
            // The newest will be told where the pod is now; for the others it is gone from where they serve it.
            Some(wanted) => !newest && held.is_elsewhere(wanted),
        };
        let (uid, _) = self.held.iter().find(|(uid, held)| gone(uid, held))?;
        Some(Request::Del(uid.clone()))
    }

    fn add(&self, wanted: &BTreeMap<PodUid, Wanted>) -> Option<Request> {
        wanted.iter().find_map(|(uid, wanted)| {
            let netns = wanted.workload.netns.as_ref().filter(|_| wanted.fits)?;
            match self.held.get(uid) {
                None | Some(Held::Kept) => {}
                // Other names have to wait for the Del, which a snapshot does not allow.
                Some(held) if held.is(wanted) || !held.is_named(wanted) => return None,
                Some(Held::Added { .. }) => {}
            }
            Some(Request::Add {
                uid: uid.clone(),
                workload: Arc::clone(&wanted.workload),
                netns: netns.clone(),
            })
        })
    }

    fn keep(&self, wanted: &BTreeMap<PodUid, Wanted>) -> Option<Request> {
        let unnamed = |uid: &PodUid, wanted: &Wanted| wanted.fits && !self.held.contains_key(uid);
        let (uid, _) = wanted.iter().find(|(uid, wanted)| unnamed(uid, wanted))?;
        Some(Request::Keep(uid.clone()))
    }
}

impl Held {
    /// Whether it is under the names that are wanted; who was only kept has none here.
    fn is_named(&self, wanted: &Wanted) -> bool {
        match self {
            Self::Kept => true,
            Self::Added { workload, .. } => {
                workload.pod == wanted.workload.pod
                    && workload.service_account == wanted.workload.service_account
            }
        }
    }

    /// Whether it is what is wanted. Where the pod is may have become unknown; then it still is where it was.
    fn is(&self, wanted: &Wanted) -> bool {
        match (self, &wanted.workload.netns) {
            (Self::Kept, None) => true,
            (Self::Kept, Some(_)) => false,
            (Self::Added { .. }, None) => self.is_named(wanted),
            (Self::Added { netns, .. }, Some(now)) => self.is_named(wanted) && *netns == now.cookie,
        }
    }

    /// Whether it was told of another place than the one that is known now.
    fn is_elsewhere(&self, wanted: &Wanted) -> bool {
        match (self, &wanted.workload.netns) {
            (Self::Added { netns, .. }, Some(now)) => *netns != now.cookie,
            (Self::Kept, _) | (Self::Added { .. }, None) => false,
        }
    }

    fn progress(&self) -> Progress {
        match self {
            Self::Kept => Progress::Pending,
            Self::Added {
                refusal: None, netns, ..
            } => Progress::Acked(*netns),
            Self::Added {
                refusal: Some(error), ..
            } => Progress::Refused(error.clone()),
        }
    }
}
