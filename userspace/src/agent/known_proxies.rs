//! Proxies that have connected once, kept in a file: while an agent starts, none has connected yet, and what they call must
//! not be captured, as it would be sent to themselves.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use tracing::warn;

use crate::{facts::Cgroup, node, project::Proxy, whole_file};

/// Them, by the directories of their cgroups.
#[derive(Debug)]
pub(super) struct KnownProxies {
    file: PathBuf,
    held: BTreeMap<PathBuf, Cgroup>,
}

impl KnownProxies {
    /// Reads what the last agent has left in the run directory.
    pub(super) fn open(run_dir: &Path) -> Self {
        let file = run_dir.join("proxies.json");
        let held = whole_file::read(&file).unwrap_or_else(|error| {
            // They connect again, and are known then.
            warn!(file = %file.display(), %error, "cannot read which proxies there were");
            None
        });
        Self {
            file,
            held: held.unwrap_or_default(),
        }
    }

    /// Adds those, and forgets whose cgroup has gone. Returns all.
    pub(super) fn with(&mut self, connected: impl Iterator<Item = Proxy>) -> Vec<Proxy> {
        let before = self.held.clone();
        // A cgroup that was made anew in the same place has another number, and is somebody else.
        self.held
            .retain(|path, cgroup| node::cgroup(path).is_ok_and(|now| now == *cgroup));
        self.held
            .extend(connected.map(|Proxy { cgroup, path }| (path, cgroup)));
        if self.held != before
            && let Err(error) = whole_file::write(&self.file, &self.held)
        {
            warn!(file = %self.file.display(), %error, "cannot write which proxies there are");
        }
        let all = self.held.iter();
        all.map(|(path, cgroup)| Proxy {
            cgroup: *cgroup,
            path: path.clone(),
        })
        .collect()
    }
}
