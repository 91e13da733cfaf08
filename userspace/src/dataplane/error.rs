//! What can go wrong with the kernel, and why it probably did.

use std::{io, path::PathBuf};

use aya::{
    EbpfError,
    maps::MapError,
    programs::{ProgramError, tc::TcError},
};

use crate::{facts::IfIndex, object::MissingObject};

/// Why the kernel is not as it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No more file descriptors.
    #[error("cannot keep the program {name} open: {source} (is the limit of open files reached?)")]
    Handle {
        /// The program.
        name: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// There is nothing to load.
    #[error(transparent)]
    Object(#[from] MissingObject),
    /// A directory for pins.
    #[error("{path}: {source} (does it lie on a bpffs that may be written to? mount -t bpf bpf /sys/fs/bpf)", path = path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The bpffs of our own.
    #[error("mount -t bpf bpf {path}: {source} (it needs CAP_SYS_ADMIN and a kernel with CONFIG_BPF_SYSCALL)", path = path.display())]
    Mount {
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A pin.
    #[error("{path}: {source} (is another agent at work here?)", path = path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The object as a whole.
    #[error("cannot load the eBPF object: {0} (does this kernel have the map types? `sluice check` tells)")]
    Load(#[source] Box<EbpfError>),
    /// A map that is pinned, or in the object, is not as this version wants it.
    #[error(
        "map {path}: {field} is {found} and should be {wanted}: either another version of sluice pinned it \
         under the same ABI number, and `sluice detach` takes it away, or the eBPF object is not of these sources, and \
         `cargo xtask build-ebpf` makes it anew", path = path.display()
    )]
    Layout {
        /// Its pin.
        path: PathBuf,
        /// What differs.
        field: &'static str,
        /// How it is.
        found: String,
        /// How it should be.
        wanted: String,
    },
    /// Nobody says how many processors there can be.
    #[error("cannot tell how many processors there can be: {0} (is /sys mounted?)")]
    Processors(#[source] io::Error),
    /// The entries of a map cannot be counted.
    #[error(
        "cannot count the entries of the map {name}: {source} (BPF_MAP_LOOKUP_BATCH came with Linux 5.6)"
    )]
    Count {
        /// The map.
        name: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The object lacks something that this version wants.
    #[error(
        "the eBPF object has no {kind} {name}: it was built from other sources; run `cargo xtask build-ebpf`"
    )]
    Missing {
        /// A map or a program.
        kind: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// The verifier or the kernel refused a program.
    #[error("the kernel refuses program {name}: {source} ({hint}){log}")]
    Program {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        source: Box<ProgramError>,
        /// The likely cause.
        hint: &'static str,
        /// The end of the verifier's log, or nothing.
        log: String,
    },
    /// A map is full.
    #[error("map {map} is full: {capacity} entries, both banks together; the last good generation stays")]
    Full {
        /// Its name.
        map: &'static str,
        /// How many entries it holds.
        capacity: u32,
    },
    /// A map cannot be read or written.
    #[error("map {map}: {source}")]
    Map {
        /// Its name.
        map: &'static str,
        /// What the kernel said.
        source: Box<MapError>,
    },
    /// A program cannot be attached to a device.
    #[error("{hook} on {device} (index {index}): {source} ({hint})", index = index.0)]
    Attach {
        /// The program.
        hook: &'static str,
        /// The device's name.
        device: String,
        /// The device's index.
        index: IfIndex,
        /// What the kernel said.
        source: io::Error,
        /// The likely cause.
        hint: &'static str,
    },
    /// The same, with traffic control.
    #[error("{hook} on {device}: {source} (is clsact at priority 1 already owned by another agent?)")]
    Filter {
        /// The program.
        hook: &'static str,
        /// The device's name.
        device: String,
        /// What the kernel said.
        source: Box<ProgramError>,
    },
    /// The queueing discipline that carries filters.
    #[error("clsact on {device}: {source} (does this kernel have sch_ingress?)")]
    Clsact {
        /// The device's name.
        device: String,
        /// What the kernel said.
        source: Box<TcError>,
    },
    /// A program cannot be attached to a cgroup.
    #[error("{hook} on cgroup {path}: {source} (is it a directory of the cgroup v2 hierarchy?)", path = path.display())]
    Cgroup {
        /// The program.
        hook: &'static str,
        /// The cgroup.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The ring of events.
    #[error("cannot wait for events: {0}")]
    Events(#[source] io::Error),
    /// A replay.
    #[error("cannot replay a packet on device {device}: {source} (is the device still there?)", device = device.0)]
    Replay {
        /// The device.
        device: IfIndex,
        /// What the kernel said.
        source: Box<ProgramError>,
    },
    /// A replay without an answer.
    #[error("the program on device {device} did not answer the replay: the device is not a pod device", device = device.0)]
    NoAnswer {
        /// The device.
        device: IfIndex,
    },
}

impl Error {
    /// What a failed write to `map` means.
    pub(super) fn writing(map: &'static str, capacity: u32, source: MapError) -> Self {
        match raw_os_error(&source) {
            Some(libc::E2BIG | libc::ENOSPC) => Self::Full { map, capacity },
            _ => Self::map(map, source),
        }
    }

    pub(super) fn map(map: &'static str, source: MapError) -> Self {
        Self::Map {
            map,
            source: Box::new(source),
        }
    }

    /// What a refused program means.
    pub(super) fn program(name: &'static str, source: ProgramError) -> Self {
        let hint = "is this kernel older than 6.1?";
        if let ProgramError::LoadError {
            io_error,
            verifier_log,
        } = source
        {
            let log = tail(&verifier_log.to_string());
            let hint = match io_error.raw_os_error() {
                Some(libc::EPERM) => {
                    "it needs CAP_BPF and CAP_NET_ADMIN, and a kernel that is not locked down"
                }
                Some(libc::ENOMEM) => "the machine or the agent's cgroup has no memory left",
                Some(libc::EINVAL | libc::EACCES | libc::E2BIG) => {
                    "this kernel's verifier is one we were not tested with"
                }
                _ => hint,
            };
            return Self::Program {
                name,
                source: Box::new(ProgramError::IOError(io_error)),
                hint,
                log,
            };
        }
        Self::Program {
            name,
            source: Box::new(source),
            hint,
            log: String::new(),
        }
    }
}

/// The last lines of the verifier's log, where it says what it does not like.
fn tail(log: &str) -> String {
    const LINES: usize = 12;
    let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
    lines
        .iter()
        .skip(lines.len().saturating_sub(LINES))
        .fold(String::new(), |text, line| text + "\n    " + line)
}

/// The error number in an error of aya's.
pub(super) fn raw_os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>().or_else(|| shown_through(error)) {
            return io.raw_os_error();
        }
        next = error.source();
    }
    None
}

/// Errors that pass on the source of what they hold, and so hide it; a box is a type of its own.
fn shown_through<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    let program = error
        .downcast_ref()
        .or_else(|| error.downcast_ref().map(Box::as_ref));
    if let Some(ProgramError::IOError(io) | ProgramError::TcError(TcError::IoError(io))) = program {
        return Some(io);
    }
    let tc = error
        .downcast_ref()
        .or_else(|| error.downcast_ref().map(Box::as_ref));
    if let Some(TcError::IoError(io)) = tc {
        return Some(io);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_found_behind_every_wrapper() {
        let io = || io::Error::from_raw_os_error(libc::ENODEV);
        let filter = |source| Error::Filter {
            hook: "pod_out",
            device: "x".into(),
            source: Box::new(source),
        };
        let errors = [
            Error::Events(io()),
            filter(ProgramError::IOError(io())),
            filter(TcError::IoError(io()).into()),
            Error::Clsact {
                device: "x".into(),
                source: Box::new(TcError::IoError(io())),
            },
        ];
        for error in errors {
            assert_eq!(raw_os_error(&error), Some(libc::ENODEV), "{error}");
        }
    }

    #[test]
    fn the_end_of_a_long_log_is_kept() {
        let log = (0..100)
            .map(|line| format!("line {line}\n\n"))
            .collect::<Vec<_>>()
            .concat();
        let tail = tail(&log);
        assert_eq!(tail.lines().count(), 13);
        assert!(tail.ends_with("line 99"));
    }
}
