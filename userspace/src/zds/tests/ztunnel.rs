//! ztunnel, as far as its side of the protocol goes: what its `src/inpod/statemanager.rs` and `protocol.rs` do. Where
//! the real one exits, or leaves because of a fault in what it was sent, this one panics.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;

use crate::{
    facts::NetnsCookie,
    zds::{
        messages::{MAX_REQUEST, RequestPayload, WorkloadInfo, WorkloadRequest},
        request::Request,
    },
};

/// Where it serves a pod, and under which names.
pub(super) type Served = (NetnsCookie, WorkloadInfo);

#[derive(Debug, Default)]
pub(super) struct Ztunnel {
    /// Whom it serves.
    pub(super) running: BTreeMap<String, Served>,
    /// Whom it does not manage to, yet.
    pub(super) pending: BTreeMap<String, Served>,
    /// Whether the connection's snapshot has ended.
    pub(super) synced: bool,
    named: BTreeSet<String>,
    /// Whom it served before this connection, and still does. An Add does not change what it calls them, and nobody can
    /// know that it should: a pod that is called otherwise has another uid, in a cluster.
    pub(super) inherited: BTreeSet<String>,
}

impl Ztunnel {
    /// It begins a new connection.
    pub(super) fn reset(&mut self) {
        self.named.clear();
        self.pending.clear();
        self.synced = false;
        self.inherited = self.running.keys().cloned().collect();
    }

    /// It does as it is told, with a datagram and what came along. The result is the text of its answer.
    pub(super) fn process(&mut self, request: &Request, can_start: bool) -> &'static str {
        let bytes = request.encode();
        assert!(bytes.len() <= MAX_REQUEST, "truncated: {request}");
        let message = WorkloadRequest::decode(&bytes[..]).expect("a message");
        let netns = if let Request::Add { netns, .. } = request {
            Some(netns.cookie)
        } else {
            None
        };
        assert_eq!(netns.is_some(), request.descriptor().is_some());
        match (message.payload.expect("a payload"), netns) {
            (RequestPayload::Add(add), Some(netns)) => {
                let info = add.workload_info.expect("it exits without workload_info");
                if !self.synced {
                    self.named.insert(add.uid.clone());
                }
                self.add(add.uid, (netns, info), can_start)
            }
            (RequestPayload::Keep(keep), None) => {
                assert!(!self.synced, "it exits at a Keep after the snapshot");
                self.named.insert(keep.uid);
                ""
            }
            (RequestPayload::Del(del), None) => {
                assert!(self.synced, "an older one leaves at a Del in the snapshot");
                self.pending.remove(&del.uid);
                self.running.remove(&del.uid);
                self.inherited.remove(&del.uid);
                ""
            }
            (RequestPayload::SnapshotSent(_), None) => {
                assert!(!self.synced, "it exits at a second SnapshotSent");
                self.synced = true;
                let named = std::mem::take(&mut self.named);
                self.running.retain(|uid, _| named.contains(uid));
                ""
            }
            (payload, netns) => panic!("it leaves at {payload:?} with {netns:?}"),
        }
    }

    /// It tries again what it did not manage, and manages.
    pub(super) fn retry(&mut self) {
        self.running.append(&mut self.pending);
    }

    fn add(&mut self, uid: String, served: Served, can_start: bool) -> &'static str {
        match self.running.get(&uid) {
            // Whatever it is called now.
            Some((netns, _)) if *netns == served.0 => {
                self.pending.remove(&uid);
                return "";
            }
            Some(_) => drop(self.running.remove(&uid)),
            None => {}
        }
        self.inherited.remove(&uid);
        if can_start {
            self.pending.remove(&uid);
            self.running.insert(uid, served);
            ""
        } else {
            self.pending.insert(uid, served);
            "failure to start proxy : Address already in use"
        }
    }
}
