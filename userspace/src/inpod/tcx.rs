//! Programs on a pod's devices by TCX: links that are pinned, and so outlive the agent. Linux 6.6 and later.
//!
//! A pin is called `pod-<cookie>-<index>-<program>`. Everything but the pins is to be done by a thread that is in the
//! namespace: an index means a device of the caller's.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use super::{
    Error,
    devices::Device,
    programs::{Loaded, Program},
};
use crate::{
    facts::{IfIndex, NetnsCookie},
    sys::bpf::{Link, Target, programs_on_device},
};

/// Where a program's link is pinned.
pub(super) fn pin(links: &Path, cookie: NetnsCookie, device: IfIndex, program: Program) -> PathBuf {
    links.join(format!("{}{}-{}", prefix(cookie), device.0, program.name()))
}

fn prefix(cookie: NetnsCookie) -> String {
    format!("pod-{}-", cookie.0)
}

/// All pins of a namespace.
pub(super) fn pins(links: &Path, cookie: NetnsCookie) -> Result<Vec<PathBuf>, Error> {
    let prefix = prefix(cookie);
    let entries = match fs::read_dir(links) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(pin_error(links, source)),
    };
    let ours = entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix));
    Ok(ours.map(|entry| entry.path()).collect())
}

/// Moves all pins of a namespace to another directory; the links stay as they are. Between two file systems that does not
/// work: there they stay where they are.
pub(super) fn move_pins(from: &Path, to: &Path, cookie: NetnsCookie) -> Result<(), Error> {
    for pin in pins(from, cookie)? {
        let Some(name) = pin.file_name() else { continue };
        match fs::rename(&pin, to.join(name)) {
            Err(source) if source.kind() != io::ErrorKind::CrossesDevices => {
                return Err(pin_error(&pin, source));
            }
            Ok(()) | Err(_) => {}
        }
    }
    Ok(())
}

/// Whether the program is on the device, and before all others.
pub(super) fn is_first(device: IfIndex, loaded: &Loaded) -> bool {
    programs_on_device(device.0, loaded.program().place())
        .is_ok_and(|order| order.first() == Some(&loaded.number()))
}

/// Sees to it that the program is on the device, first, and pinned. `true` if something had to be done for it.
pub(super) fn ensure(pin: &Path, device: &Device, loaded: &Loaded) -> Result<bool, Error> {
    let fail = |source| attach_error(device, loaded.program(), source);
    let mut changed = false;
    if let Some((link, program)) = open(pin, device.index)? {
        if program != loaded.number() {
            link.replace(loaded.handle()).map_err(fail)?;
            changed = true;
        }
        if is_first(device.index, loaded) {
            return Ok(changed);
        }
        // The kernel can neither change the order nor take one program twice: it has to go before it comes back.
        link.detach().map_err(fail)?;
        remove(pin)?;
    }
    let link = attach(device, loaded).map_err(fail)?;
    link.pin(pin).map_err(|source| pin_error(pin, source))?;
    Ok(true)
}

/// The link that is pinned, if it is on this device.
fn open(pin: &Path, device: IfIndex) -> Result<Option<(Link, u32)>, Error> {
    let link = match Link::from_pin(pin) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(pin_error(pin, source)),
    };
    let info = link.info().map_err(|source| pin_error(pin, source))?;
    if info.target == Target::Device(device.0) {
        return Ok(Some((link, info.program)));
    }
    // Its device has gone, or somebody took it off.
    remove(pin)?;
    Ok(None)
}

fn attach(device: &Device, loaded: &Loaded) -> io::Result<Link> {
    const TRIES: u32 = 20;
    let attach = || Link::first_on_device(loaded.handle(), device.index.0, loaded.program().place());
    for _ in 0..TRIES {
        match attach() {
            // A link that has lost its pin is taken away by the kernel a moment later.
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
    attach()
}

/// Ends the link at this pin, whoever else has it open, and removes the pin.
pub(super) fn take_off(pin: &Path) -> Result<(), Error> {
    if let Ok(link) = Link::from_pin(pin) {
        // Refused when the device has gone: it is detached already.
        let _ = link.detach();
    }
    remove(pin)
}

fn remove(pin: &Path) -> Result<(), Error> {
    match fs::remove_file(pin) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(pin_error(pin, source)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn pin_error(pin: &Path, source: io::Error) -> Error {
    Error::Pin {
        path: pin.to_owned(),
        source,
    }
}

/// What it means that a program cannot be attached.
pub(super) fn attach_error(device: &Device, program: Program, source: io::Error) -> Error {
    let hint = match source.raw_os_error() {
        Some(libc::ENODEV) => "the device is gone",
        Some(libc::EPERM) => "it needs CAP_BPF, and CAP_NET_ADMIN in the pod's user namespace",
        Some(libc::EINVAL) => {
            "does something else own clsact at priority 1, or does this kernel lack cls_bpf?"
        }
        Some(libc::ERANGE) => "are there 64 programs on it already?",
        Some(libc::EEXIST) => "does another process hold a link of this program?",
        _ => "is another agent at work on it?",
    };
    Error::Attach {
        program: program.name(),
        device: device.name.clone(),
        index: device.index,
        source,
        hint,
    }
}
