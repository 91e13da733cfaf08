//! As much of DNS as a client needs: one question, the addresses of the answer.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

const A: u16 = 1;
const AAAA: u16 = 28;
const HEADER: usize = 12;

/// Asks `server` for the addresses of `name`, of the family that the server is asked by. An error of the socket is an
/// answer of the network and comes back as it is.
pub(crate) fn resolve(server: IpAddr, port: u16, name: &str, patience: Duration) -> Result<Vec<IpAddr>> {
    let socket = UdpSocket::bind(unspecified((server, port).into())).context("opening a UDP socket")?;
    socket.set_read_timeout(Some(patience))?;
    socket.send_to(&question(name, server.is_ipv6())?, (server, port))?;
    // Connected only after the call was made: errors that come back belong to this socket then.
    socket.connect((server, port))?;
    let mut answer = [0; 512];
    let len = socket.recv(&mut answer)?;
    addresses(&answer[..len]).with_context(|| format!("{server} answered something unreadable for {name}"))
}

/// How a question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// `sendto()` and `recvfrom()`.
    Udp,
    /// `connect()` first.
    ConnectedUdp,
    /// A connection.
    Tcp,
}

/// An answer, and who it says that it comes from.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) from: SocketAddr,
    pub(crate) addresses: Vec<IpAddr>,
}

/// Asks `server` for the addresses of `name`, of the family that the server is asked by.
pub(crate) fn ask(server: SocketAddr, name: &str, by: By, patience: Duration) -> Result<Answer> {
    let question = question(name, server.is_ipv6())?;
    let (from, answer) = match by {
        By::Udp => {
            let socket = UdpSocket::bind(unspecified(server))?;
            socket.set_read_timeout(Some(patience))?;
            socket.send_to(&question, server)?;
            let mut answer = vec![0; 512];
            let (len, from) = socket.recv_from(&mut answer)?;
            answer.truncate(len);
            (from, answer)
        }
        By::ConnectedUdp => {
            let socket = UdpSocket::bind(unspecified(server))?;
            socket.set_read_timeout(Some(patience))?;
            socket.connect(server)?;
            socket.send(&question)?;
            let mut answer = vec![0; 512];
            let len = socket.recv(&mut answer)?;
            answer.truncate(len);
            (socket.peer_addr()?, answer)
        }
        By::Tcp => {
            let mut stream = TcpStream::connect_timeout(&server, patience)?;
            stream.set_read_timeout(Some(patience))?;
            let len = u16::try_from(question.len()).context("a question is too long")?;
            stream.write_all(&[&len.to_be_bytes(), question.as_slice()].concat())?;
            let mut len = [0; 2];
            stream.read_exact(&mut len)?;
            let mut answer = vec![0; usize::from(u16::from_be_bytes(len))];
            stream.read_exact(&mut answer)?;
            (stream.peer_addr()?, answer)
        }
    };
    let addresses = addresses(&answer).with_context(|| format!("{server} answered something unreadable"))?;
    Ok(Answer { from, addresses })
}

fn unspecified(like: SocketAddr) -> SocketAddr {
    let any = if like.is_ipv4() {
        IpAddr::from([0; 4])
    } else {
        IpAddr::from([0; 16])
    };
    SocketAddr::new(any, 0)
}

/// A query with recursion desired.
fn question(name: &str, v6: bool) -> Result<Vec<u8>> {
    let mut bytes = vec![0x51, 0x1c, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).context("a label is too long")?);
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend((if v6 { AAAA } else { A }).to_be_bytes());
    bytes.extend(1_u16.to_be_bytes());
    Ok(bytes)
}

fn addresses(answer: &[u8]) -> Result<Vec<IpAddr>> {
    ensure!(answer.len() >= HEADER, "it is too short");
    let count = |at: usize| u16::from_be_bytes([answer[at], answer[at + 1]]);
    let mut at = HEADER;
    for _ in 0..count(4) {
        at = after_name(answer, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..count(6) {
        at = after_name(answer, at)?;
        let fixed = answer.get(at..at + 10).context("it is cut off")?;
        let len = usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
        let data = answer.get(at + 10..at + 10 + len).context("it is cut off")?;
        if let Ok(octets) = <[u8; 4]>::try_from(data) {
            found.push(Ipv4Addr::from(octets).into());
        } else if let Ok(octets) = <[u8; 16]>::try_from(data) {
            found.push(Ipv6Addr::from(octets).into());
        }
        at += 10 + len;
    }
    Ok(found)
}

/// A name ends with an empty label or with a pointer.
fn after_name(answer: &[u8], mut at: usize) -> Result<usize> {
    loop {
        let len = *answer.get(at).context("it is cut off")?;
        match len {
            0 => return Ok(at + 1),
            0xc0.. => return Ok(at + 2),
            _ => at += 1 + usize::from(len),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_are_found_behind_pointers() {
        let mut answer = question("httpbin.org", false).expect("a question");
        answer[7] = 2;
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 10]);
        answer.extend([0xc0, 12, 0, 28, 0, 1, 0, 0, 0, 60, 0, 16]);
        answer.extend(Ipv6Addr::LOCALHOST.octets());
        let expected = [IpAddr::from([203, 0, 113, 10]), IpAddr::from(Ipv6Addr::LOCALHOST)];
        assert_eq!(addresses(&answer).expect("an answer"), expected);
        assert!(addresses(&answer[..answer.len() - 1]).is_err());
    }
}
