//! Child cgroups for the processes of pods.
//!
//! A pod's "process" is a thread of the test: the cgroups are threaded ones (`cgroup.type`), which a thread can
//! join alone. For that they need a common ancestor with the test's process, so the process moves itself into a
//! cgroup of its own, once.

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::OnceLock,
};

use anyhow::{Context as _, Result, anyhow};
use nix::unistd::gettid;

const PREFIX: &str = "sluice-tests-";

/// A threaded cgroup below the test's own, removed when it is dropped.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes one directly below the process's own.
    pub fn create(name: &str) -> Result<Self> {
        Self::below(home()?, name)
    }

    /// Makes one below this.
    pub fn child(&self, name: &str) -> Result<Self> {
        Self::below(&self.path, name)
    }

    fn below(parent: &Path, name: &str) -> Result<Self> {
        let path = parent.join(name);
        fs::create_dir(&path).with_context(|| format!("making the cgroup {}", path.display()))?;
        let cgroup = Self { path };
        let kind = cgroup.path.join("cgroup.type");
        fs::write(&kind, "threaded").with_context(|| format!("writing `threaded` to {}", kind.display()))?;
        Ok(cgroup)
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its directory as it is seen from a cgroup namespace of the process's own.
    pub fn path_in_namespace(&self) -> Result<PathBuf> {
        Ok(root()?.join(self.path.strip_prefix(home()?)?))
    }

    /// Moves the calling thread into it.
    pub fn join(&self) -> Result<()> {
        let threads = self.path.join("cgroup.threads");
        fs::write(&threads, gettid().to_string()).with_context(|| format!("writing to {}", threads.display()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A thread that just ended may still be counted; what is left is swept by a later run.
        let _ = fs::remove_dir(&self.path);
    }
}

/// The process's own cgroup, which it has moved into.
fn home() -> Result<&'static Path> {
    static HOME: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match HOME.get_or_init(|| move_home().map_err(|error| format!("{error:#}"))) {
        Ok(path) => Ok(path),
        Err(error) => Err(anyhow!("{error}")),
    }
}

fn move_home() -> Result<PathBuf> {
    let root = root()?;
    sweep(&root);
    let path = root.join(format!("{PREFIX}{}", process::id()));
    fs::create_dir(&path).with_context(|| format!("making the cgroup {}", path.display()))?;
    let procs = path.join("cgroup.procs");
    fs::write(&procs, process::id().to_string())
        .with_context(|| format!("writing to {}", procs.display()))?;
    Ok(path)
}

/// Where the hierarchy of the second version is mounted.
pub fn root() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").context("reading /proc/mounts")?;
    mounts
        .lines()
        .find_map(|line| {
            let mut fields = line.split(' ');
            let path = fields.nth(1)?;
            (fields.next()? == "cgroup2").then(|| PathBuf::from(path))
        })
        .context(
            "no cgroup2 file system is mounted: these tests need one (mount -t cgroup2 none /sys/fs/cgroup)",
        )
}

/// Removes what runs that were killed have left.
fn sweep(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        if !Path::new("/proc").join(pid).exists() {
            remove_tree(&entry.path());
        }
    }
}

fn remove_tree(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    // Not empty or gone already: not ours to worry about.
    let _ = fs::remove_dir(path);
}
