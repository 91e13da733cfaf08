//! The application: what it does to the proxy, and how long that takes.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use libc::{AF_INET, SO_LINGER, SO_RCVTIMEO, SO_SNDTIMEO, SOCK_STREAM, SOL_SOCKET};
use sluice_tests::sys;

use crate::redirect::sink::{CALL, STREAM, WHERE};

/// Threads that call at the same time.
const CALLERS: u32 = 4;
/// Octets of one write to a stream.
const CHUNK: usize = 128 << 10;
/// A connection that takes longer is lost: a packet that is sent again spoils the figures in any case.
const PATIENCE_SECONDS: i64 = 5;

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// One stream for so long.
    pub(crate) stream_millis: u64,
    /// Connections with an octet each way, from [`CALLERS`] threads at once.
    pub(crate) calls: u32,
    /// The same, one after the other, of which `connect()` is timed.
    pub(crate) connects: u32,
}

impl Load {
    /// Connections that it makes, with the question before it.
    pub(crate) fn connections(&self) -> u64 {
        let Self {
            stream_millis: _,
            calls,
            connects,
        } = *self;
        2 + u64::from(calls / CALLERS * CALLERS) + u64::from(connects)
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Of the stream, in Gbit/s.
    pub(crate) throughput: f64,
    /// Per second.
    pub(crate) connections: f64,
    /// Microseconds that `connect()` takes: the median.
    pub(crate) connect_p50: f64,
    /// And what one in a hundred exceeds.
    pub(crate) connect_p99: f64,
}

/// Does it all to `target`, from the network namespace, cgroup and CPU of this thread.
pub(crate) fn apply(load: &Load, target: SocketAddr) -> Result<Sample> {
    ask(target)?;
    let throughput = stream(target, Duration::from_millis(load.stream_millis)).context("the stream")?;
    let connections = call(target, load.calls).context("the calls")?;
    let mut connects = connect(target, load.connects).context("the connects")?;
    connects.sort_unstable();
    let microseconds = |place: usize| -> Result<f64> {
        let duration = connects.get(place).context("there are no connects")?;
        Ok(duration.as_secs_f64() * 1e6)
    };
    Ok(Sample {
        throughput,
        connections,
        connect_p50: microseconds(connects.len() / 2)?,
        connect_p99: microseconds(connects.len() * 99 / 100)?,
    })
}

/// Fails unless the proxy knows where the application wants to go.
fn ask(target: SocketAddr) -> Result<()> {
    let (fd, _) = open(target)?;
    let mut connection = TcpStream::from(fd);
    connection.write_all(&[WHERE])?;
    let mut answer = [0; 64];
    let len = connection
        .read(&mut answer)
        .context("the proxy does not say where a connection goes")?;
    let answer = String::from_utf8_lossy(&answer[..len]);
    ensure!(
        answer == target.to_string(),
        "the application asked for {target}, and the proxy was told {answer}"
    );
    Ok(())
}

fn stream(target: SocketAddr, time: Duration) -> Result<f64> {
    let (fd, _) = open(target)?;
    let mut connection = TcpStream::from(fd);
    let chunk = vec![STREAM; CHUNK];
    let mut sent = 0u64;
    let start = Instant::now();
    loop {
        connection.write_all(&chunk)?;
        sent += u64::try_from(CHUNK)?;
        if start.elapsed() >= time {
            break;
        }
    }
    connection.shutdown(Shutdown::Write)?;
    let mut answer = [0; 8];
    connection.read_exact(&mut answer)?;
    let elapsed = start.elapsed();
    let received = u64::from_be_bytes(answer);
    ensure!(received == sent, "of {sent} octets {received} have arrived");
    #[expect(
        clippy::cast_precision_loss,
        reason = "a second's traffic has far fewer octets than a float has integers"
    )]
    Ok(received as f64 * 8.0 / 1e9 / elapsed.as_secs_f64())
}

fn call(target: SocketAddr, calls: u32) -> Result<f64> {
    let each = calls / CALLERS;
    let start = Instant::now();
    thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| scope.spawn(|| (0..each).try_for_each(|_| exchange(target).map(drop))))
            .collect();
        for caller in callers {
            match caller.join() {
                Ok(done) => done?,
                Err(_) => bail!("a caller has panicked"),
            }
        }
        Ok(())
    })?;
    Ok(f64::from(each * CALLERS) / start.elapsed().as_secs_f64())
}

fn connect(target: SocketAddr, connects: u32) -> Result<Vec<Duration>> {
    (0..connects).map(|_| exchange(target)).collect()
}

/// A connection with an octet each way. Returns how long `connect()` took.
fn exchange(target: SocketAddr) -> Result<Duration> {
    let (fd, took) = open(target)?;
    // With a RST at the end: no port is kept in TIME_WAIT.
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    sys::set_option(&fd, SOL_SOCKET, SO_LINGER, at_once)?;
    let mut connection = TcpStream::from(fd);
    connection.write_all(&[CALL])?;
    connection
        .read_exact(&mut [0])
        .context("the proxy does not answer")?;
    Ok(took)
}

/// A connected socket, and how long `connect()` took.
fn open(target: SocketAddr) -> Result<(OwnedFd, Duration)> {
    let fd = sys::socket(AF_INET, SOCK_STREAM, 0)?;
    let patience = libc::timeval {
        tv_sec: PATIENCE_SECONDS,
        tv_usec: 0,
    };
    for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
        sys::set_option(&fd, SOL_SOCKET, option, patience)?;
    }
    let start = Instant::now();
    let connected = sys::connect(&fd, target.ip(), target.port());
    let took = start.elapsed();
    connected.map_err(|error| anyhow!(error).context(format!("connecting to {target}")))?;
    Ok((fd, took))
}
