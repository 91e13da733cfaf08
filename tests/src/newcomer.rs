//! Pods that send before anybody knows of them: from the moment at which they have a way out.

use std::{
    io,
    net::{IpAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};

use crate::{
    PATIENCE,
    capture::{Capture, Seen},
    netns::Netns,
    sys::Direction,
};

/// How long a sender rests until its first packet was sent.
const REST: Duration = Duration::from_micros(500);
/// How long it rests after that: many send at the same time, and what they are to be sent past has to run too.
const LATER: Duration = Duration::from_millis(5);
/// Where to.
const PORT: u16 = 53;
/// What they say.
const WORDS: &[u8] = b"is anybody there?";
/// How many there are to be.
const PODS: &str = "SLUICE_LEAK_PODS";

/// Something in a network namespace that sends without end.
#[derive(Debug)]
pub struct Newcomer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    ends: AtomicBool,
    sent: AtomicU64,
}

impl Newcomer {
    /// Begins to send to these addresses. The namespace may have no device yet: then nothing is sent, and tried again.
    pub fn start(netns: &Netns, to: &[IpAddr]) -> Result<Self> {
        let sockets = netns.run(|| -> io::Result<Vec<(UdpSocket, IpAddr)>> {
            let open = |to: &IpAddr| {
                let any: IpAddr = if to.is_ipv4() {
                    [0; 4].into()
                } else {
                    [0_u16; 8].into()
                };
                Ok((UdpSocket::bind((any, 0))?, *to))
            };
            to.iter().map(open).collect()
        })??;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        Ok(Self {
            shared,
            thread: Some(thread::spawn(move || theirs.send(&sockets))),
        })
    }

    /// How many packets were sent.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Waits until it has sent as many.
    pub fn wait_for(&self, count: u64) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.sent() < count {
            ensure!(
                Instant::now() < deadline,
                "a pod could send {} packets only",
                self.sent()
            );
            thread::sleep(REST);
        }
        Ok(())
    }

    /// Ends it. Returns how many packets it has sent.
    pub fn end(mut self) -> Result<u64> {
        self.shared.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().map_err(|_| anyhow!("a sender has panicked"))??;
        }
        Ok(self.sent())
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn send(&self, sockets: &[(UdpSocket, IpAddr)]) -> io::Result<()> {
        while !self.ends.load(Ordering::Relaxed) {
            for (socket, to) in sockets {
                match socket.send_to(WORDS, (*to, PORT)) {
                    Ok(_) => {
                        self.sent.fetch_add(1, Ordering::Relaxed);
                    }
                    // No device, address or route yet, or refused.
                    Err(error) if is_early(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            let has_sent = self.sent.load(Ordering::Relaxed) > 0;
            thread::sleep(if has_sent { LATER } else { REST });
        }
        Ok(())
    }
}

/// What a sender is told that has no way out, or whose packet was refused or forgotten.
fn is_early(error: &io::Error) -> bool {
    let known = [
        libc::ENETUNREACH,
        libc::EHOSTUNREACH,
        libc::EADDRNOTAVAIL,
        libc::EINVAL,
        libc::ENETDOWN,
        libc::ENODEV,
        libc::EPERM,
        libc::EACCES,
        libc::ECONNREFUSED,
        libc::ENOBUFS,
        libc::EAGAIN,
    ];
    error.raw_os_error().is_some_and(|number| known.contains(&number))
}

/// How many pods a test of first packets makes: as many as the environment says, or else fewer where machines are emulated.
pub fn how_many(usually: usize) -> usize {
    let said = std::env::var(PODS).ok().and_then(|text| text.parse().ok());
    said.unwrap_or(if crate::in_guest() { usually / 20 } else { usually })
}

/// How many packets of newcomers have arrived where `capture` is.
pub fn leaked(capture: &Capture) -> usize {
    let frames = capture.frames();
    let of_newcomer = |frame: &&Seen| {
        frame.direction == Direction::In && frame.bytes.windows(WORDS.len()).any(|part| part == WORDS)
    };
    frames.iter().filter(of_newcomer).count()
}
