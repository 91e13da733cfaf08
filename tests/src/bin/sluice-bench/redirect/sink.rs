//! The "proxy": takes what it gets and sends nothing on, so that the redirect is measured and not a proxy. The same for
//! every contender.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::socket::{Shutdown, getsockopt, setsockopt, shutdown, sockopt};

use crate::redirect::pin;

/// Where the proxy listens.
pub(crate) const PORT: u16 = 15001;
/// A call: answered with one octet.
pub(crate) const CALL: u8 = b'c';
/// The first octet of a stream, which is counted to its end and answered with the number, in network order.
pub(crate) const STREAM: u8 = b's';
/// A question: answered with the address that the application asked for, as far as it can be known here.
pub(crate) const WHERE: u8 = b'w';

/// At least as many as there are callers at a time.
const WORKERS: usize = 4;
const BUFFER: usize = 256 << 10;

/// Workers that share one listener, until it is dropped.
#[derive(Debug)]
pub(crate) struct Sink {
    listener: Arc<TcpListener>,
    accepted: Arc<AtomicU64>,
    workers: Vec<JoinHandle<()>>,
}

impl Sink {
    /// Listens in the network namespace and the cgroup of this thread. `transparent` lets the kernel hand it
    /// connections to addresses that are not its own.
    pub(crate) fn start(cpu: usize, transparent: bool) -> Result<Self> {
        pin(cpu)?;
        let place = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, PORT);
        let listener = TcpListener::bind(place).with_context(|| format!("listening on {place}"))?;
        if transparent {
            setsockopt(&listener, sockopt::IpTransparent, &true).context("setting IP_TRANSPARENT")?;
        }
        let mut sink = Self {
            listener: Arc::new(listener),
            accepted: Arc::new(AtomicU64::new(0)),
            workers: Vec::new(),
        };
        for _ in 0..WORKERS {
            let (listener, accepted) = (Arc::clone(&sink.listener), Arc::clone(&sink.accepted));
            sink.workers
                .push(thread::spawn(move || work(&listener, &accepted)));
        }
        Ok(sink)
    }

    /// Connections so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Acquire)
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        // Wakes those that wait in accept(), and later calls of it fail.
        if let Err(error) = shutdown(self.listener.as_raw_fd(), Shutdown::Both) {
            eprintln!("ending the proxy: {error}");
            return;
        }
        for worker in self.workers.drain(..) {
            // A worker has nothing to say but its panic, which is printed already.
            let _ = worker.join();
        }
    }
}

fn work(listener: &TcpListener, accepted: &AtomicU64) {
    let mut buffer = vec![0; BUFFER];
    while let Ok((stream, _)) = listener.accept() {
        accepted.fetch_add(1, Ordering::Release);
        // Callers end their connections with a RST.
        let _ = serve(stream, &mut buffer);
    }
}

fn serve(mut stream: TcpStream, buffer: &mut [u8]) -> Result<()> {
    let mut len = stream.read(buffer)?;
    match buffer[0] {
        CALL => stream.write_all(&[CALL])?,
        WHERE => stream.write_all(destination(&stream)?.to_string().as_bytes())?,
        STREAM => {
            let mut total = 0;
            while len > 0 {
                total += u64::try_from(len)?;
                len = stream.read(buffer)?;
            }
            return Ok(stream.write_all(&total.to_be_bytes())?);
        }
        other => bail!("{other} is nothing that an application says"),
    }
    // It is the caller's to end the connection.
    ensure!(stream.read(buffer)? == 0, "the application says too much");
    Ok(())
}

/// As proxies find out: what the kernel says, else the connection's own address.
fn destination(stream: &TcpStream) -> Result<SocketAddr> {
    match getsockopt(stream, sockopt::OriginalDst) {
        Ok(original) => {
            let ip = Ipv4Addr::from(u32::from_be(original.sin_addr.s_addr));
            Ok(SocketAddrV4::new(ip, u16::from_be(original.sin_port)).into())
        }
        // Nobody has rewritten it, or there is nobody who answers such questions.
        Err(_) => Ok(stream.local_addr()?),
    }
}
