//! What may be asked of a proxy, so that nothing else can be.

use std::{
    fmt,
    os::fd::{AsFd as _, BorrowedFd},
    sync::Arc,
};

use prost::Message as _;

use super::{Netns, PodUid, Workload, messages};

/// A request. The descriptor is part of the only kind that has one: ztunnel leaves at any other that brings one along,
/// and at an [`Add`](Self::Add) without.
#[derive(Clone, Debug)]
pub(super) enum Request {
    /// Serve a pod.
    Add {
        /// Which.
        uid: PodUid,
        /// Who that is.
        workload: Arc<Workload>,
        /// Where.
        netns: Netns,
    },
    /// Go on with a pod, if it is being served. Before [`SnapshotSent`](Self::SnapshotSent) only.
    Keep(PodUid),
    /// Serve a pod no longer. After [`SnapshotSent`](Self::SnapshotSent) only.
    Del(PodUid),
    /// All pods have been named. Once in a connection.
    SnapshotSent,
}

impl Request {
    /// As it goes over the wire.
    pub(super) fn encode(&self) -> Vec<u8> {
        let message = match self {
            Self::Add { uid, workload, .. } => messages::add(uid, workload),
            Self::Keep(uid) => messages::keep(uid),
            Self::Del(uid) => messages::del(uid),
            Self::SnapshotSent => messages::snapshot_sent(),
        };
        message.encode_to_vec()
    }

    /// The descriptor that goes along.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Add { netns, .. } => Some(netns.descriptor.as_fd()),
            Self::Keep(_) | Self::Del(_) | Self::SnapshotSent => None,
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add { uid, workload, .. } => write!(f, "add {} ({uid})", workload.pod),
            Self::Keep(uid) => write!(f, "keep {uid}"),
            Self::Del(uid) => write!(f, "del {uid}"),
            Self::SnapshotSent => write!(f, "snapshot sent"),
        }
    }
}
