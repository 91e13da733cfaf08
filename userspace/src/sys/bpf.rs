//! `bpf(2)`, where aya has no word for it: links that are replaced in place, for TCX and for cgroups alike, told by the
//! index of a device and not by its name, which may change between two calls.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// Numbers of `enum bpf_cmd` (`include/uapi/linux/bpf.h`).
mod command {
    pub(super) const OBJ_PIN: u32 = 6;
    pub(super) const OBJ_GET: u32 = 7;
    pub(super) const OBJ_GET_INFO_BY_FD: u32 = 15;
    pub(super) const PROG_QUERY: u32 = 16;
    pub(super) const MAP_LOOKUP_BATCH: u32 = 24;
    pub(super) const LINK_CREATE: u32 = 28;
    pub(super) const LINK_UPDATE: u32 = 29;
    pub(super) const LINK_DETACH: u32 = 34;
}

/// `BPF_F_BEFORE`: without a relative, before everybody.
const FIRST: u32 = 1 << 3;
/// `BPF_LINK_TYPE_CGROUP`.
const LINK_TYPE_CGROUP: u32 = 3;
/// `BPF_LINK_TYPE_TCX`.
const LINK_TYPE_TCX: u32 = 11;

/// Where a program may be attached; the numbers are those of `enum bpf_attach_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub(crate) enum AttachType {
    /// What happens to a TCP connection.
    SockOps = 3,
    /// `bind()` of an IPv4 socket.
    Bind4 = 8,
    /// `bind()` of an IPv6 socket.
    Bind6 = 9,
    /// `connect()` of an IPv4 socket.
    Connect4 = 10,
    /// `connect()` of an IPv6 socket.
    Connect6 = 11,
    /// `sendmsg()` of an unconnected IPv4 socket.
    Sendmsg4 = 14,
    /// `sendmsg()` of an unconnected IPv6 socket.
    Sendmsg6 = 15,
    /// `recvmsg()` of an IPv4 socket.
    Recvmsg4 = 19,
    /// `recvmsg()` of an IPv6 socket.
    Recvmsg6 = 20,
    /// `getsockopt()`.
    Getsockopt = 21,
    /// `getpeername()` of an IPv4 socket.
    Getpeername4 = 29,
    /// `getpeername()` of an IPv6 socket.
    Getpeername6 = 30,
    /// What comes in through a device.
    TcxIngress = 46,
    /// What goes out through a device.
    TcxEgress = 47,
}

/// A program that is attached for as long as this, or a pin of it, exists.
#[derive(Debug)]
pub(crate) struct Link(OwnedFd);

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkInfo {
    /// Number of the program.
    pub(crate) program: u32,
    /// Where it is attached.
    pub(crate) target: Target,
}

/// Where a link is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// To the device with this index; 0 once the device is gone or the link was detached.
    Device(u32),
    /// To the cgroup with this number; 0 likewise.
    Cgroup(u64),
    /// To something that is not ours.
    Other,
}

impl Link {
    /// Attaches a program in front of all others of the device with this index.
    pub(crate) fn first_on_device(
        program: BorrowedFd<'_>,
        device: u32,
        place: AttachType,
    ) -> io::Result<Self> {
        Self::create(program, device, place, FIRST)
    }

    /// Attaches a program to a cgroup, beside others.
    pub(crate) fn on_cgroup(
        program: BorrowedFd<'_>,
        cgroup: BorrowedFd<'_>,
        place: AttachType,
    ) -> io::Result<Self> {
        Self::create(program, number_of(cgroup), place, 0)
    }

    fn create(program: BorrowedFd<'_>, target: u32, place: AttachType, flags: u32) -> io::Result<Self> {
        let mut attr = LinkCreate {
            program: number_of(program),
            target,
            place: place as u32,
            flags,
            ..LinkCreate::default()
        };
        open(command::LINK_CREATE, &mut attr).map(Self)
    }

    /// Opens a pinned link.
    pub(crate) fn from_pin(path: &Path) -> io::Result<Self> {
        let path = c_path(path)?;
        open(
            command::OBJ_GET,
            &mut Object {
                path: address_of(path.as_c_str().to_bytes_with_nul()),
                ..Object::default()
            },
        )
        .map(Self)
    }

    /// Pins it, so that it outlives this process.
    pub(crate) fn pin(&self, path: &Path) -> io::Result<()> {
        let path = c_path(path)?;
        let mut attr = Object {
            path: address_of(path.as_c_str().to_bytes_with_nul()),
            fd: number_of(self.0.as_fd()),
            flags: 0,
        };
        call(command::OBJ_PIN, &mut attr).map(drop)
    }

    /// Puts another program in the place of the one attached, without a packet in between.
    pub(crate) fn replace(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut attr = LinkUpdate {
            link: number_of(self.0.as_fd()),
            program: number_of(program),
            ..LinkUpdate::default()
        };
        call(command::LINK_UPDATE, &mut attr).map(drop)
    }

    /// Takes the program away, whoever else holds the link.
    pub(crate) fn detach(&self) -> io::Result<()> {
        call(
            command::LINK_DETACH,
            &mut LinkDetach {
                link: number_of(self.0.as_fd()),
            },
        )
        .map(drop)
    }

    /// What the kernel says of it.
    pub(crate) fn info(&self) -> io::Result<LinkInfo> {
        let mut info = RawLinkInfo::default();
        let mut attr = InfoByFd {
            fd: number_of(self.0.as_fd()),
            len: length_of(size_of::<RawLinkInfo>()),
            info: (&raw mut info).addr() as u64,
        };
        call(command::OBJ_GET_INFO_BY_FD, &mut attr)?;
        let [low, high] = info.target;
        let target = match info.kind {
            LINK_TYPE_TCX => Target::Device(low),
            LINK_TYPE_CGROUP => Target::Cgroup(u64::from(low) | u64::from(high) << 32),
            _ => Target::Other,
        };
        Ok(LinkInfo {
            program: info.program,
            target,
        })
    }
}

/// Numbers of the programs of a device, in the order in which they run.
pub(crate) fn programs_on_device(device: u32, place: AttachType) -> io::Result<Vec<u32>> {
    // The kernel takes at most 64 (`BPF_MPROG_MAX`).
    let mut programs = [0u32; 64];
    let mut attr = Query {
        target: device,
        place: place as u32,
        programs: (&raw mut programs).addr() as u64,
        count: length_of(programs.len()),
        ..Query::default()
    };
    call(command::PROG_QUERY, &mut attr)?;
    Ok(programs.iter().copied().take(attr.count as usize).collect())
}

/// Number of a loaded program.
pub(crate) fn program_number(program: BorrowedFd<'_>) -> io::Result<u32> {
    let mut info = RawProgramInfo::default();
    let mut attr = InfoByFd {
        fd: number_of(program),
        len: length_of(size_of::<RawProgramInfo>()),
        info: (&raw mut info).addr() as u64,
    };
    call(command::OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info.id)
}

/// Counts the entries of a hash map, whose keys and values have these sizes. What comes and goes meanwhile may or may not
/// be counted.
pub(crate) fn count_entries(map: BorrowedFd<'_>, key: usize, value: usize) -> io::Result<usize> {
    /// Entries that are copied at once; more than there are in the fullest bucket of any map.
    const AT_ONCE: usize = 4096;
    let mut keys = vec![0u8; AT_ONCE * key];
    let mut values = vec![0u8; AT_ONCE * value];
    // The kernel's own note of where it is, before and after: the number of a bucket.
    let mut notes = [0u32; 2];
    let mut attr = Batch {
        to: (&raw mut notes[1]).expose_provenance() as u64,
        keys: keys.as_mut_ptr().expose_provenance() as u64,
        values: values.as_mut_ptr().expose_provenance() as u64,
        map: number_of(map),
        ..Batch::default()
    };
    let mut entries = 0;
    loop {
        attr.count = length_of(AT_ONCE);
        let more = match call(command::MAP_LOOKUP_BATCH, &mut attr) {
            Ok(_) => true,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => false,
            Err(error) => return Err(error),
        };
        entries += attr.count as usize;
        if !more {
            return Ok(entries);
        }
        notes[0] = notes[1];
        attr.from = (&raw mut notes[0]).expose_provenance() as u64;
    }
}

#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    program: u32,
    target: u32,
    place: u32,
    flags: u32,
    relative: u32,
    reserved: u32,
    expected_revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdate {
    link: u32,
    program: u32,
    flags: u32,
    old_program: u32,
}

#[repr(C)]
struct LinkDetach {
    link: u32,
}

#[repr(C)]
#[derive(Default)]
struct Object {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct InfoByFd {
    fd: u32,
    len: u32,
    info: u64,
}

/// The head of `struct bpf_link_info`. What belongs to the kind of link starts at an eighth octet.
#[repr(C, align(8))]
#[derive(Default)]
struct RawLinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    reserved: u32,
    target: [u32; 2],
    more: [u32; 2],
}

/// The head of `struct bpf_prog_info`.
#[repr(C)]
#[derive(Default)]
struct RawProgramInfo {
    kind: u32,
    id: u32,
}

#[repr(C)]
#[derive(Default)]
struct Query {
    target: u32,
    place: u32,
    flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    reserved: u32,
    program_attach_flags: u64,
    links: u64,
    link_attach_flags: u64,
    revision: u64,
}

#[repr(C)]
#[derive(Default)]
struct Batch {
    from: u64,
    to: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    element_flags: u64,
    flags: u64,
}

/// One member of `union bpf_attr`.
///
/// # Safety
///
/// The type is `repr(C)`, laid out like that member in `include/uapi/linux/bpf.h` and without padding, and whoever makes
/// one sees to it that every address in it is that of memory which lives through the call and is as large as the
/// command wants it.
unsafe trait Attr {}

// SAFETY: the layout of `link_create`; no address.
unsafe impl Attr for LinkCreate {}
// SAFETY: the layout of `link_update`; no address.
unsafe impl Attr for LinkUpdate {}
// SAFETY: the layout of `link_detach`; no address.
unsafe impl Attr for LinkDetach {}
// SAFETY: the layout of `BPF_OBJ_*`; the only makers are `from_pin` and `pin`, with a C string that they hold.
unsafe impl Attr for Object {}
// SAFETY: the layout of `info`; the only makers are `Link::info` and `program_number`, with a struct that they hold
// and whose size they give.
unsafe impl Attr for InfoByFd {}
// SAFETY: the layout of `query`; the only maker is `programs_on_device`, with an array that it holds and whose length
// it gives; an address of zero means that the list is not wanted.
unsafe impl Attr for Query {}

// SAFETY: the layout of `batch`; the only maker is `count_entries`, with a cursor and arrays that it holds and that are as
// large as the count of entries wants them; an address of zero means the beginning.
unsafe impl Attr for Batch {}

fn call<A: Attr>(command: u32, attr: &mut A) -> io::Result<i64> {
    // SAFETY: `attr` is a member of the union that the kernel reads and is as long as is said; `Attr` vouches for the
    // addresses in it. A kernel that knows a shorter union wants the rest to be zero, which it checks.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn open<A: Attr>(command: u32, attr: &mut A) -> io::Result<OwnedFd> {
    let fd = call(command, attr)?;
    let fd = i32::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the commands that `open` is called with return a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn number_of(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

/// The lengths here are those of small things of our own.
fn length_of(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(0)
}

fn address_of(octets: &[u8]) -> u64 {
    octets.as_ptr().addr() as u64
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_as_long_as_in_the_kernel() {
        assert_eq!(size_of::<LinkCreate>(), 32);
        assert_eq!(size_of::<Object>(), 16);
        assert_eq!(size_of::<InfoByFd>(), 16);
        assert_eq!(size_of::<Query>(), 64);
        assert_eq!(size_of::<Batch>(), 56);
        assert_eq!(std::mem::offset_of!(RawLinkInfo, target), 16);
    }
}
