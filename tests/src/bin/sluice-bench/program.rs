//! Running programs in the kernel by `BPF_PROG_TEST_RUN`, and one that does nothing to compare them with.

use std::{
    io,
    os::fd::{FromRawFd as _, OwnedFd, RawFd},
};

use anyhow::{Context as _, Result, ensure};

/// A program in the kernel.
pub(crate) struct Program {
    pub(crate) fd: RawFd,
}

/// `BPF_PROG_TEST_RUN` part of `union bpf_attr` (`include/uapi/linux/bpf.h`, Linux 6.1).
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
}

impl Program {
    /// Runs the program on a packet and returns the mean duration in nanoseconds.
    pub(crate) fn run(&self, frame: &[u8], repeat: u32, expected: Option<i32>) -> Result<u32> {
        let mut attributes = TestRun {
            program: u32::try_from(self.fd)?,
            data_size_in: u32::try_from(frame.len())?,
            data_in: frame.as_ptr() as u64,
            repeat,
            ..TestRun::default()
        };
        bpf(10, &mut attributes).context("BPF_PROG_TEST_RUN")?;
        if let Some(expected) = expected {
            let verdict = attributes.retval.cast_signed();
            ensure!(verdict == expected, "the program says {verdict}, not {expected}");
        }
        Ok(attributes.duration)
    }
}

/// `BPF_PROG_LOAD` part of the same, as far as it is used.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// Loads `r0 = -1; exit`: `TC_ACT_UNSPEC`.
pub(crate) fn load_empty() -> Result<OwnedFd> {
    const SCHED_CLS: u32 = 3;
    let instructions: [[u8; 8]; 2] = [
        [0xb7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff],
        [0x95, 0, 0, 0, 0, 0, 0, 0],
    ];
    let license = c"GPL";
    let mut attributes = ProgLoad {
        kind: SCHED_CLS,
        count: 2,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..ProgLoad::default()
    };
    let fd = bpf(5, &mut attributes).context("BPF_PROG_LOAD")?;
    // SAFETY: the kernel has just returned the descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<RawFd> {
    // SAFETY: `attributes` is the part of `union bpf_attr` that belongs to the command, with its size; the pointers in it
    // are valid for as long as the call takes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    match RawFd::try_from(result) {
        Ok(result) if result >= 0 => Ok(result),
        Ok(_) | Err(_) => Err(io::Error::last_os_error()),
    }
}
