//! Taking everything away.

use std::{fs, io, path::Path};

use nix::{mount::umount, net::if_::if_nameindex};
use tracing::debug;

use super::{
    Error, Options, cgroups,
    devices::Hook,
    filters,
    pins::{self, Pins},
    programs::CGROUP_PROGRAMS,
};
use crate::{facts::IfIndex, sys::bpf::Link};

/// Removes programs, maps and directories, of every ABI version; no agent needs to run, and none may. Returns what was
/// removed, a line each.
///
/// To be called in the node's network namespace. A second call finds nothing.
pub fn detach(options: &Options) -> Result<Vec<String>, Error> {
    let mut removed = Vec::new();
    let bpffs = &options.bpffs;
    if !bpffs.exists() {
        return Ok(removed);
    }
    let pins = Pins::new(bpffs);
    detach_links(&pins, &mut removed)?;
    for version in pins::names(bpffs)?.iter().filter(|name| is_version(name)) {
        remove_tree(&bpffs.join(version), &mut removed)?;
    }
    if pins::remove(&pins.mounted())? {
        umount(bpffs).map_err(|errno| Error::Mount {
            path: bpffs.clone(),
            source: errno.into(),
        })?;
        removed.push(format!("the bpffs on {}", bpffs.display()));
    }
    // What else is in it is none of ours, nor is a directory that somebody mounted something on.
    if let Err(error) = fs::remove_dir(bpffs) {
        debug!(path = %bpffs.display(), %error, "the directory stays");
    }
    Ok(removed)
}

fn detach_links(pins: &Pins, removed: &mut Vec<String>) -> Result<(), Error> {
    for name in pins::names(&pins.links())? {
        if let Some((device, program)) = pins::parse_device_link(&name)
            && take_off(&pins.links().join(&name), device, program)?
        {
            let device = name_of(device).unwrap_or_else(|| format!("device {}", device.0));
            removed.push(format!("program {program} from {device}"));
        }
    }
    for (name, _) in CGROUP_PROGRAMS {
        if cgroups::detach(pins, name)? {
            removed.push(format!("program {name} from the cgroup"));
        }
    }
    Ok(())
}

/// Takes a program off a device, by its link or its filter. `false` if the device is gone.
pub(super) fn take_off(path: &Path, device: IfIndex, program: &str) -> Result<bool, Error> {
    let found = fs::symlink_metadata(path).map_err(|source| Error::Pin {
        path: path.to_owned(),
        source,
    })?;
    let was_there = if found.is_dir() {
        match (name_of(device), Hook::of(program)) {
            (Some(name), Some(hook)) => filters::remove(&name, hook)?,
            (_, _) => false,
        }
    } else {
        // Fails when the device has gone, and the link is detached already.
        Link::from_pin(path).and_then(|link| link.detach()).is_ok()
    };
    pins::remove(path)?;
    Ok(was_there)
}

fn name_of(device: IfIndex) -> Option<String> {
    let devices = if_nameindex().ok()?;
    let found = devices.iter().find(|found| found.index() == device.0)?;
    Some(found.name().to_string_lossy().into_owned())
}

fn is_version(name: &str) -> bool {
    name.strip_prefix('v')
        .is_some_and(|number| number.parse::<u32>().is_ok())
}

fn remove_tree(path: &Path, removed: &mut Vec<String>) -> Result<(), Error> {
    let fail = |source: io::Error| Error::Pin {
        path: path.to_owned(),
        source,
    };
    for name in pins::names(path)? {
        let path = path.join(name);
        if fs::symlink_metadata(&path).map_err(fail)?.is_dir() {
            remove_tree(&path, removed)?;
        } else if pins::remove(&path)? {
            removed.push(format!("pin {}", path.display()));
        }
    }
    fs::remove_dir(path).map_err(fail)
}
