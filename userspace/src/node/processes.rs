//! The processes of pods, as `/proc` shows them.

use std::{
    collections::BTreeMap,
    ffi::CStr,
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{AtFlags, OFlag, openat},
    sys::stat::{Mode, fstatat},
};

use super::kubepods::{self, Membership, PodUid};

/// The fields of `/proc/PID/stat` after the name, which may hold anything: the state, and the 19th after it.
const START_FIELD: usize = 19;
/// What a file of a process hardly ever exceeds.
const ROOM: usize = 1024;

/// A process, told from a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Process {
    /// When it was started, in ticks since boot.
    started: u64,
    pid: u32,
}

/// The processes of a pod: for each network namespace that they are in, the oldest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Processes {
    /// By device and inode.
    pub(super) namespaces: BTreeMap<(u64, u64), Process>,
    /// How many are in the node's own.
    pub(super) of_node: usize,
}

/// What a walk through `/proc` brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Walk {
    pub(super) pods: BTreeMap<PodUid, Processes>,
    /// How many processes were looked at.
    pub(super) seen: usize,
    /// How many have cgroups that do not say whose they are.
    pub(super) unclear: usize,
}

impl Process {
    pub(super) const fn pid(self) -> u32 {
        self.pid
    }

    /// The file that stands for its network namespace.
    pub(super) fn netns(self, proc: &Path) -> PathBuf {
        proc.join(self.pid.to_string()).join("ns/net")
    }

    /// Whether it is still there.
    pub(super) fn runs(self, proc: &Path) -> bool {
        let process = File::open(proc.join(self.pid.to_string()));
        let stat = process.and_then(|process| read(&process, c"stat"));
        stat.is_ok_and(|stat| started(&stat) == Some(self.started))
    }
}

impl Processes {
    /// The oldest first.
    pub(super) fn oldest(&self) -> Vec<Process> {
        let mut oldest: Vec<_> = self.namespaces.values().copied().collect();
        oldest.sort();
        oldest
    }
}

/// Looks at every process. `below` is the cgroup that the agent was told to look in, from the root of the hierarchy.
pub(super) fn walk(proc: &Path, below: &str) -> io::Result<Walk> {
    let own = fs::metadata("/proc/self/ns/net")?;
    let own = (own.dev(), own.ino());
    // Without it the node is all there is: pods' cgroups are at the root.
    let node = fs::read_to_string(proc.join("1/cgroup")).unwrap_or_default();
    let mut walk = Walk::default();
    for entry in fs::read_dir(proc)? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        walk.seen += 1;
        // Everything is read through this directory, which stays that of this process and of no later one. It may end
        // meanwhile.
        let Ok(process) = File::open(entry.path()) else {
            continue;
        };
        let Ok(cgroups) = read(&process, c"cgroup") else {
            continue;
        };
        let owner = match kubepods::read(&cgroups, &node, below) {
            Membership::Pod(owner) if !owner.is_monitor => owner,
            Membership::Unclear => {
                walk.unclear += 1;
                continue;
            }
            Membership::Pod(_) | Membership::Nobody => continue,
        };
        let (Ok(netns), Ok(stat)) = (
            fstatat(&process, c"ns/net", AtFlags::empty()),
            read(&process, c"stat"),
        ) else {
            continue;
        };
        let Some(started) = started(&stat) else { continue };
        let netns = (netns.st_dev, netns.st_ino);
        let processes = walk.pods.entry(owner.pod).or_default();
        if netns == own {
            processes.of_node += 1;
            continue;
        }
        let process = Process { started, pid };
        let oldest = processes.namespaces.entry(netns).or_insert(process);
        *oldest = process.min(*oldest);
    }
    Ok(walk)
}

/// Reads a file of a process, with whatever a name in it was made of.
fn read(process: &File, name: &CStr) -> io::Result<String> {
    let file = openat(process, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    let mut bytes = Vec::with_capacity(ROOM);
    File::from(file).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// When a process was started: field 22 of its `stat`. Its name, the second, is what it calls itself, parentheses and all.
fn started(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_ascii_whitespace().nth(START_FIELD)?.parse().ok()
}

#[cfg(test)]
#[path = "tests/processes.rs"]
mod tests;
