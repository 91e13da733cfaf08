//! Why a pod was not found.

use std::{net::IpAddr, path::PathBuf};

use super::{Error, kubepods::PodUid};

/// Why a pod was not found.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfound {
    /// It has no address by which what is found could be verified.
    #[error("it has no address yet (status.podIPs)")]
    NoAddress,
    /// It has none.
    #[error("none of {seen} processes in {proc} is in its cgroup (pod{uid}): have its containers started?")]
    NoProcess {
        /// The pod.
        uid: PodUid,
        /// Where was looked.
        proc: PathBuf,
        /// At how many.
        seen: usize,
    },
    /// It has none that can be seen.
    #[error(
        "none of {seen} processes in {proc} is in its cgroup (pod{uid}), and {unclear} are in cgroups that do not say \
         whose they are: the agent must be in the node's cgroup namespace"
    )]
    Unclear {
        /// The pod.
        uid: PodUid,
        /// Where was looked.
        proc: PathBuf,
        /// At how many.
        seen: usize,
        /// How many are unclear.
        unclear: usize,
    },
    /// They are where no pod is.
    #[error(
        "its {0} processes are in the node's own network namespace, and it does not say spec.hostNetwork"
    )]
    OfNode(usize),
    /// They are where another pod is.
    #[error(
        "its process {pid} is in a network namespace that has {has} and none of its addresses ({})",
        list(wanted)
    )]
    Elsewhere {
        /// The oldest process in there.
        pid: u32,
        /// The addresses in there.
        has: String,
        /// Its own.
        wanted: Vec<IpAddr>,
    },
    /// The process has ended while it was looked at.
    #[error("its process {0} has just ended")]
    Ended(u32),
    /// The node cannot tell.
    #[error(transparent)]
    Node(#[from] Error),
}

/// Addresses, for people.
pub(super) fn list<'a>(addresses: impl IntoIterator<Item = &'a IpAddr>) -> String {
    let addresses: Vec<_> = addresses.into_iter().map(ToString::to_string).collect();
    if addresses.is_empty() {
        "no address".to_owned()
    } else {
        addresses.join(", ")
    }
}
