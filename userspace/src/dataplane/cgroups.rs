//! Programs on the cgroup that bounds ours.

use std::{
    fs::{self, File},
    io,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::Path,
};

use aya::Ebpf;
use tracing::debug;

use super::{
    Error,
    pins::{self, Pins},
    programs::{self, CGROUP_PROGRAMS},
};
use crate::sys::bpf::{AttachType, Link, Target};

/// Attaches every cgroup program to `root`, or takes over the links that are there; takes them away if there is no root.
pub(super) fn sync(ebpf: &Ebpf, pins: &Pins, root: Option<&Path>) -> Result<(), Error> {
    for (name, place) in CGROUP_PROGRAMS {
        match root {
            Some(root) => attach(ebpf, pins, root, name, place)?,
            None => detach(pins, name)?,
        }
    }
    Ok(())
}

fn attach(ebpf: &Ebpf, pins: &Pins, root: &Path, name: &'static str, place: AttachType) -> Result<(), Error> {
    let fail = |source| Error::Cgroup {
        hook: name,
        path: root.to_owned(),
        source,
    };
    let directory = File::open(root).map_err(fail)?;
    let id = directory.metadata().map_err(fail)?.ino();
    let program = programs::fd(ebpf, name)?;
    let path = pins.cgroup_link(name);
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
    detach(pins, name)?;
    fs::rename(&new, &path).map_err(|source| Error::Pin { path, source })
}

fn detach(pins: &Pins, name: &str) -> Result<(), Error> {
    let path = pins.cgroup_link(name);
    if let Ok(link) = Link::from_pin(&path) {
        // A link whose cgroup is gone is detached already.
        let _ = link.detach();
    }
    pins::remove(&path).map(drop)
}
