//! A client that asks once, for what the agent serves.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use anyhow::{Context as _, Result};

use crate::PATIENCE;

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The number.
    pub status: u16,
    /// The header, by names in lower case.
    pub headers: Vec<(String, String)>,
    /// The rest.
    pub body: String,
}

impl Answer {
    /// The value of a line of the header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(known, _)| known == name);
        found.next().map(|(_, value)| value.as_str())
    }
}

/// `GET path`, from the calling thread's network namespace, as if `host` had been in the browser's address bar.
pub fn get(address: SocketAddr, host: &str, path: &str) -> Result<Answer> {
    request(
        address,
        &format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
    )
}

/// Sends these octets and reads what comes until the other side hangs up.
pub fn request(address: SocketAddr, text: &str) -> Result<Answer> {
    let mut stream =
        TcpStream::connect_timeout(&address, PATIENCE).with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(text.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).context("reading an answer")?;
    read(&answer).with_context(|| format!("no answer of HTTP: {answer:?}"))
}

fn read(answer: &str) -> Option<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let mut lines = head.lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers = lines.filter_map(|line| line.split_once(": "));
    Some(Answer {
        status,
        headers: headers
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect(),
        body: body.to_owned(),
    })
}
