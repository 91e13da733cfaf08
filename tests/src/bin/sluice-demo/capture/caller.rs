//! What a process sees that calls somebody.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result};
use sluice_tests::Pod;

use super::web::Served;
use crate::probe::{self, Seen};

/// How long an answer may take; what is refused is refused at once.
const PATIENCE: Duration = Duration::from_secs(10);

/// A call that was answered.
#[derive(Debug)]
pub(super) struct Call {
    /// The process's own address.
    pub(super) own: SocketAddr,
    /// Whom it talks to, as `getpeername()` says it.
    pub(super) peer: SocketAddr,
    /// The other side's word.
    pub(super) answer: Answer,
}

/// What came back.
#[derive(Debug)]
pub(super) enum Answer {
    /// A server's answer.
    Served(Served),
    /// A proxy's, which has none of a server's.
    Status(u16),
    /// The connection was closed without a word.
    Closed,
}

/// What came of a call.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Somebody answered it.
    Made(Call),
    /// Nobody.
    Failed(Seen),
}

impl Outcome {
    /// In a word.
    pub(super) fn seen(&self) -> String {
        match self {
            Self::Made(call) => match &call.answer {
                Answer::Served(served) => format!("200, called by {}", served.from.ip()),
                Answer::Status(status) => format!("{status} from the proxy"),
                Answer::Closed => "closed by the proxy".to_owned(),
            },
            Self::Failed(seen) => seen.to_string(),
        }
    }
}

/// `GET /` of `host` at an address, as a process of the pod.
pub(super) fn get(pod: &Pod, to: SocketAddr, host: &str) -> Result<Outcome> {
    match pod.run(|| request(to, host))? {
        Ok((own, peer, answer)) => Ok(Outcome::Made(Call {
            own,
            peer,
            answer: parse(&answer)?,
        })),
        Err(error) => probe::refusal(&error).map(Outcome::Failed),
    }
}

fn request(to: SocketAddr, host: &str) -> io::Result<(SocketAddr, SocketAddr, String)> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let (own, peer) = (stream.local_addr()?, stream.peer_addr()?);
    let mut answer = String::new();
    let exchanged = write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    )
    .and_then(|()| stream.read_to_string(&mut answer));
    match exchanged {
        // A proxy that cannot go on hangs up, before the question or after it.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
            ) => {}
        Err(error) => return Err(error),
        Ok(_) => {}
    }
    Ok((own, peer, answer))
}

fn parse(answer: &str) -> Result<Answer> {
    if answer.is_empty() {
        return Ok(Answer::Closed);
    }
    let status = answer.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status: u16 = status.with_context(|| format!("this is no HTTP: {answer}"))?;
    if status != 200 {
        return Ok(Answer::Status(status));
    }
    let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    serde_json::from_str(body.trim())
        .map(Answer::Served)
        .with_context(|| format!("not one of our servers: {answer}"))
}
