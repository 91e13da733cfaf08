//! A stand-in for ztunnel on the socket by which it is told of pods (ZDS): it says hello, reads what it is sent and
//! answers when the test wants it to.

use std::{
    io::IoSliceMut,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::{
        signal::{Signal, kill},
        socket::{
            self, AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, recvmsg,
            setsockopt, sockopt::ReceiveTimeout,
        },
        time::{TimeVal, TimeValLike as _},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::{PATIENCE, Proxy, sys};

/// `ZdsHello { version: V1 }`.
const HELLO: &[u8] = b"\x08\x01";
/// As long as what the real one reads.
const LONGEST: usize = 1024;

/// What the agent asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Serve a pod.
    Add {
        /// The pod's.
        uid: String,
        /// Its name, namespace and service account.
        workload: [String; 3],
        /// The number of the network namespace that came along.
        netns: u64,
    },
    /// Go on with a pod.
    Keep(String),
    /// Leave a pod.
    Del(String),
    /// That were all.
    SnapshotSent,
}

/// A connection to the agent, and the process that has made it: the agent takes its cgroup for the proxy's.
#[derive(Debug)]
pub struct Ztunnel {
    socket: OwnedFd,
    child: Pid,
}

impl Ztunnel {
    /// Connects and says hello. The agent may not be listening yet.
    pub fn connect(proxy: &Proxy, path: &Path) -> Result<Self> {
        let address = UnixAddr::new(path)?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let ztunnel = Self::start(proxy, &address)?;
            while ztunnel.is_there()? {
                // Refused while it is not connected.
                if sys::send(&ztunnel.socket, HELLO).is_ok() {
                    return Ok(ztunnel);
                }
                thread::sleep(Duration::from_millis(2));
            }
            ensure!(Instant::now() < deadline, "nobody listens on {}", path.display());
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn start(proxy: &Proxy, address: &UnixAddr) -> Result<Self> {
        let socket = socket::socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        let patience = i64::try_from(PATIENCE.as_millis())?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::milliseconds(patience))?;
        let child = proxy.run(|| sys::process::connect_by_child(&socket, address))??;
        Ok(Self { socket, child })
    }

    /// Whether its process lives.
    fn is_there(&self) -> Result<bool> {
        Ok(waitpid(self.child, Some(WaitPidFlag::WNOHANG))? == WaitStatus::StillAlive)
    }

    /// The next request. It wants to be answered before there is another one.
    pub fn request(&self) -> Result<Request> {
        let mut buffer = [0; LONGEST];
        let mut space = nix::cmsg_space!([i32; 4]);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let message = recvmsg::<()>(
            self.socket.as_raw_fd(),
            &mut parts,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )
        .context("waiting for the agent's request")?;
        let mut descriptors = Vec::new();
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(numbers) = control {
                descriptors.extend(numbers.into_iter().map(sys::process::own));
            }
        }
        let len = message.bytes;
        ensure!(len > 0, "the agent has hung up");
        read(&buffer[..len], &descriptors)
    }

    /// Done.
    pub fn acknowledge(&self) -> Result<()> {
        sys::send(&self.socket, b"\x0a\x00").context("acknowledging")
    }

    /// Not done, and why.
    pub fn refuse(&self, why: &str) -> Result<()> {
        let error = field(1, why.as_bytes())?;
        sys::send(&self.socket, &field(1, &error)?).context("refusing")
    }

    /// Reads and acknowledges what comes until the end of the snapshot.
    pub fn snapshot(&self) -> Result<Vec<Request>> {
        let mut requests = Vec::new();
        loop {
            let request = self.request()?;
            self.acknowledge()?;
            if request == Request::SnapshotSent {
                return Ok(requests);
            }
            requests.push(request);
        }
    }
}

impl Drop for Ztunnel {
    fn drop(&mut self) {
        // It may have gone already: then there is nobody to wait for.
        let _ = kill(self.child, Signal::SIGKILL);
        let _ = waitpid(self.child, None);
    }
}

/// A field of bytes, shorter than 128.
fn field(tag: u8, content: &[u8]) -> Result<Vec<u8>> {
    let len = u8::try_from(content.len())?;
    ensure!(len < 128, "too long");
    Ok([&[tag << 3 | 2, len], content].concat())
}

fn read(bytes: &[u8], descriptors: &[OwnedFd]) -> Result<Request> {
    let [(tag, content)] = &fields(bytes)?[..] else {
        bail!("not one request: {bytes:x?}")
    };
    let parts = fields(content)?;
    let text = |tag| find(&parts, tag).map(|content| String::from_utf8_lossy(content).into_owned());
    ensure!(
        descriptors.len() == usize::from(*tag == 1),
        "{} descriptors with a request of kind {tag}",
        descriptors.len()
    );
    Ok(match tag {
        1 => {
            let info = fields(find(&parts, 2).context("no workload_info: the real one exits")?)?;
            let part = |tag| find(&info, tag).map(|text| String::from_utf8_lossy(text).into_owned());
            let [descriptor] = descriptors else {
                bail!("no namespace came along")
            };
            let netns = std::fs::metadata(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))?;
            Request::Add {
                uid: text(1).context("no uid")?,
                workload: [1, 2, 3].map(|tag| part(tag).unwrap_or_default()),
                netns: netns.ino(),
            }
        }
        2 => Request::Del(text(2).context("no uid")?),
        3 => Request::SnapshotSent,
        5 => Request::Keep(text(1).context("no uid")?),
        other => bail!("no request has the tag {other}"),
    })
}

fn find<'a>(parts: &[(u8, &'a [u8])], wanted: u8) -> Option<&'a [u8]> {
    parts
        .iter()
        .find(|(tag, _)| *tag == wanted)
        .map(|(_, content)| *content)
}

/// The fields of a message, all of which are bytes.
fn fields(mut bytes: &[u8]) -> Result<Vec<(u8, &[u8])>> {
    let mut found = Vec::new();
    while let Some((head, rest)) = bytes.split_first() {
        ensure!(head & 7 == 2, "a field that is not bytes: {bytes:x?}");
        let (len, rest) = length(rest)?;
        ensure!(len <= rest.len(), "it ends early: {bytes:x?}");
        let (content, rest) = rest.split_at(len);
        found.push((head >> 3, content));
        bytes = rest;
    }
    Ok(found)
}

/// A number of at most two octets.
fn length(bytes: &[u8]) -> Result<(usize, &[u8])> {
    match *bytes {
        [low, ref rest @ ..] if low < 128 => Ok((low.into(), rest)),
        [low, high, ref rest @ ..] if high < 128 => {
            Ok((usize::from(low & 127) | usize::from(high) << 7, rest))
        }
        _ => bail!("no length: {bytes:x?}"),
    }
}
