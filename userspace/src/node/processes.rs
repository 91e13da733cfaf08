//! The processes of pods, as `/proc` shows them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{AtFlags, OFlag, openat},
    sys::stat::{Mode, fstatat},
};

use super::kubepods::{self, Membership, PodUid, Start};

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
        let stat = process.and_then(|process| read(&process, Path::new("stat")));
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

/// Looks at every process for those of these pods. `told` is the cgroup that the agent was told to look in, from the root of
/// the hierarchy.
pub(super) fn walk(proc: &Path, told: &str, sought: &BTreeSet<PodUid>) -> io::Result<Walk> {
    let node = fs::metadata("/proc/self/ns/net")?;
    let node = (node.dev(), node.ino());
    // Without it the node is all there is: pods' cgroups are at the root.
    let first = fs::read_to_string(proc.join("1/cgroup")).unwrap_or_default();
    let start = Start::new(&first, told);
    let mut walk = Walk::default();
    let root = File::open(proc)?;
    for entry in fs::read_dir(proc)? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        walk.seen += 1;
        // A process may end while it is looked at. Most are none of those that are sought.
        let Ok(cgroups) = read(&root, &Path::new(&name).join("cgroup")) else {
            continue;
        };
        match owner(&cgroups, &start) {
            Ok(Some(pod)) if sought.contains(&pod) => {}
            Ok(_) => continue,
            Err(Unclear) => {
                walk.unclear += 1;
                continue;
            }
        }
        let Some((pod, netns, started)) = look(&proc.join(&name), &start) else {
            continue;
        };
        let processes = walk.pods.entry(pod).or_default();
        if netns == node {
            processes.of_node += 1;
            continue;
        }
        let process = Process { started, pid };
        let oldest = processes.namespaces.entry(netns).or_insert(process);
        *oldest = process.min(*oldest);
    }
    Ok(walk)
}

/// The pod, the network namespace and the start of a process. All is read through its directory, which stays that of this
/// process and of no later one with its number.
fn look(process: &Path, start: &Start) -> Option<(PodUid, (u64, u64), u64)> {
    let process = File::open(process).ok()?;
    let pod = owner(&read(&process, Path::new("cgroup")).ok()?, start).ok()??;
    let netns = fstatat(&process, "ns/net", AtFlags::empty()).ok()?;
    let started = started(&read(&process, Path::new("stat")).ok()?)?;
    Some((pod, (netns.st_dev, netns.st_ino), started))
}

/// The cgroups do not say whose the process is.
struct Unclear;

/// The pod that a process is in.
fn owner(cgroups: &str, start: &Start) -> Result<Option<PodUid>, Unclear> {
    match kubepods::read(cgroups, start) {
        Membership::Pod(owner) => Ok((!owner.is_monitor).then_some(owner.pod)),
        Membership::Nobody => Ok(None),
        Membership::Unclear => Err(Unclear),
    }
}

/// Reads a file of a process, whatever the names in it are made of.
fn read(directory: &File, name: &Path) -> io::Result<String> {
    let file = openat(directory, name, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())?;
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
