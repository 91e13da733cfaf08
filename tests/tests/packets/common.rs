//! What several tests need.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use sluice_tests::{bench::ip, manifest::Policy};

/// How long a test waits for what shall not come, or for a refusal that must be quick.
pub(crate) const SHORT: Duration = Duration::from_millis(400);
/// How long it waits for what must come.
pub(crate) const LONG: Duration = Duration::from_secs(10);

/// Enforced, in silence: a packet is refused or it is not.
pub(crate) fn silent() -> Policy {
    Policy::default()
}

/// Enforced, with answers.
pub(crate) fn rejecting() -> Policy {
    Policy {
        on_deny: "Reject",
        ..Policy::default()
    }
}

/// Addresses of both families.
pub(crate) fn both(addresses: [&str; 2]) -> [IpAddr; 2] {
    addresses.map(ip)
}

/// The unspecified address of the same family.
pub(crate) fn any_of(peer: IpAddr) -> IpAddr {
    if peer.is_ipv4() {
        [0; 4].into()
    } else {
        [0_u16; 8].into()
    }
}

/// Connects by TCP.
pub(crate) fn connect(ip: IpAddr, port: u16, patience: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::new(ip, port), patience)?;
    stream.set_read_timeout(Some(patience))?;
    Ok(stream)
}

/// A UDP socket that is connected.
pub(crate) fn udp(ip: IpAddr, port: u16, patience: Duration) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((any_of(ip), 0))?;
    socket.set_read_timeout(Some(patience))?;
    socket.connect((ip, port))?;
    Ok(socket)
}

/// Says something to an echo server and hears it again.
pub(crate) fn exchange(stream: &mut TcpStream) -> io::Result<()> {
    let mut heard = [0; 4];
    stream.write_all(b"ping")?;
    stream.read_exact(&mut heard)
}

/// The same by datagrams.
pub(crate) fn exchange_datagrams(socket: &UdpSocket) -> io::Result<()> {
    let mut heard = [0; 4];
    socket.send(b"ping")?;
    socket.recv(&mut heard).map(drop)
}

/// Whether this is what happens when nobody answers.
pub(crate) fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Asserts that a call failed with this error number.
#[track_caller]
pub(crate) fn assert_errno<T: std::fmt::Debug>(result: io::Result<T>, expected: i32, what: &str) {
    match result {
        Err(error) if error.raw_os_error() == Some(expected) => {}
        other => panic!(
            "{what}: expected {}, got {other:?}",
            io::Error::from_raw_os_error(expected)
        ),
    }
}
