//! Small web servers that answer with what they saw.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

const PATIENCE: Duration = Duration::from_secs(10);

/// What the server saw, as its answer has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Served {
    /// The `Host` that was asked for.
    pub(super) host: String,
    /// The caller.
    pub(super) from: SocketAddr,
    /// Where the call arrived.
    pub(super) to: SocketAddr,
}

/// A server on every address of a namespace, until it is dropped.
#[derive(Debug)]
pub(super) struct Web {
    ends: Arc<AtomicBool>,
}

impl Web {
    /// Listens on a port in the namespace and the cgroup of this thread; its own threads stay there.
    pub(super) fn start(port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))
            .with_context(|| format!("listening on port {port}"))?;
        listener.set_nonblocking(true)?;
        let ends = Arc::new(AtomicBool::new(false));
        let theirs = Arc::clone(&ends);
        thread::spawn(move || serve(&listener, &theirs));
        Ok(Self { ends })
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

fn serve(listener: &TcpListener, ends: &AtomicBool) {
    while !ends.load(Ordering::Relaxed) {
        match listener.accept() {
            // Who calls and goes away is not the server's concern.
            Ok((stream, from)) => drop(thread::spawn(move || answer(stream, from))),
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn answer(mut stream: TcpStream, from: SocketAddr) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let served = Served {
        host: host(&mut stream)?,
        from: canonical(from),
        to: canonical(stream.local_addr()?),
    };
    let body = serde_json::to_string(&served)?;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// The `Host` of a request, which has no body.
fn host(stream: &mut TcpStream) -> io::Result<String> {
    let mut request = Vec::new();
    let mut part = [0; 1024];
    while !request.ends_with(b"\r\n\r\n") {
        let len = stream.read(&mut part)?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        request.extend_from_slice(&part[..len]);
    }
    let request = String::from_utf8_lossy(&request);
    let host = request.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("host").then(|| value.trim().to_owned())
    });
    Ok(host.unwrap_or_default())
}

/// An IPv4 address as such, not mapped into IPv6.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
