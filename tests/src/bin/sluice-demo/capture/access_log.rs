//! What a proxy says that it got.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde::Deserialize;

/// How long a line may take to be written.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection, as a proxy logs it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Entry {
    /// Which of its listeners got it: `outbound` or `inbound`.
    pub(super) listener: String,
    /// Who called.
    pub(super) caller: SocketAddr,
    /// Where the caller wanted to go.
    pub(super) original: SocketAddr,
}

/// A file that a proxy writes, a line of JSON for a connection.
#[derive(Debug)]
pub(super) struct AccessLog(PathBuf);

impl AccessLog {
    /// At a path; the file need not be there yet.
    pub(super) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The connection of this caller. `None` if it is not logged in time.
    pub(super) fn wait_for(&self, caller: SocketAddr) -> Result<Option<Entry>> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.find(caller)?;
            if found.is_some() || Instant::now() > deadline {
                return Ok(found);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The connection of this caller, if it is logged already.
    pub(super) fn find(&self, caller: SocketAddr) -> Result<Option<Entry>> {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        // What comes after the last line end is being written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        // A proxy may have a word of its own between.
        for line in whole.lines().filter(|line| line.starts_with('{')) {
            let entry: Entry = serde_json::from_str(line)
                .with_context(|| format!("{} has a line that is none: {line}", self.0.display()))?;
            if entry.caller == caller {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }
}
