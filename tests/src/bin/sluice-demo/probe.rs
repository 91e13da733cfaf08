//! What a process of a pod tries, and what comes of it.

use std::{
    fmt,
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use sluice_tests::{Capture, Frame, Pod, sys};

use crate::dns;

/// What the process saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It was answered.
    Answer(String),
    /// It was told no: the error of a call.
    Refused(String),
    /// Nothing came back.
    Silence,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Answer(text) | Self::Refused(text) => f.write_str(text),
            Self::Silence => f.write_str("no answer"),
        }
    }
}

/// What the internet's server saw, as its answer has it.
#[derive(Debug, Deserialize)]
pub(crate) struct Served {
    /// The `Host` that was asked for.
    pub(crate) host: String,
    /// The version of TLS; absent in the clear.
    pub(crate) tls: Option<String>,
    /// The caller.
    pub(crate) from: IpAddr,
}

impl fmt::Display for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "200, {} from {}",
            self.tls.as_deref().unwrap_or("plain"),
            self.from
        )
    }
}

/// The answer to an HTTP request.
#[derive(Debug)]
pub(crate) enum Http {
    /// The server's own.
    Served(Served),
    /// A proxy's, which had none of the server's.
    Status(u16),
    /// None.
    Failed(Seen),
}

/// `GET /get` of `host` at an address, as a process of the pod.
pub(crate) fn http(pod: &Pod, to: SocketAddr, host: &str, patience: Duration) -> Result<Http> {
    match pod.run(|| request(to, host, patience))? {
        Ok(answer) => parse(&answer),
        Err(error) => refusal(&error).map(Http::Failed),
    }
}

fn request(to: SocketAddr, host: &str, patience: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    write!(
        stream,
        "GET /get HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn parse(answer: &str) -> Result<Http> {
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status: u16 = status.with_context(|| format!("this is no HTTP: {answer}"))?;
    if status != 200 {
        return Ok(Http::Status(status));
    }
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let served =
        serde_json::from_str(body.trim()).with_context(|| format!("not the internet's server: {answer}"))?;
    Ok(Http::Served(served))
}

/// A TCP call and nothing more.
pub(crate) fn call(pod: &Pod, to: SocketAddr, patience: Duration) -> Result<Seen> {
    match pod.run(|| TcpStream::connect_timeout(&to, patience))? {
        Ok(_) => Ok(Seen::Answer("connected".to_owned())),
        Err(error) => refusal(&error),
    }
}

/// What a resolver says of a name.
pub(crate) fn resolve(pod: &Pod, server: IpAddr, name: &str, patience: Duration) -> Result<Vec<IpAddr>> {
    pod.run(|| dns::resolve(server, 53, name, patience))?
        .with_context(|| format!("asking {server} for {name}"))
}

/// A DNS query.
pub(crate) fn query(pod: &Pod, server: IpAddr, name: &str, patience: Duration) -> Result<Seen> {
    match pod.run(|| dns::resolve(server, 53, name, patience))? {
        Ok(addresses) => {
            let words: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            Ok(Seen::Answer(format!("{name} is {}", words.join(", "))))
        }
        Err(error) => refusal(error.downcast_ref().with_context(|| format!("{error:#}"))?),
    }
}

/// An echo request by a raw socket, as `ping` sends it.
pub(crate) fn ping(pod: &Pod, to: IpAddr, patience: Duration) -> Result<Seen> {
    match pod.run(|| echo(to, patience))? {
        Ok(true) => Ok(Seen::Answer("echo reply".to_owned())),
        Ok(false) => Ok(Seen::Silence),
        Err(error) => refusal(&error),
    }
}

fn echo(to: IpAddr, patience: Duration) -> io::Result<bool> {
    const IDENTIFIER: [u8; 2] = [0x51, 0x1c];
    let v4 = to.is_ipv4();
    let (domain, protocol, request, reply) = if v4 {
        (libc::AF_INET, libc::IPPROTO_ICMP, 8, 0)
    } else {
        (libc::AF_INET6, libc::IPPROTO_ICMPV6, 128, 129)
    };
    let socket = sys::socket(domain, libc::SOCK_RAW, protocol)?;
    sys::set_receive_timeout(&socket, Duration::from_millis(100))?;
    // Type, code, checksum, identifier, sequence number. ICMPv6 is summed up by the kernel.
    let mut packet = [request, 0, 0, 0, IDENTIFIER[0], IDENTIFIER[1], 0, 1];
    if v4 {
        let sum = u16::from_be_bytes([request, 0]) + u16::from_be_bytes(IDENTIFIER) + 1;
        packet[2..4].copy_from_slice(&(!sum).to_be_bytes());
    }
    sys::send_to(&socket, &packet, to, 0)?;
    let deadline = Instant::now() + patience;
    let mut buffer = [0; 512];
    while Instant::now() < deadline {
        let Some((len, _)) = sys::receive_frame(&socket, &mut buffer)? else {
            continue;
        };
        let message = &buffer[if v4 { 20 } else { 0 }..len];
        if message.len() < 8 {
            continue;
        }
        if message[0] == reply && message[4..6] == IDENTIFIER {
            return Ok(true);
        }
        // Destination unreachable, administratively prohibited.
        if (v4 && message[0] == 3 && message[1] == 13) || (!v4 && message[0] == 1 && message[1] == 1) {
            return Err(io::Error::from_raw_os_error(libc::EACCES));
        }
    }
    Ok(false)
}

/// How a frame made by hand is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum By {
    /// `SOCK_RAW` with headers of its own.
    RawSocket,
    /// `AF_PACKET`, below the pod's own IP.
    PacketSocket,
}

/// Sends a frame and sees whether it arrives outside.
pub(crate) fn frame(
    pod: &Pod,
    frame: &Frame,
    by: By,
    arrived: impl FnOnce() -> Result<bool>,
) -> Result<Seen> {
    match by {
        By::PacketSocket => pod.send(frame)?,
        By::RawSocket => {
            let sent = pod.run(|| -> io::Result<()> {
                let domain = if frame.dst().is_ipv4() {
                    libc::AF_INET
                } else {
                    libc::AF_INET6
                };
                let socket = sys::socket(domain, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
                // Without its Ethernet header.
                sys::send_to(&socket, &frame.bytes()[14..], frame.dst(), 0)
            })?;
            if let Err(error) = sent {
                return refusal(&error);
            }
        }
    }
    Ok(if arrived()? {
        Seen::Answer("it arrived outside".to_owned())
    } else {
        Seen::Refused("nothing arrived outside".to_owned())
    })
}

/// Whether a frame has arrived, once all that was sent before has.
pub(crate) fn has_arrived(bench: &sluice_tests::Bench, outside: &Capture, frame: &Frame) -> Result<bool> {
    bench.flush(outside)?;
    Ok(outside.has_received(frame.cookie()))
}

/// An error that a network gives, in a word; any other is a fault of the demonstration.
pub(crate) fn refusal(error: &io::Error) -> Result<Seen> {
    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) {
        return Ok(Seen::Silence);
    }
    Ok(Seen::Refused(match error.raw_os_error() {
        Some(libc::EPERM) => "refused at once (EPERM)".to_owned(),
        Some(libc::ECONNREFUSED) => "refused (RST)".to_owned(),
        Some(libc::ECONNRESET) => "cut (RST)".to_owned(),
        Some(libc::EACCES | libc::EHOSTUNREACH | libc::ENETUNREACH) => "refused (ICMP prohibited)".to_owned(),
        _ => bail!("an unexpected error: {error}"),
    }))
}
