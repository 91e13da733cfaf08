//! Taking everything away.

use std::{collections::BTreeSet, fs, io, path::Path};

use nix::{mount::umount, net::if_::if_nameindex};
use tracing::debug;

use super::{
    Error, Options,
    devices::Hook,
    filters,
    pins::{self, Pins},
    qdisc,
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
    for pins in Pins::all(bpffs)? {
        removed.extend(detach_version(&pins)?);
    }
    if pins::remove(&Pins::new(bpffs).mounted())? {
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

/// Removes what is pinned by one version.
pub(super) fn detach_version(pins: &Pins) -> Result<Vec<String>, Error> {
    let mut removed = Vec::new();
    detach_links(&pins.links(), &mut removed)?;
    remove_tree(&pins.version(), &mut removed)?;
    Ok(removed)
}

fn detach_links(links: &Path, removed: &mut Vec<String>) -> Result<(), Error> {
    for name in in_order(pins::names(links)?) {
        let path = links.join(&name);
        let from = match pins::parse_device_link(&name) {
            Some((device, what)) => {
                // Asked before the device can lose its name.
                let on = name_of(device).unwrap_or_else(|| format!("device {}", device.0));
                let kind = if what == qdisc::NOTE { "qdisc" } else { "program" };
                take_off(&path, device, what)?.then(|| format!("{kind} {what} from {on}"))
            }
            // Of pods, and of cgroups.
            None => take_off_link(&path)?.then(|| {
                pins::parse_cgroup_link(&name).map_or_else(
                    || format!("program {name}"),
                    |hook| format!("program {hook} from the cgroup"),
                )
            }),
        };
        removed.extend(from);
    }
    Ok(())
}

/// Programs before the qdisc that carries them.
pub(super) fn in_order(mut names: Vec<String>) -> Vec<String> {
    names.sort_by_key(|name| name.ends_with(qdisc::NOTE));
    names
}

/// Takes a program off a device, by its link or its filter, or the qdisc if that is what the pin notes. `false` if there
/// was nothing to take off.
pub(super) fn take_off(path: &Path, device: IfIndex, what: &str) -> Result<bool, Error> {
    let found = fs::symlink_metadata(path).map_err(|source| Error::Pin {
        path: path.to_owned(),
        source,
    })?;
    if !found.is_dir() {
        return take_off_link(path);
    }
    let was_there = match (name_of(device), Hook::of(what)) {
        (Some(name), Some(hook)) => filters::remove(device, &name, hook)?,
        (Some(_), None) if what == qdisc::NOTE => qdisc::remove_if_unused(device)?,
        (_, _) => false,
    };
    pins::remove(path)?;
    Ok(was_there)
}

/// Ends a link for everybody who has it open. Fails when its device has gone, and it is detached already.
fn take_off_link(path: &Path) -> Result<bool, Error> {
    let was_there = Link::from_pin(path).and_then(|link| link.detach()).is_ok();
    pins::remove(path)?;
    Ok(was_there)
}

/// The devices that there are.
pub(super) fn devices() -> BTreeSet<IfIndex> {
    let devices = if_nameindex();
    devices
        .iter()
        .flatten()
        .map(|device| IfIndex(device.index()))
        .collect()
}

fn name_of(device: IfIndex) -> Option<String> {
    let devices = if_nameindex().ok()?;
    let found = devices.iter().find(|found| found.index() == device.0)?;
    Some(found.name().to_string_lossy().into_owned())
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
