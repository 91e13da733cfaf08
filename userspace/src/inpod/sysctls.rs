//! Variables of `/proc/sys/net`, of which every network namespace has its own.
//!
//! A thread sees those of the namespace that it is in. A file that is open stays with the namespace in which it was
//! opened, and does not keep it alive.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use super::Error;

/// Where they are. A container's own are read-only; its DaemonSet mounts the node's, which show each thread the namespace
/// that it is in just as well.
static PLACE: LazyLock<&Path> = LazyLock::new(|| {
    let mounted = Path::new("/host/proc/sys/net");
    if mounted.is_dir() {
        mounted
    } else {
        Path::new("/proc/sys/net")
    }
});

/// What they have to be.
pub(super) const ON: &str = "1";

/// A socket that is accepted answers with the mark of what it was called with, and so does the kernel when nobody
/// accepts.
const IPV4: [&str; 2] = ["ipv4/tcp_fwmark_accept", "ipv4/fwmark_reflect"];
const IPV6: &str = "ipv6/fwmark_reflect";

/// Those that have to be on.
pub(super) fn wanted(ipv6: bool) -> impl Iterator<Item = &'static str> {
    IPV4.into_iter().chain(ipv6.then_some(IPV6))
}

/// Whether `lo` of the calling thread's namespace has IPv6.
pub(super) fn lo_has_ipv6() -> bool {
    read("ipv6/conf/lo/disable_ipv6").is_ok_and(|value| value == "0")
}

/// Whether a device takes a packet's mark into account when it asks where its source is (`IN_DEV_SRC_VMARK`): the
/// higher of its own value and that of all counts.
pub(super) fn src_valid_mark(device: &str) -> bool {
    ["all", device]
        .iter()
        .any(|device| read(&format!("ipv4/conf/{device}/src_valid_mark")).is_ok_and(|value| value != "0"))
}

/// The value in the calling thread's namespace.
pub(super) fn read(name: &str) -> Result<String, Error> {
    let path = path(name);
    match fs::read_to_string(&path) {
        Ok(value) => Ok(value.trim().to_owned()),
        Err(source) => Err(error(path, source)),
    }
}

/// Sets the value in the calling thread's namespace.
pub(super) fn write(name: &str, value: &str) -> Result<(), Error> {
    let path = path(name);
    fs::write(&path, value).map_err(|source| error(path, source))
}

fn path(name: &str) -> PathBuf {
    PLACE.join(name)
}

fn error(path: PathBuf, source: io::Error) -> Error {
    let hint = match source.raw_os_error() {
        Some(libc::EROFS) => {
            "/proc/sys is mounted read-only here: mount the node's at /host/proc/sys, as deploy/overlays/ambient does"
        }
        Some(libc::EACCES | libc::EPERM) => "it needs root and CAP_NET_ADMIN in the pod's user namespace",
        Some(libc::ENOENT) => "is this kernel built without it?",
        _ => "is /proc mounted here?",
    };
    Error::Sysctl { path, source, hint }
}

/// A variable that is looked at again and again.
#[derive(Debug)]
pub(super) struct Watch(File);

impl Watch {
    /// Opens it in the calling thread's namespace.
    pub(super) fn open(name: &str) -> Result<Self, Error> {
        let path = path(name);
        File::open(&path).map(Self).map_err(|source| error(path, source))
    }

    /// Whether it is on; not if it cannot be told.
    pub(super) fn is_on(&self) -> bool {
        let mut value = [0; 8];
        self.0.read_at(&mut value, 0).is_ok_and(|length| {
            value
                .get(..length)
                .is_some_and(|value| value.trim_ascii() == ON.as_bytes())
        })
    }
}
