//! Loading the object: maps that are pinned are taken over, programs are new each time.

use std::{
    fs,
    os::fd::{AsFd as _, BorrowedFd},
};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    programs::{Program, ProgramError, SchedClassifier},
};

use super::{
    Error,
    maps::PINNED,
    pins::{self, Pins},
};
use crate::{object, sys::bpf::AttachType};

/// The programs of devices.
pub(super) const DEVICE_PROGRAMS: [&str; 6] = [
    "pod_out",
    "pod_in",
    "node_out",
    "node_in",
    "node_out_ip",
    "node_in_ip",
];

/// The programs of cgroups, and where each belongs.
pub(super) const CGROUP_PROGRAMS: [(&str, AttachType); 11] = [
    ("connect4", AttachType::Connect4),
    ("connect6", AttachType::Connect6),
    ("sendmsg4", AttachType::Sendmsg4),
    ("sendmsg6", AttachType::Sendmsg6),
    ("bind4", AttachType::Bind4),
    ("bind6", AttachType::Bind6),
    ("recvmsg4", AttachType::Recvmsg4),
    ("recvmsg6", AttachType::Recvmsg6),
    ("getpeername4", AttachType::Getpeername4),
    ("getpeername6", AttachType::Getpeername6),
    ("sock_ops", AttachType::SockOps),
];

/// The programs inside captured pods.
pub(super) const POD_PROGRAMS: [&str; 5] = [
    "capture_in",
    "capture_in_ip",
    "capture_virtual",
    "capture_virtual_ip",
    "capture_lo",
];

/// The program of the proxies' cgroups.
pub(super) const PROXY_PROGRAM: &str = "original_dst";

/// The program that answers where a cgroup is; it is asked once, and does not stay.
pub(super) const DEPTH_PROGRAM: &str = "cgroup_level";

/// Every program that stays.
pub(super) fn all() -> impl Iterator<Item = &'static str> {
    DEVICE_PROGRAMS
        .into_iter()
        .chain(CGROUP_PROGRAMS.map(|(name, _)| name))
        .chain(POD_PROGRAMS)
        .chain([PROXY_PROGRAM])
}

/// Makes the maps, or takes those that are pinned.
pub(super) fn open_object(pins: &Pins) -> Result<Ebpf, Error> {
    let object = object::object()?;
    let mut loader = EbpfLoader::new();
    // A log of every step makes loading several times slower; when a program is refused, the reason is in it anyway.
    loader.verifier_log_level(VerifierLogLevel::STATS);
    for layout in &PINNED {
        loader.map_pin_path(layout.name, pins.map(layout.name));
    }
    let ebpf = loader
        .load(object)
        .map_err(|source| Error::Load(Box::new(source)))?;
    for layout in &PINNED {
        ebpf.map(layout.name).ok_or(Error::Missing {
            kind: "map",
            name: layout.name,
        })?;
        layout.check(pins)?;
    }
    Ok(ebpf)
}

/// Has the kernel verify a program. On a busy machine the verifier gives up when the thread is to do something else in
/// between (`EAGAIN`, see `do_check` in `kernel/bpf/verifier.c`); then it is asked again.
pub(super) fn load(ebpf: &mut Ebpf, name: &'static str) -> Result<(), Error> {
    const TRIES: u32 = 10;
    let mut loaded = load_once(ebpf, name);
    for _ in 1..TRIES {
        match &loaded {
            Err(Error::Program { source, .. })
                if super::error::raw_os_error(source) == Some(libc::EAGAIN) =>
            {
                loaded = load_once(ebpf, name);
            }
            Ok(()) | Err(_) => break,
        }
    }
    loaded
}

fn load_once(ebpf: &mut Ebpf, name: &'static str) -> Result<(), Error> {
    let program = ebpf.program_mut(name).ok_or(Error::Missing {
        kind: "program",
        name,
    })?;
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the object has programs of these kinds alone"
    )]
    let loaded = match program {
        Program::SchedClassifier(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSockopt(program) => program.load(),
        Program::SockOps(program) => program.load(),
        _ => {
            return Err(Error::Missing {
                kind: "program",
                name,
            });
        }
    };
    loaded.map_err(|source| Error::program(name, source))
}

/// Pins a program in the place of the last agent's.
pub(super) fn pin(ebpf: &mut Ebpf, name: &'static str, pins: &Pins) -> Result<(), Error> {
    let path = pins.program(name);
    let new = pins.program(&format!("{name}-new"));
    pins::remove(&new)?;
    let program = ebpf.program_mut(name).ok_or(Error::Missing {
        kind: "program",
        name,
    })?;
    program.pin(&new).map_err(|error| Error::Pin {
        path: new.clone(),
        source: std::io::Error::other(error),
    })?;
    fs::rename(&new, &path).map_err(|source| Error::Pin { path, source })
}

/// The kernel's handle of a loaded program.
pub(super) fn fd<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<BorrowedFd<'a>, Error> {
    let program = ebpf.program(name).ok_or(Error::Missing {
        kind: "program",
        name,
    })?;
    let fd = program.fd().map_err(|source| Error::program(name, source))?;
    Ok(fd.as_fd())
}

/// The kernel's number of a loaded program.
pub(super) fn number(ebpf: &Ebpf, name: &'static str) -> Result<u32, Error> {
    let program = ebpf.program(name).ok_or(Error::Missing {
        kind: "program",
        name,
    })?;
    program
        .info()
        .map(|info| info.id())
        .map_err(|source| Error::program(name, source))
}

/// A program of traffic control.
pub(super) fn classifier<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<&'a SchedClassifier, Error> {
    match ebpf.program(name) {
        Some(Program::SchedClassifier(classifier)) => Ok(classifier),
        Some(_) | None => Err(Error::Missing {
            kind: "classifier",
            name,
        }),
    }
}

/// The same, to attach it.
pub(super) fn classifier_mut<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut SchedClassifier, Error> {
    match ebpf.program_mut(name) {
        Some(Program::SchedClassifier(classifier)) => Ok(classifier),
        Some(_) | None => Err(Error::Missing {
            kind: "classifier",
            name,
        }),
    }
}

/// Whether the error says that something is there already.
pub(super) fn is_taken(error: &ProgramError) -> bool {
    super::error::raw_os_error(error) == Some(libc::EEXIST)
}
