//! Programs on the cgroup that bounds ours, and on those of the proxies.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use aya::Ebpf;
use tracing::{debug, warn};

use super::{
    Error,
    pins::{self, Pins},
    programs::{self, CGROUP_PROGRAMS, PROXY_PROGRAM},
};
use crate::sys::bpf::{AttachType, Link, Target};

/// Attaches every cgroup program to `root`, or takes over the links that are there; takes them away if there is no root.
pub(super) fn sync(ebpf: &Ebpf, pins: &Pins, root: Option<&Path>) -> Result<(), Error> {
    for (name, place) in CGROUP_PROGRAMS {
        match root {
            Some(root) => attach(ebpf, pins.cgroup_link(name), root, name, place)?,
            None => detach(&pins.cgroup_link(name))?,
        }
    }
    Ok(())
}

/// Puts back what somebody has taken off the root. Returns how many programs that were.
pub(super) fn mend(ebpf: &Ebpf, pins: &Pins, root: &Path) -> Result<u64, Error> {
    let mut mended = 0;
    for (name, place) in CGROUP_PROGRAMS {
        let pin = pins.cgroup_link(name);
        let current = programs::number(ebpf, name)?;
        let runs = |link: Link| {
            link.info()
                .is_ok_and(|info| info.program == current && info.target != GONE)
        };
        if !Link::from_pin(&pin).is_ok_and(runs) {
            attach(ebpf, pin, root, name, place)?;
            warn!(hook = name, "our program had been taken off the cgroup");
            mended += 1;
        }
    }
    Ok(mended)
}

/// What a link says that was detached, or whose cgroup has gone.
const GONE: Target = Target::Cgroup(0);

/// A cgroup of a proxy.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProxyCgroup {
    /// Its number.
    pub id: u64,
    /// Its directory.
    pub path: PathBuf,
}

/// Has the proxies' question for the original destination answered, in these cgroups and no others; returns what did not
/// work.
pub(super) fn sync_proxies(ebpf: &Ebpf, pins: &Pins, proxies: &BTreeSet<ProxyCgroup>) -> Vec<Error> {
    let mut errors = Vec::new();
    for proxy in proxies {
        let pin = pins.proxy_link(proxy.id);
        errors.extend(attach(ebpf, pin, &proxy.path, PROXY_PROGRAM, AttachType::Getsockopt).err());
    }
    let names = match pins::names(&pins.links()) {
        Ok(names) => names,
        Err(error) => {
            errors.push(error);
            Vec::new()
        }
    };
    for name in names {
        if let Some(id) = pins::parse_proxy_link(&name)
            && !proxies.iter().any(|proxy| proxy.id == id)
        {
            errors.extend(detach(&pins.links().join(name)).err());
        }
    }
    errors
}

fn attach(
    ebpf: &Ebpf,
    path: PathBuf,
    root: &Path,
    name: &'static str,
    place: AttachType,
) -> Result<(), Error> {
    let fail = |source| Error::Cgroup {
        hook: name,
        path: root.to_owned(),
        source,
    };
    let directory = File::open(root).map_err(fail)?;
    let id = directory.metadata().map_err(fail)?.ino();
    let program = programs::fd(ebpf, name)?;
    match Link::from_pin(&path) {
        Ok(link) if link.info().is_ok_and(|info| info.target == Target::Cgroup(id)) => {
            return link.replace(program).map_err(fail);
        }
        Ok(_) => debug!(hook = name, "the pinned link is on another cgroup"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(Error::Pin { path, source }),
    }
    let link = Link::on_cgroup(program, directory.as_fd(), place).map_err(fail)?;
    let new = path.with_file_name(format!("new-{name}"));
    pins::remove(&new)?;
    link.pin(&new).map_err(|source| Error::Pin {
        path: new.clone(),
        source,
    })?;
    // The kernel does not take one program twice, but this one is new: for a moment both are attached.
    detach(&path)?;
    fs::rename(&new, &path).map_err(|source| Error::Pin { path, source })
}

fn detach(path: &Path) -> Result<(), Error> {
    if let Ok(link) = Link::from_pin(path) {
        // A link whose cgroup is gone is detached already.
        let _ = link.detach();
    }
    pins::remove(path).map(drop)
}
