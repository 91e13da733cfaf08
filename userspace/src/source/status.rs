//! How a source is, for those who ask.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// What sort of source it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceKind {
    /// There is no cluster.
    #[default]
    Nothing,
    /// A directory of manifests.
    Directory,
    /// An API server.
    Kubernetes,
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "nothing",
            Self::Directory => "directory",
            Self::Kubernetes => "kubernetes",
        })
    }
}

/// How a source is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceStatus {
    /// What sort it is.
    pub kind: SourceKind,
    /// How long ago the last word came on that of which there has been none for longest; absent before the first.
    pub age_seconds: Option<u64>,
    /// Each thing that is watched, by a name of its own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kinds: BTreeMap<String, KindStatus>,
}

impl SourceStatus {
    pub(super) const fn of(kind: SourceKind) -> Self {
        Self {
            kind,
            age_seconds: None,
            kinds: BTreeMap::new(),
        }
    }
}

/// How one thing that is watched is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindStatus {
    /// In a word.
    pub state: WatchState,
    /// Group and version as the server has them; absent as long as it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// How long ago the server's last word on it came: an object, or that there is none (a bookmark).
    pub age_seconds: Option<u64>,
    /// How many objects there are.
    pub objects: usize,
}

/// How a watch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WatchState {
    /// Its objects have not all been listed yet.
    Listing,
    /// What changes comes at once.
    Watching,
    /// The server has no such kind.
    Absent,
    /// It is tried again and again; what was last known stays.
    Failing,
}

impl fmt::Display for WatchState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listing => "listing",
            Self::Watching => "watching",
            Self::Absent => "absent",
            Self::Failing => "failing",
        })
    }
}
