//! Proxies that have connected once, kept in a file: while an agent starts, none has connected yet, and what they call must
//! not be captured, as it would be sent to themselves.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use tracing::warn;

use crate::{facts::Cgroup, node, project::Proxy};

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
        let read = || -> io::Result<_> { Ok(serde_json::from_slice(&fs::read(&file)?)?) };
        let held = read().unwrap_or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                // They connect again, and are known then.
                warn!(file = %file.display(), %error, "cannot read which proxies there were");
            }
            BTreeMap::new()
        });
        Self { file, held }
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
            && let Err(error) = self.write()
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

    fn write(&self) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(&self.held)?;
        let new = self.file.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(&new, &self.file)
    }
}
