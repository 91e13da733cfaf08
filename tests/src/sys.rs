//! System calls without a safe wrapper: packet sockets and socket options; `bpf(2)` and processes in rooms of their own.
#![expect(
    clippy::cast_possible_truncation,
    reason = "families and sizes of addresses are small numbers, whose types differ between libc's constants and fields"
)]

use std::{
    io,
    mem::{size_of, zeroed},
    net::IpAddr,
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd},
    time::Duration,
};

pub mod bpf;
pub mod process;

/// Which way a captured frame went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The device received it.
    In,
    /// The device sent it.
    Out,
}

/// `-1` is an error that `errno` names.
fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Index of the device with this name in the network namespace of this thread.
pub fn device_index(name: &str) -> io::Result<i32> {
    let index = nix::net::if_::if_nametoindex(name)?;
    i32::try_from(index).map_err(io::Error::other)
}

/// A socket of this kind in the network namespace of this thread.
pub fn socket(domain: i32, kind: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: `socket` has no memory arguments; its result is checked and owned by nobody else.
    unsafe {
        let fd = check(libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// `AF_PACKET`, bound to a device, with link headers. It receives only if `receive`.
pub fn packet_socket(device: &str, receive: bool) -> io::Result<OwnedFd> {
    let protocol = if receive {
        u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?.to_be()
    } else {
        0
    };
    let fd = socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(protocol))?;
    // SAFETY: all fields are integers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = protocol;
    address.sll_ifindex = device_index(device)?;
    // SAFETY: `address` lives through the call and its size is passed.
    check(unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    })?;
    Ok(fd)
}

/// The other side of a device that is made here: each read takes a packet that is sent by it, as it is and without any
/// link header, and each write is one that it receives.
pub fn tun(name: &str) -> io::Result<std::fs::File> {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")?;
    // SAFETY: all fields are integers or pointers, for which zero is a value.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(15)) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: `request` lives through the call and is what this request reads and writes.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) })?;
    Ok(file)
}

/// Sets an option of type `int` or of a plain structure.
pub fn set_option<T: Copy>(fd: &OwnedFd, level: i32, name: i32, value: T) -> io::Result<()> {
    // SAFETY: `value` lives through the call and its size is passed; the kernel only reads it.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// The kernel's name for the network namespace of a socket.
pub fn netns_cookie(socket: &impl AsRawFd) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `cookie` and `len` live through the call, and `len` is the size of `cookie`.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    })?;
    Ok(cookie)
}

/// How long a receive may wait.
pub fn set_receive_timeout(fd: &OwnedFd, timeout: Duration) -> io::Result<()> {
    set_timeout(fd, libc::SO_RCVTIMEO, timeout)
}

/// How long a call may take.
pub fn set_send_timeout(fd: &OwnedFd, timeout: Duration) -> io::Result<()> {
    set_timeout(fd, libc::SO_SNDTIMEO, timeout)
}

fn set_timeout(fd: &OwnedFd, name: i32, timeout: Duration) -> io::Result<()> {
    let timeout = libc::timeval {
        tv_sec: timeout.as_secs().try_into().map_err(io::Error::other)?,
        tv_usec: timeout.subsec_micros().into(),
    };
    set_option(fd, libc::SOL_SOCKET, name, timeout)
}

/// Sends `bytes` on a bound or connected socket.
pub fn send(fd: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: the pointer and the length are those of `bytes`.
    let sent = unsafe {
        libc::send(
            fd.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_NOSIGNAL,
        )
    };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Sends `bytes` to an address; the port is 0 for raw sockets.
pub fn send_to(fd: &OwnedFd, bytes: &[u8], ip: IpAddr, port: u16) -> io::Result<()> {
    let (address, len) = socket_address(ip, port);
    // SAFETY: pointers and lengths are those of `bytes` and of `address`, which is as large as any address.
    let sent = unsafe {
        libc::sendto(
            fd.as_raw_fd(),
            bytes.as_ptr().cast(),
            bytes.len(),
            libc::MSG_NOSIGNAL,
            (&raw const address).cast(),
            len,
        )
    };
    if sent < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Binds to an address.
pub fn bind(fd: &OwnedFd, ip: IpAddr, port: u16) -> io::Result<()> {
    let (address, len) = socket_address(ip, port);
    // SAFETY: `address` lives through the call and holds at least `len` octets.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) }).map(drop)
}

/// Connects to an address.
pub fn connect(fd: &OwnedFd, ip: IpAddr, port: u16) -> io::Result<()> {
    let (address, len) = socket_address(ip, port);
    // SAFETY: `address` lives through the call and holds at least `len` octets.
    check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), len) }).map(drop)
}

fn socket_address(ip: IpAddr, port: u16) -> (libc::sockaddr_in6, libc::socklen_t) {
    // SAFETY: all fields are integers, for which zero is a value.
    let mut address: libc::sockaddr_in6 = unsafe { zeroed() };
    address.sin6_port = port.to_be();
    match ip {
        IpAddr::V4(v4) => {
            // `sockaddr_in` has the address where `sockaddr_in6` has its flow label.
            address.sin6_family = libc::AF_INET as u16;
            address.sin6_flowinfo = u32::from_ne_bytes(v4.octets());
            (address, size_of::<libc::sockaddr_in>() as libc::socklen_t)
        }
        IpAddr::V6(v6) => {
            address.sin6_family = libc::AF_INET6 as u16;
            address.sin6_addr.s6_addr = v6.octets();
            (address, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
        }
    }
}

/// Receives one frame. `None` if none came in time.
pub fn receive_frame(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<(usize, Direction)>> {
    // SAFETY: all fields are integers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    let mut len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: pointers and lengths are those of `buffer` and of `address`.
    let received = unsafe {
        libc::recvfrom(
            fd.as_raw_fd(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            0,
            (&raw mut address).cast(),
            &raw mut len,
        )
    };
    let Ok(received) = usize::try_from(received) else {
        let error = io::Error::last_os_error();
        let nothing = matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
        );
        return if nothing { Ok(None) } else { Err(error) };
    };
    let outgoing = address.sll_pkttype == libc::PACKET_OUTGOING;
    Ok(Some((
        received,
        if outgoing { Direction::Out } else { Direction::In },
    )))
}
