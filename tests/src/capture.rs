//! What arrives on a device.

use std::{
    net::IpAddr,
    os::fd::OwnedFd,
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use crate::{
    PATIENCE,
    frame::Cookie,
    netns::Netns,
    sys::{self, Direction},
};

/// How much of a frame is kept: headers, and a cookie or a quoted packet.
const KEPT: usize = 600;
/// The longest that is read: a GSO packet and its headers.
const LONGEST: usize = 1 << 17;

/// A frame that was seen.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its first octets, from the Ethernet header on.
    pub bytes: Vec<u8>,
    /// Octets in all.
    pub len: usize,
    /// Which way it went.
    pub direction: Direction,
}

/// Addresses and transport of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// What it carries.
    pub transport: Carried,
}

/// A transport header that somebody sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carried {
    /// TCP.
    Tcp {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
        /// It has the RST flag.
        reset: bool,
        /// Acknowledgement number.
        ack: u32,
    },
    /// UDP.
    Udp {
        /// Source port.
        sport: u16,
        /// Destination port.
        dport: u16,
    },
    /// ICMP or `ICMPv6`, by type and code.
    Icmp {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
    },
    /// Anything else.
    Other,
}

impl Seen {
    /// Addresses and transport, if it is IP and whole.
    pub fn header(&self) -> Option<Header> {
        let packet = SlicedPacket::from_ethernet(&self.bytes).ok()?;
        let (src, dst): (IpAddr, IpAddr) = match packet.net? {
            NetSlice::Ipv4(ip) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            ),
            NetSlice::Ipv6(ip) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
            ),
            NetSlice::Arp(_) => return None,
        };
        let transport = match packet.transport {
            Some(TransportSlice::Tcp(tcp)) => Carried::Tcp {
                sport: tcp.source_port(),
                dport: tcp.destination_port(),
                reset: tcp.rst(),
                ack: tcp.acknowledgment_number(),
            },
            Some(TransportSlice::Udp(udp)) => Carried::Udp {
                sport: udp.source_port(),
                dport: udp.destination_port(),
            },
            Some(TransportSlice::Icmpv4(icmp)) => Carried::Icmp {
                kind: icmp.type_u8(),
                code: icmp.code_u8(),
            },
            Some(TransportSlice::Icmpv6(icmp)) => Carried::Icmp {
                kind: icmp.type_u8(),
                code: icmp.code_u8(),
            },
            Some(_) | None => Carried::Other,
        };
        Some(Header { src, dst, transport })
    }
}

/// Records the frames of a device until it is dropped.
#[derive(Debug)]
pub struct Capture {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    frames: Mutex<Vec<Seen>>,
    more: Condvar,
    ends: AtomicBool,
}

impl Capture {
    /// Starts on the device of this name in `netns`.
    pub fn start(netns: &Netns, device: &str) -> Result<Self> {
        let socket = netns
            .run(|| -> std::io::Result<OwnedFd> {
                let socket = sys::packet_socket(device, true)?;
                sys::set_receive_timeout(&socket, Duration::from_millis(50))?;
                // Large frames arrive faster than they are read.
                sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, 32_i32 << 20)?;
                Ok(socket)
            })?
            .with_context(|| format!("capturing on {device} in {}", netns.name()))?;
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        thread::spawn(move || theirs.record(&socket));
        Ok(Self { shared })
    }

    /// Forgets what was seen.
    pub fn clear(&self) {
        self.shared.lock().clear();
    }

    /// Everything that was seen.
    pub fn frames(&self) -> Vec<Seen> {
        self.shared.lock().clone()
    }

    /// Whether a frame with this cookie has been received.
    pub fn has_received(&self, cookie: Cookie) -> bool {
        self.shared
            .lock()
            .iter()
            .any(|seen| seen.direction == Direction::In && cookie.is_in(&seen.bytes))
    }

    /// Waits for a frame that is wanted.
    pub fn wait_for(&self, wanted: impl Fn(&Seen) -> bool) -> Option<Seen> {
        let deadline = Instant::now() + PATIENCE;
        let mut frames = self.shared.lock();
        loop {
            if let Some(seen) = frames.iter().find(|seen| wanted(seen)) {
                return Some(seen.clone());
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            frames = match self.shared.more.wait_timeout(frames, left) {
                Ok((frames, _)) => frames,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Waits for a received frame with this cookie.
    pub fn wait_for_cookie(&self, cookie: Cookie) -> Option<Seen> {
        self.wait_for(|seen| seen.direction == Direction::In && cookie.is_in(&seen.bytes))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Seen>> {
        self.frames
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn record(&self, socket: &OwnedFd) {
        let mut buffer = vec![0; LONGEST];
        while !self.ends.load(Ordering::Relaxed) {
            match sys::receive_frame(socket, &mut buffer) {
                Ok(Some((len, direction))) => {
                    let bytes = buffer[..len.min(KEPT)].to_vec();
                    self.lock().push(Seen {
                        bytes,
                        len,
                        direction,
                    });
                    self.more.notify_all();
                }
                Ok(None) => {}
                // The device has gone.
                Err(_) => return,
            }
        }
    }
}
