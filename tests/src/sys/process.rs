//! Who makes a call, and descriptors from elsewhere.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd, RawFd},
};

use nix::{
    sys::socket::{SockaddrLike, UnixAddr},
    unistd::{ForkResult, Gid, Pid, Uid, fork},
};

use super::check;

/// Makes the calling thread, and no other, one of this user and this group.
pub fn become_user(uid: Uid, gid: Gid) -> io::Result<()> {
    let (uid, gid) = (uid.as_raw(), gid.as_raw());
    // The library's own functions would change all threads.
    for (call, id) in [(libc::SYS_setresgid, gid), (libc::SYS_setresuid, uid)] {
        // SAFETY: numbers only. That the threads of a process have different users is sound, as no code here relies on
        // their being one.
        if unsafe { libc::syscall(call, id, id, id) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A descriptor that a message has brought.
pub fn own(descriptor: RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made it for the receiver of the message, who owns it and passes it on here once.
    unsafe { OwnedFd::from_raw_fd(descriptor) }
}

/// Has a new process connect a socket, in the name of which it is then connected: it is in the cgroup of this thread, and
/// waits to be killed.
pub fn connect_by_child(socket: &OwnedFd, address: &UnixAddr) -> io::Result<Pid> {
    let fd = socket.as_raw_fd();
    let number = fd.cast_unsigned();
    let (pointer, len) = (SockaddrLike::as_ptr(address), address.len());
    // SAFETY: the child makes system calls and nothing else; the address was made before.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(child),
        ForkResult::Child => {
            // SAFETY: as above. What other threads have open is theirs: it would stay open for as long as the child lives.
            unsafe {
                libc::syscall(libc::SYS_close_range, 0, number - 1, 0);
                libc::syscall(libc::SYS_close_range, number + 1, u32::MAX, 0);
                if libc::connect(fd, pointer, len) != 0 {
                    libc::_exit(1);
                }
                loop {
                    libc::pause();
                }
            }
        }
    }
}

/// The answer to a question of at most 64 octets.
pub fn option_bytes(socket: &impl AsRawFd, level: i32, name: i32) -> io::Result<Vec<u8>> {
    let mut answer = [0u8; 64];
    let mut len = 64;
    // SAFETY: `answer` and `len` live through the call, and `len` is the size of `answer`.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            answer.as_mut_ptr().cast(),
            &raw mut len,
        )
    })?;
    Ok(answer[..len as usize].to_vec())
}
