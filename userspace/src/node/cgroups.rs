//! Cgroups of the second version: where they are mounted, which they are, and where those of pods are.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use nix::sched::{CloneFlags, setns};

use super::{
    Error,
    kubepods::{self, ContainerId, PodUid},
};
use crate::facts::Cgroup;

/// At which level the kernel has the root that this process sees: it is in one cgroup namespace for good. On a node that is
/// itself a container (kind, k3d) that is not the kernel's own root, from which its programs count.
static ROOT_LEVEL: OnceLock<Option<u32>> = OnceLock::new();

/// Takes the calling thread, and those that it makes, to the cgroup namespace of process 1. In that of a container, paths
/// in `/proc/PID/cgroup` and roots of mounts are told from the container's own cgroup, and say nothing of others.
pub fn enter_cgroup_namespace(proc: &Path) -> io::Result<()> {
    let path = proc.join("1/ns/cgroup");
    let node = fs::metadata(&path)?;
    let own = fs::metadata("/proc/thread-self/ns/cgroup")?;
    if (node.dev(), node.ino()) == (own.dev(), own.ino()) {
        return Ok(());
    }
    Ok(setns(File::open(path)?, CloneFlags::CLONE_NEWCGROUP)?)
}

/// Where the whole of the second version of cgroups is mounted. A container has one of its own cgroup besides, which is
/// of no use.
pub fn cgroup_mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").ok()?;
    mounts.lines().find_map(whole_mount)
}

/// The place of a line of `mountinfo` (proc(5)), if it is the root of cgroups of the second version.
fn whole_mount(line: &str) -> Option<PathBuf> {
    let (mount, kind) = line.split_once(" - ")?;
    let mut fields = mount.split(' ').skip(3);
    let (root, place) = (fields.next()?, fields.next()?);
    (root == "/" && kind.starts_with("cgroup2 ")).then(|| PathBuf::from(place))
}

/// Whether the root that the calling thread sees is the kernel's own.
pub fn sees_all_cgroups() -> bool {
    /// The first namespace of that kind (`PROC_CGROUP_INIT_INO` in `include/linux/proc_ns.h`).
    const FIRST: u64 = 0xEFFF_FFFB;
    fs::metadata("/proc/thread-self/ns/cgroup").is_ok_and(|own| own.ino() == FIRST)
}

/// The number of the root of [`cgroup_mount`].
pub fn cgroup_root() -> Option<u64> {
    Some(fs::metadata(cgroup_mount()?).ok()?.ino())
}

/// Says at which level the kernel has [`cgroup_root`]; `None` if that cannot be told, and then no cgroup is. Counts once,
/// before the first cgroup is identified.
pub fn set_root_level(level: Option<u32>) {
    // It cannot change, so whoever was first has said the same.
    let _ = ROOT_LEVEL.set(level);
}

/// Identifies a cgroup by its path.
pub fn cgroup(path: &Path) -> Result<Cgroup, Error> {
    let root = cgroup_mount().ok_or(Error::NoCgroups)?;
    cgroup_below(&root, path)
}

fn cgroup_below(root: &Path, path: &Path) -> Result<Cgroup, Error> {
    let fail = |reason: String| Error::Cgroup {
        path: path.to_owned(),
        root: root.to_owned(),
        reason,
    };
    let below = path
        .strip_prefix(root)
        .map_err(|_| fail("it lies elsewhere".to_owned()))?;
    let level = below.components().count();
    if level == 0 {
        return Err(fail("it is the root".to_owned()));
    }
    let above = ROOT_LEVEL.get().copied().unwrap_or(Some(0));
    let above = above.ok_or_else(|| Error::UnknownLevel {
        root: root.to_owned(),
    })?;
    let id = fs::metadata(path).map_err(|error| fail(error.to_string()))?.ino();
    Ok(Cgroup {
        id,
        level: above + u32::try_from(level).map_err(|error| fail(error.to_string()))?,
    })
}

/// Where the cgroups of pods are.
#[derive(Clone, Debug)]
pub(super) struct PodCgroups {
    mount: PathBuf,
    /// What the kubelet's names are relative to; the first that has them counts.
    starts: Vec<PathBuf>,
}

impl PodCgroups {
    /// `proc` shows process 1 of the node, `told` is the cgroup that the agent was told to look in.
    pub(super) fn open(proc: &Path, told: Option<&Path>) -> Result<Self, Error> {
        let mount = cgroup_mount().ok_or(Error::NoCgroups)?;
        let first = fs::read_to_string(proc.join("1/cgroup")).unwrap_or_default();
        let first = first.lines().find_map(|line| line.strip_prefix("0::/"));
        let first = mount.join(first.unwrap_or_default());
        let around = first.ancestors().take_while(|path| path.starts_with(&mount));
        let starts = told.into_iter().chain(around).map(Path::to_owned).collect();
        Ok(Self { mount, starts })
    }

    /// The part of the path below the root of the hierarchy.
    pub(super) fn below_root(path: &Path) -> String {
        let below = cgroup_mount().and_then(|mount| path.strip_prefix(mount).ok().map(Path::to_owned));
        below.unwrap_or_default().display().to_string()
    }

    /// The cgroup of a pod.
    pub(super) fn of_pod(&self, pod: &PodUid) -> Result<(PathBuf, Cgroup), Error> {
        let places = self
            .starts
            .iter()
            .flat_map(|start| kubepods::directories(pod).map(|name| start.join(name)));
        let found = self.first(places);
        found.unwrap_or_else(|| {
            let mount = self.mount.clone();
            Err(if self.roots().any(|root| root.is_dir()) {
                Error::NoPodCgroup {
                    pod: pod.clone(),
                    mount,
                }
            } else {
                Error::NoPods { mount }
            })
        })
    }

    /// The cgroups around those of all pods.
    pub(super) fn around_pods(&self) -> Vec<Cgroup> {
        let found = self
            .roots()
            .filter_map(|root| cgroup_below(&self.mount, &root).ok());
        let found: BTreeSet<_> = found.collect();
        found.into_iter().collect()
    }

    fn roots(&self) -> impl Iterator<Item = PathBuf> {
        let starts = self.starts.iter();
        starts.flat_map(|start| kubepods::roots().map(|name| start.join(name)))
    }

    /// The cgroup of a container of a pod.
    pub(super) fn of_container(
        &self,
        pod: &PodUid,
        container: &ContainerId,
    ) -> Result<(PathBuf, Cgroup), Error> {
        let (around, _) = self.of_pod(pod)?;
        let found = self.first(container.directories().map(|name| around.join(name)));
        found.unwrap_or_else(|| {
            Err(Error::NoContainerCgroup {
                container: container.clone(),
                pod: around,
            })
        })
    }

    fn first(&self, mut places: impl Iterator<Item = PathBuf>) -> Option<Result<(PathBuf, Cgroup), Error>> {
        let place = places.find(|place| place.is_dir())?;
        Some(cgroup_below(&self.mount, &place).map(|cgroup| (place, cgroup)))
    }
}

#[cfg(test)]
#[path = "tests/cgroups.rs"]
mod tests;
