//! Programs and links of the kernel's, by `bpf(2)`: what `aya` has no words for, and programs of somebody else.

use std::{
    ffi::CString,
    fs, io,
    net::Ipv4Addr,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use super::Direction;

/// A link that is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinnedLink {
    /// Its number.
    pub link: u32,
    /// The number of the program that it runs.
    pub program: u32,
}

/// What the kernel says of the link at this pin.
pub fn pinned_link(pin: &Path) -> io::Result<PinnedLink> {
    const OBJ_GET: u32 = 7;
    let path = CString::new(pin.as_os_str().as_bytes())?;
    // A path; neither a descriptor nor flags.
    let mut attr: [u64; 2] = [path.as_ptr().addr() as u64, 0];
    // SAFETY: `attr` is laid out like the head of the union for `BPF_OBJ_GET`, its length is passed, and the path lives
    // through the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, OBJ_GET, &raw mut attr, size_of_val(&attr)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the command returns a new descriptor, which nobody else owns.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", link.as_raw_fd()))?;
    let number = |field: &str| {
        let value = info
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let number = value.and_then(|value| value.trim().parse().ok());
        number.ok_or_else(|| io::Error::other(format!("no {field} in {info:?}")))
    };
    Ok(PinnedLink {
        link: number("link_id")?,
        program: number("prog_id")?,
    })
}

/// Loads a program of traffic control that does nothing but answer `verdict`; `name` is at most 15 octets long.
pub fn classifier(name: &str, verdict: i32) -> io::Result<OwnedFd> {
    load(
        SCHED_CLS,
        name,
        &[instruction(MOVE, 0, 0, 0, verdict.cast_unsigned()), EXIT],
    )
}

/// Loads a program of traffic control that marks every packet, and lets it through (`TCX_NEXT`).
pub fn marking_classifier(name: &str, mark: u32) -> io::Result<OwnedFd> {
    /// Where the mark is in `struct __sk_buff`.
    const MARK: u16 = 8;
    let code = [
        instruction(MOVE, 2, 0, 0, mark),
        instruction(STORE, 1, 2, MARK, 0),
        instruction(MOVE, 0, 0, 0, u32::MAX),
        EXIT,
    ];
    load(SCHED_CLS, name, &code)
}

/// Puts a program on a cgroup, behind those that are there, that sends every call over IPv4 somewhere else; for as long as
/// the link is open.
pub fn redirect_calls(cgroup: &Path, to: Ipv4Addr) -> io::Result<OwnedFd> {
    const CGROUP_SOCK_ADDR: Kind = Kind {
        number: 18,
        place: CONNECT4,
    };
    /// `BPF_CGROUP_INET4_CONNECT`
    const CONNECT4: u32 = 10;
    /// Where the address is in `struct bpf_sock_addr`.
    const ADDRESS: u16 = 4;
    let code = [
        instruction(MOVE, 2, 0, 0, u32::from_ne_bytes(to.octets())),
        instruction(STORE, 1, 2, ADDRESS, 0),
        instruction(MOVE, 0, 0, 0, 1),
        EXIT,
    ];
    let program = load(CGROUP_SOCK_ADDR, "redirect", &code)?;
    let cgroup = fs::File::open(cgroup)?;
    link(&program, cgroup.as_raw_fd(), CONNECT4, 0)
}

/// A kind of program.
#[derive(Clone, Copy)]
struct Kind {
    number: u32,
    /// Where it will be attached, if loading it takes that.
    place: u32,
}

const SCHED_CLS: Kind = Kind { number: 3, place: 0 };

/// `BPF_ALU64 | BPF_MOV | BPF_K`
const MOVE: u8 = 0xb7;
/// `BPF_STX | BPF_MEM | BPF_W`
const STORE: u8 = 0x63;
const EXIT: u64 = 0x95;

/// A `struct bpf_insn` on a machine with the low octet first.
const fn instruction(code: u8, to: u8, from: u8, offset: u16, number: u32) -> u64 {
    code as u64 | (to as u64) << 8 | (from as u64) << 12 | (offset as u64) << 16 | (number as u64) << 32
}

fn load(kind: Kind, name: &str, code: &[u64]) -> io::Result<OwnedFd> {
    const PROG_LOAD: u32 = 5;
    /// The head of `union bpf_attr` for `BPF_PROG_LOAD`.
    #[repr(C)]
    struct Load {
        kind: u32,
        instructions: u32,
        code: u64,
        license: u64,
        log: [u32; 6],
        name: [u8; 16],
        device: u32,
        place: u32,
    }
    let mut attr = Load {
        kind: kind.number,
        instructions: u32::try_from(code.len()).map_err(io::Error::other)?,
        code: code.as_ptr().addr() as u64,
        license: c"GPL".as_ptr().addr() as u64,
        log: [0; 6],
        name: [0; 16],
        device: 0,
        place: kind.place,
    };
    for (to, from) in attr.name.iter_mut().zip(name.bytes().take(15)) {
        *to = from;
    }
    let mut load = || {
        // SAFETY: `attr` is laid out like the union's head, its length is passed, and what it points to lives through
        // the call.
        unsafe { libc::syscall(libc::SYS_bpf, PROG_LOAD, &raw mut attr, size_of::<Load>()) }
    };
    let fd = loop {
        let fd = load();
        if fd >= 0 {
            break fd;
        }
        let error = io::Error::last_os_error();
        // The verifier was interrupted.
        if error.kind() != io::ErrorKind::WouldBlock {
            return Err(error);
        }
    };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the command returns a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Numbers of the programs that TCX (Linux 6.6) runs on a device of this thread's network namespace.
pub fn tcx_programs(device: i32, direction: Direction) -> io::Result<Vec<u32>> {
    const PROG_QUERY: u32 = 16;
    /// The head of `union bpf_attr` for `BPF_PROG_QUERY`.
    #[repr(C)]
    struct Query {
        target: u32,
        place: u32,
        flags: [u32; 2],
        programs: u64,
        count: u32,
        reserved: u32,
        more: [u64; 4],
    }
    let mut programs = [0u32; 64];
    let mut attr = Query {
        target: device.cast_unsigned(),
        // `BPF_TCX_INGRESS`, `BPF_TCX_EGRESS`
        place: match direction {
            Direction::In => 46,
            Direction::Out => 47,
        },
        flags: [0; 2],
        programs: programs.as_mut_ptr().addr() as u64,
        count: 64,
        reserved: 0,
        more: [0; 4],
    };
    // SAFETY: `attr` is laid out like the union's head, its length is passed, and the array is as long as it says.
    let result = unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut attr, size_of::<Query>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(programs.into_iter().take(attr.count as usize).collect())
}

/// Puts a program before all others at the ingress of a device, by TCX (Linux 6.6), for as long as the link is open.
pub fn tcx_link_first(device: i32, program: &OwnedFd) -> io::Result<OwnedFd> {
    const TCX_INGRESS: u32 = 46;
    const BEFORE: u32 = 1 << 3;
    link(program, device, TCX_INGRESS, BEFORE)
}

fn link(program: &OwnedFd, target: i32, place: u32, flags: u32) -> io::Result<OwnedFd> {
    const LINK_CREATE: u32 = 28;
    // No relative, no revision.
    let mut attr: [u32; 8] = [
        program.as_raw_fd().cast_unsigned(),
        target.cast_unsigned(),
        place,
        flags,
        0,
        0,
        0,
        0,
    ];
    // SAFETY: `attr` is laid out like the head of the union for `BPF_LINK_CREATE`, and its length is passed.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, LINK_CREATE, &raw mut attr, size_of_val(&attr)) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the command returns a new descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
