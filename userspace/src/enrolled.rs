//! Network namespaces that somebody has enrolled by hand: containers of other runtimes, test rigs.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::facts::PodName;

/// Where the proxy of an enrolled namespace listens.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// In that namespace, on the ports 15001 (calls of the namespace) and 15006 (calls to it).
    #[default]
    InPod,
    /// In the node's network namespace, with a transparent listener; the agent must run with --node-proxy.
    Node,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Enrolled {
    /// A path to the namespace, as `/run/netns/a` or `/proc/1234/ns/net`.
    pub netns: PathBuf,
    /// Where its proxy listens.
    pub mode: Mode,
    /// The pod that it is; absent for a namespace that is no pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<PodName>,
    /// The cgroups that the proxy's processes are in.
    pub proxy_cgroups: Vec<PathBuf>,
}
