//! What the agent finds on the node itself, as opposed to what the cluster's objects say.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    path::PathBuf,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Namespace and name of a pod: how people name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Index of a device in the node's network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct IfIndex(pub u32);

/// The kernel's name for a network namespace (`SO_NETNS_COOKIE`); never used twice while the kernel runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetnsCookie(pub u64);

/// A cgroup of the second version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Cgroup {
    /// Its number, as `bpf_skb_cgroup_id` has it: the inode of its directory.
    pub id: u64,
    /// How many levels it is below the root of the hierarchy.
    pub level: u32,
}

/// The host side of one of a pod's devices.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodDevice {
    /// Its index on the node.
    pub index: IfIndex,
    /// Its name on the node.
    pub name: String,
    /// The hardware address of the device's other side, inside the pod.
    pub mac: [u8; 6],
    /// Behind a bridge of the node.
    pub bridged: bool,
}

/// Where a pod's packets come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PodNetwork {
    /// A network namespace of its own.
    Own {
        /// Which.
        netns: NetnsCookie,
        /// Its devices.
        devices: Vec<PodDevice>,
        /// Where it is.
        path: PathBuf,
        /// What is inside, as far as that was asked for.
        inside: Inside,
    },
    /// The node's network namespace: told by its cgroup.
    Host {
        /// Which.
        cgroup: Cgroup,
        /// Where it is.
        path: PathBuf,
    },
}

/// What is inside a network namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Inside {
    /// Addresses of its devices, but for loopback and link-local ones.
    pub addresses: BTreeSet<IpAddr>,
    /// Its routes.
    pub routes: Vec<Route>,
}

/// How much of the inside of a network namespace is asked for; each is all that is before it, too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Depth {
    /// Its devices.
    #[default]
    Devices,
    /// Its addresses.
    Addresses,
    /// Its routes.
    Routes,
}

/// A route of the main table to a range of which no other route there has a better metric.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Route {
    /// Whereto.
    pub range: IpNet,
    /// The devices that it goes out by.
    pub devices: Vec<String>,
}

/// What the agent found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Addresses of the node's own devices, link-local ones included.
    pub own_addresses: BTreeSet<IpAddr>,
    /// Where the local pods' packets come from, or why that is not known (yet).
    pub pods: BTreeMap<PodName, Result<PodNetwork, String>>,
    /// The same for namespaces that somebody has enrolled, by their paths.
    pub enrolled: BTreeMap<PathBuf, Result<PodNetwork, String>>,
    /// The cgroups that settings, enrolments and annotations name, or why one is none.
    pub cgroups: BTreeMap<PathBuf, Result<Cgroup, String>>,
    /// The cgroups of sidecars that were found by their containers, or why one was not; they are among `cgroups`.
    pub sidecars: BTreeMap<PodName, Result<PathBuf, String>>,
    /// The cgroups around those of all pods.
    pub around_pods: Vec<Cgroup>,
    /// The node's own network namespace.
    pub netns: Option<NetnsCookie>,
}
