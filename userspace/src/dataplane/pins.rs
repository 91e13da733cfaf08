//! Where everything is pinned, so that it outlives the agent.
//!
//! ```text
//! <bpffs>/mounted           this directory is a bpffs that we mounted
//! <bpffs>/v1/maps/RULES
//! <bpffs>/v1/programs/pod_out
//! <bpffs>/v1/links/7-pod_out      by device; clsact filters have a directory of that name as a note
//! <bpffs>/v1/links/cgroup-connect4
//! <bpffs>/v1/links/proxy-1234     by the number of the proxy's cgroup
//! <bpffs>/v1/links/pod-4711-2-capture_in   inside a pod: by namespace and device; see `inpod`
//! ```

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use ebpf::rules::ABI;
use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
    unistd::{AccessFlags, access},
};

use super::Error;
use crate::facts::IfIndex;

/// Names in a bpffs have no dots (`bpf_lookup` in `kernel/bpf/inode.c`).
const MOUNTED: &str = "mounted";
/// What the pin of a program on the cgroup begins with.
const CGROUP: &str = "cgroup-";
/// What the pin of a program on a proxy's cgroup begins with.
const PROXY: &str = "proxy-";
/// What the pin of a program inside a pod begins with; see `inpod`.
const POD: &str = "pod-";

/// The directories of one ABI version.
#[derive(Clone, Debug)]
pub(super) struct Pins {
    bpffs: PathBuf,
    abi: u32,
}

impl Pins {
    /// Those of our version.
    pub(super) fn new(bpffs: &Path) -> Self {
        Self {
            bpffs: bpffs.to_owned(),
            abi: ABI,
        }
    }

    /// Those of every version that is there, the newest first.
    pub(super) fn all(bpffs: &Path) -> Result<Vec<Self>, Error> {
        let names = names(bpffs)?;
        let mut versions: Vec<u32> = names.iter().filter_map(|name| parse_version(name)).collect();
        versions.sort_unstable();
        let pins = versions.into_iter().rev().map(|abi| Self {
            bpffs: bpffs.to_owned(),
            abi,
        });
        Ok(pins.collect())
    }

    /// Those of every other version that is there, the newest first.
    pub(super) fn others(&self) -> Result<Vec<Self>, Error> {
        let mut others = Self::all(&self.bpffs)?;
        others.retain(|other| other.abi != self.abi);
        Ok(others)
    }

    pub(super) fn mounted(&self) -> PathBuf {
        self.bpffs.join(MOUNTED)
    }

    pub(super) fn version(&self) -> PathBuf {
        self.bpffs.join(format!("v{}", self.abi))
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.version().join("maps").join(name)
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.version().join("programs").join(name)
    }

    pub(super) fn links(&self) -> PathBuf {
        self.version().join("links")
    }

    pub(super) fn device_link(&self, device: IfIndex, hook: &str) -> PathBuf {
        self.links().join(format!("{}-{hook}", device.0))
    }

    pub(super) fn cgroup_link(&self, hook: &str) -> PathBuf {
        self.links().join(format!("{CGROUP}{hook}"))
    }

    pub(super) fn proxy_link(&self, cgroup: u64) -> PathBuf {
        self.links().join(format!("{PROXY}{cgroup}"))
    }

    /// Makes the directories, on a bpffs.
    pub(super) fn prepare(&self) -> Result<(), Error> {
        make_dir(&self.bpffs)?;
        if !is_bpffs(&self.bpffs)? {
            mount(
                Some("bpf"),
                &self.bpffs,
                Some("bpf"),
                MsFlags::empty(),
                Some("mode=0700"),
            )
            .map_err(|errno| Error::Mount {
                path: self.bpffs.clone(),
                source: errno.into(),
            })?;
            make_dir(&self.mounted())?;
        }
        for name in ["maps", "programs", "links"] {
            make_dir(&self.version().join(name))?;
        }
        let version = self.version();
        access(&version, AccessFlags::W_OK).map_err(|errno| Error::Directory {
            path: version,
            source: errno.into(),
        })
    }
}

/// The device and the hook of a pin, by its name.
pub(super) fn parse_device_link(name: &str) -> Option<(IfIndex, &str)> {
    let (index, hook) = name.split_once('-')?;
    Some((IfIndex(index.parse().ok()?), hook))
}

/// The ABI number of a directory.
fn parse_version(name: &str) -> Option<u32> {
    name.strip_prefix('v')?.parse().ok()
}

/// The hook of a pin on the cgroup, by its name.
pub(super) fn parse_cgroup_link(name: &str) -> Option<&str> {
    name.strip_prefix(CGROUP)
}

/// Whether this is the pin of a program inside a pod.
pub(super) fn is_pod_link(name: &str) -> bool {
    name.starts_with(POD)
}

/// The number of a proxy's cgroup, by the name of the pin.
pub(super) fn parse_proxy_link(name: &str) -> Option<u64> {
    name.strip_prefix(PROXY)?.parse().ok()
}

/// Whether `path` is on a bpffs.
pub(super) fn is_bpffs(path: &Path) -> Result<bool, Error> {
    match statfs(path) {
        Ok(stat) => Ok(stat.filesystem_type() == BPF_FS_MAGIC),
        Err(errno) => Err(Error::Directory {
            path: path.to_owned(),
            source: errno.into(),
        }),
    }
}

/// Makes a directory and those above it, for root alone.
pub(super) fn make_dir(path: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| Error::Directory {
            path: path.to_owned(),
            source,
        })
}

/// Removes a pin, if it is there.
pub(super) fn remove(path: &Path) -> Result<bool, Error> {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(Error::Pin {
            path: path.to_owned(),
            source,
        }),
    }
}

/// The names in a directory; none if it is not there.
pub(super) fn names(path: &Path) -> Result<Vec<String>, Error> {
    let entries = match fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => {
            return Err(Error::Directory {
                path: path.to_owned(),
                source,
            });
        }
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|source| Error::Directory {
            path: path.to_owned(),
            source,
        })?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_other_versions_is_the_first() {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["v2", "v10", "v9", &format!("v{ABI}"), "vx", "mounted"] {
            make_dir(&directory.path().join(name)).expect("a directory in it");
        }
        let others = Pins::new(directory.path()).others().expect("a directory");
        let names: Vec<_> = others.iter().map(Pins::version).collect();
        assert_eq!(names, ["v10", "v9", "v2"].map(|name| directory.path().join(name)));
    }

    #[test]
    fn the_name_of_a_pin_reads_back() {
        let pins = Pins::new(Path::new("/x"));
        let path = pins.device_link(IfIndex(7), "node_out_ip");
        assert_eq!(path, Path::new("/x").join(format!("v{ABI}/links/7-node_out_ip")));
        assert_eq!(
            parse_device_link("7-node_out_ip"),
            Some((IfIndex(7), "node_out_ip"))
        );
        assert_eq!(parse_device_link("cgroup-connect4"), None);
        assert_eq!(parse_device_link("pod-4711-2-capture_in"), None);
    }
}
