//! Programs on devices by TCX: links that are pinned, adopted, watched and repaired.
//!
//! The pins are the truth. Nothing is kept open: a node has more hooks than a process has descriptors.

use std::{collections::BTreeMap, fs, io};

use aya::Ebpf;
use tracing::{debug, warn};

use super::{
    Device, Error,
    devices::Hook,
    pins::{self, Pins},
    programs,
};
use crate::{
    facts::IfIndex,
    sys::bpf::{Link, Target, programs_on_device},
};

/// The programs that we put there, by number.
#[derive(Debug, Default)]
pub(super) struct Links {
    attached: BTreeMap<(IfIndex, &'static str), u32>,
}

/// What had to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Done {
    Nothing,
    Attached,
    Repaired,
}

impl Links {
    /// Sees to it that the program of `hook` is on the device, and first.
    pub(super) fn ensure(
        &mut self,
        ebpf: &Ebpf,
        pins: &Pins,
        device: &Device,
        hook: Hook,
    ) -> Result<Done, Error> {
        let key = (device.index, hook.program);
        let known = self.attached.get(&key).copied();
        let fail = |source: io::Error| attach_error(device, hook, source);
        let Some((link, program)) = open(pins, device, hook)? else {
            self.attached.insert(key, attach_new(ebpf, pins, device, hook)?);
            if known.is_none() {
                debug!(device = device.name, hook = hook.program, "attached");
                return Ok(Done::Attached);
            }
            warn!(
                device = device.name,
                hook = hook.program,
                "our program had been taken away"
            );
            return Ok(Done::Repaired);
        };
        let current = programs::number(ebpf, hook.program)?;
        let program = if program == known.unwrap_or(current) {
            program
        } else {
            link.replace(programs::fd(ebpf, hook.program)?).map_err(fail)?;
            current
        };
        self.attached.insert(key, program);
        let order = programs_on_device(device.index.0, hook.place).map_err(fail)?;
        if order.first() != Some(&program) {
            warn!(
                device = device.name,
                hook = hook.program,
                "another program was put before ours"
            );
            self.attached.insert(key, attach_copy(pins, device, hook)?);
            return Ok(Done::Repaired);
        }
        Ok(if known.is_some() {
            Done::Nothing
        } else {
            Done::Attached
        })
    }

    /// Forgets what is no longer wanted.
    pub(super) fn retain(&mut self, wanted: impl Fn(IfIndex, &str) -> bool) {
        self.attached.retain(|&(device, hook), _| wanted(device, hook));
    }

    pub(super) fn devices_of(&self, program: &str) -> Vec<IfIndex> {
        self.attached
            .keys()
            .filter(|(_, hook)| *hook == program)
            .map(|&(device, _)| device)
            .collect()
    }
}

/// The link that is pinned for this hook, if it is on this device.
fn open(pins: &Pins, device: &Device, hook: Hook) -> Result<Option<(Link, u32)>, Error> {
    let path = pins.device_link(device.index, hook.program);
    let link = match Link::from_pin(&path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::Pin { path, source }),
    };
    let info = link.info().map_err(|source| Error::Pin {
        path: path.clone(),
        source,
    })?;
    if info.target == Target::Device(device.index.0) {
        return Ok(Some((link, info.program)));
    }
    // Left over from a device that had this index before, or taken off the device by somebody.
    pins::remove(&path)?;
    Ok(None)
}

/// Puts the program before all others of the device. Returns its number.
fn attach_new(ebpf: &Ebpf, pins: &Pins, device: &Device, hook: Hook) -> Result<u32, Error> {
    match Link::first_on_device(programs::fd(ebpf, hook.program)?, device.index.0, hook.place) {
        Ok(link) => {
            pin(&link, pins, device, hook)?;
            programs::number(ebpf, hook.program)
        }
        // It is there by a link that has lost its pin.
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => attach_copy(pins, device, hook),
        Err(source) => Err(attach_error(device, hook, source)),
    }
}

/// Puts a copy of the program before all others, and takes the old link away only then.
///
/// The kernel does not take one program twice on one device, nor can it change the order of those that are there.
fn attach_copy(pins: &Pins, device: &Device, hook: Hook) -> Result<u32, Error> {
    let mut copy = programs::open_object(pins)?;
    programs::load(&mut copy, hook.program)?;
    let link = Link::first_on_device(programs::fd(&copy, hook.program)?, device.index.0, hook.place)
        .map_err(|source| attach_error(device, hook, source))?;
    pin(&link, pins, device, hook)?;
    programs::number(&copy, hook.program)
}

/// Pins a link in the place of the one that is pinned, if any, which thereby ends.
fn pin(link: &Link, pins: &Pins, device: &Device, hook: Hook) -> Result<(), Error> {
    let path = pins.device_link(device.index, hook.program);
    let new = path.with_file_name(format!("new-{}", hook.program));
    pins::remove(&new)?;
    link.pin(&new).map_err(|source| Error::Pin {
        path: new.clone(),
        source,
    })?;
    fs::rename(&new, &path).map_err(|source| Error::Pin { path, source })
}

fn attach_error(device: &Device, hook: Hook, source: io::Error) -> Error {
    let hint = match source.raw_os_error() {
        Some(libc::ENODEV) => "the device is gone",
        Some(libc::EPERM) => "it needs CAP_BPF and CAP_NET_ADMIN in the node's network namespace",
        Some(libc::EINVAL) => "is this kernel older than 6.6?",
        Some(libc::ERANGE) => "are there 64 programs on it already?",
        _ => "is another agent at work on it?",
    };
    Error::Attach {
        hook: hook.program,
        device: device.name.clone(),
        index: device.index,
        source,
        hint,
    }
}
