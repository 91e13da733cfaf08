//! Where objects come from, and the stores that hold them.
//!
//! Every source fills the same [`Stores`], so that whatever works with one works with the others.

mod directory;
mod document;
mod file;
pub mod kubernetes;
mod status;
mod stores;
mod watch;

use std::path::Path;

use kube::Client;

pub use self::{
    directory::{Directory, OpenError},
    kubernetes::Kubernetes,
    status::{KindStatus, SourceKind, SourceStatus, WatchState},
    stores::{AnyObject, Stores, UnknownKind},
};
use crate::problem::Problem;

/// What a look at the source brought.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// The objects.
    pub stores: Stores,
    /// What is wrong with them, or with how they come here.
    pub problems: Vec<Problem>,
}

/// Where the cluster's objects come from.
pub enum Source {
    /// There is no cluster.
    Nothing,
    /// Files that describe one.
    Directory(Directory),
    /// Its API server.
    Kubernetes(Kubernetes),
}

impl Source {
    /// A directory of manifests.
    pub fn directory(path: &Path) -> Result<Self, OpenError> {
        Directory::open(path).map(Self::Directory)
    }

    /// Whether nothing can ever come from it.
    pub const fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    /// The client of the cluster's API server, if that is the source.
    pub const fn client(&self) -> Option<&Client> {
        match self {
            Self::Nothing | Self::Directory(_) => None,
            Self::Kubernetes(kubernetes) => Some(kubernetes.client()),
        }
    }

    /// Waits until there is reason to [`load`](Self::load) again. May be dropped and called again at any time.
    pub async fn changed(&mut self) {
        match self {
            Self::Nothing => std::future::pending().await,
            Self::Directory(directory) => directory.changed().await,
            Self::Kubernetes(kubernetes) => kubernetes.changed().await,
        }
    }

    /// All objects as they are known now. Blocks, as reading files does.
    pub fn load(&mut self) -> Loaded {
        match self {
            Self::Nothing => {
                let mut loaded = Loaded::default();
                loaded.stores.set_complete(true);
                loaded
            }
            Self::Directory(directory) => directory.load(),
            Self::Kubernetes(kubernetes) => kubernetes.load(),
        }
    }

    /// How old what it knows is.
    pub fn status(&self) -> SourceStatus {
        match self {
            Self::Nothing => SourceStatus::of(SourceKind::Nothing),
            Self::Directory(_) => SourceStatus::of(SourceKind::Directory),
            Self::Kubernetes(kubernetes) => kubernetes.status(),
        }
    }
}

#[cfg(test)]
mod tests;
