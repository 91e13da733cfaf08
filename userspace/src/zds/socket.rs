//! The socket: a Unix one that keeps messages apart (`SOCK_SEQPACKET`), which neither std nor tokio can open. Once it is
//! open, it is like any other.

use std::{
    fs::{self, DirBuilder, Permissions},
    io::{self, IoSlice},
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd, RawFd},
        unix::{
            fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _},
            net,
        },
    },
    path::{Path, PathBuf},
    time::SystemTime,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind as bind_to,
        getsockopt, listen, recv, sendmsg, socket, sockopt::PeerPidfd,
    },
};
use tokio::{
    io::Interest,
    net::{UnixListener, UnixStream},
};

use super::{Peer, request::Request};

/// Opens the socket at `path`, in a directory that all may read; root alone may connect.
pub(super) fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent()
        && !directory.exists()
    {
        DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        // What a umask took away.
        fs::set_permissions(directory, Permissions::from_mode(0o755))?;
    }
    // Only a socket is removed: what else is there was not left by a server.
    if fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
        fs::remove_file(path)?;
    }
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind_to(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    listen(&socket, Backlog::MAXALLOWABLE)?;
    UnixListener::from_std(net::UnixListener::from(socket))
}

/// Who has connected, if that may be; otherwise its user.
pub(super) fn peer(stream: &UnixStream) -> io::Result<Result<Peer, u32>> {
    let credentials = stream.peer_cred()?;
    if !may_connect(credentials.uid()) {
        return Ok(Err(credentials.uid()));
    }
    // The kernel says 0 for a process that is not to be seen from this PID namespace.
    let pid = credentials.pid().filter(|pid| *pid > 0);
    Ok(Ok(Peer {
        pid,
        cgroup: pid.and_then(|pid| cgroup(stream, pid)),
        since: SystemTime::now(),
    }))
}

/// The agent runs as root, and so does ztunnel. (Tests run as whoever runs them.)
pub(super) fn may_connect(uid: u32) -> bool {
    uid == nix::unistd::geteuid().as_raw()
}

/// The agent takes who has this cgroup for a proxy, so the process has to be the one that connected: its number may be
/// another's by now.
fn cgroup(stream: &UnixStream, pid: i32) -> Option<PathBuf> {
    let process = match getsockopt(stream, PeerPidfd) {
        Ok(process) => Some(process),
        // Linux before 6.5, which leaves the number to be trusted.
        Err(Errno::ENOPROTOOPT) => None,
        Err(_) => return None,
    };
    let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let runs = |process: &OwnedFd| {
        // Readable is what it becomes when the process ends.
        let mut ended = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        poll(&mut ended, PollTimeout::ZERO) == Ok(0)
    };
    process.as_ref().is_none_or(runs).then(|| cgroup_v2(&lines))?
}

/// The line without controllers is that of the second version (cgroups(7)).
pub(super) fn cgroup_v2(lines: &str) -> Option<PathBuf> {
    let path = lines.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(PathBuf::from(path))
}

/// Sends a request, whole or not at all. May be dropped while it waits.
pub(super) async fn send(stream: &UnixStream, request: &Request) -> io::Result<()> {
    let bytes = request.encode();
    let descriptor: Option<RawFd> = request.descriptor().map(|descriptor| descriptor.as_raw_fd());
    let rights = [ControlMessage::ScmRights(descriptor.as_slice())];
    let control = &rights[..descriptor.iter().len()];
    let send = || {
        let flags = MsgFlags::MSG_NOSIGNAL;
        let sent = sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&bytes)], control, flags, None);
        Ok(sent.map(drop)?)
    };
    stream.async_io(Interest::WRITABLE, send).await
}

/// Receives a datagram, or as much of it as there is room for. Nothing is the end: no message is empty. Descriptors that
/// come along are dropped by the kernel, as no room is given for them. May be dropped while it waits.
pub(super) async fn receive(stream: &UnixStream, buffer: &mut [u8]) -> io::Result<usize> {
    let receive = || Ok(recv(stream.as_raw_fd(), buffer, MsgFlags::empty())?);
    stream.async_io(Interest::READABLE, receive).await
}
