//! What the CNI plugin asks.

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::facts::PodName;

/// A container's attachment to a network: what CNI tells one from another by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// The network's name.
    pub network: String,
    /// The container's, or sandbox's, name at its runtime.
    pub container_id: String,
    /// The interface inside.
    pub ifname: String,
}

/// A pod that a container runtime is about to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// By what it is called later.
    #[serde(flatten)]
    pub attachment: Attachment,
    /// The pod.
    pub pod: PodName,
    /// Its `metadata.uid`, if the runtime says it.
    pub uid: Option<String>,
    /// Where its network namespace is.
    pub netns: PathBuf,
    /// The addresses that the plugins before have given it.
    pub addresses: Vec<IpAddr>,
}

/// A verb of CNI, as far as the agent has to do with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum CniRequest {
    /// Know this pod; answered when it may send.
    Add {
        /// The pod.
        announcement: Announcement,
        /// How long to wait for that at the most, in milliseconds.
        wait_ms: u64,
    },
    /// Is everything as it was answered to `Add`?
    Check(Attachment),
    /// Forget this one.
    Del(Attachment),
    /// Forget all of a network but these.
    Gc {
        /// The network.
        network: String,
        /// What is still there.
        valid: Vec<Attachment>,
    },
    /// Could a pod be admitted?
    Status,
}

/// A pod may send: the rules know it, and its connections go where they shall.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// The rules since which it may.
    pub generation: u64,
}
