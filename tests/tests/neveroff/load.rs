//! A steady load: every 10 ms one call through capture, one through the gateway, one question to a DNS server, and two
//! packets that must not get out; of both families in turn.

use std::{
    fmt, fs,
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{
    Pod,
    bench::{addresses::UNREGISTERED, ip},
    capture::Seen,
    in_guest,
    sys::Direction,
};

use crate::stand::{PATIENCE, Places, RELAY, call};

/// Where it is emulated a machine has other things to do as well, such as loading programs.
fn period() -> Duration {
    Duration::from_millis(if in_guest() { 100 } else { 10 })
}
/// For how long there is load before and after what is tried.
const AROUND: Duration = Duration::from_millis(400);
/// What was done, and what came of it.
#[derive(Debug)]
pub(crate) struct Report {
    captured: Tally,
    passed_on: Tally,
    asked: Tally,
    forbidden: Tally,
    leaked: usize,
    /// Calls that nobody answered for a second, so that they were made again.
    repeated: u64,
}

#[derive(Debug, Default)]
struct Tally {
    done: usize,
    failed: Vec<String>,
    slowest: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            captured,
            passed_on,
            asked,
            forbidden,
            leaked,
            repeated,
        } = self;
        write!(
            f,
            "{captured} captured calls, {passed_on} calls through the gateway, {asked} questions, {forbidden} pairs of \
             forbidden packets of which {leaked} got out; {repeated} calls had to be repeated"
        )
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            done,
            failed,
            slowest,
        } = self;
        write!(
            f,
            "{done} ({} failed, slowest {} ms)",
            failed.len(),
            slowest.as_millis()
        )
    }
}

impl Report {
    /// Asserts that there was a load, that nothing of it failed, and that nothing got out.
    pub(crate) fn is_flawless(&self) -> Result<()> {
        ensure!(self.leaked == 0, "{} packets got out", self.leaked);
        for tally in [&self.captured, &self.passed_on, &self.asked, &self.forbidden] {
            ensure!(tally.failed.is_empty(), "failed: {:#?}", tally.failed);
            ensure!(tally.done > 20, "there was hardly any load");
        }
        // On an emulated machine a second is not long.
        ensure!(
            self.repeated == 0 || in_guest(),
            "{} calls had to be repeated",
            self.repeated
        );
        Ok(())
    }
}

/// Has a load on the node before, while and after `change` happens, and says of it what came out.
pub(crate) fn under_load(name: &str, places: &Places, change: impl FnOnce() -> Result<()>) -> Result<Report> {
    places.outside.clear();
    let repeated = repeated(places)?;
    let stop = &AtomicBool::new(false);
    let captured = || {
        let call_out = |family: usize| call_captured((ip(UNREGISTERED[family]), 80).into());
        places.client.run(|| paced(stop, call_out))
    };
    let passed_on = || {
        let addresses = places.gateway.addresses();
        let call_gateway = |family: usize| call_gateway(addresses[family]);
        places.peer.run(|| paced(stop, call_gateway))
    };
    let asked = || {
        let ask = |family: usize| ask((ip(UNREGISTERED[family]), 53).into());
        places.client.run(|| paced(stop, ask))
    };
    let forbidden = || {
        let send = |family: usize| {
            let to = ip(UNREGISTERED[family]);
            send_forbidden(&places.peer, to)?;
            send_forbidden(&places.stranger, to)
        };
        places.peer.run(|| paced(stop, send))
    };
    let (changed, [captured, passed_on, asked, forbidden]) = thread::scope(|scope| -> Result<_> {
        let threads = [
            scope.spawn(captured),
            scope.spawn(passed_on),
            scope.spawn(asked),
            scope.spawn(forbidden),
        ];
        thread::sleep(AROUND);
        let changed = change();
        thread::sleep(AROUND);
        stop.store(true, Ordering::Relaxed);
        let tallies = threads.map(|thread| {
            let joined = thread.join();
            joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let [a, b, c, d] = tallies;
        Ok((changed, [a?, b?, c?, d?]))
    })?;
    places.bench.flush(&places.outside)?;
    let report = Report {
        captured,
        passed_on,
        asked,
        forbidden,
        leaked: leaked(places),
        repeated: self::repeated(places)? - repeated,
    };
    eprintln!("{name}: {report}");
    changed.with_context(|| name.to_owned())?;
    Ok(report)
}

/// Nobody may send there, captured or not.
fn leaked(places: &Places) -> usize {
    let forbidden = UNREGISTERED.map(ip);
    let frames = places.outside.frames();
    let came_in = frames.iter().filter(|frame| frame.direction == Direction::In);
    let headers = came_in.filter_map(Seen::header);
    headers.filter(|header| forbidden.contains(&header.dst)).count()
}

/// How many first segments of calls were sent again, by all who call.
fn repeated(places: &Places) -> Result<u64> {
    let mut sum = 0;
    for pod in [&places.client, &places.peer, &places.gateway] {
        let text = pod
            .netns()
            .run(|| fs::read_to_string("/proc/thread-self/net/netstat"))??;
        // A line of names, and one of numbers.
        let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
        let (names, numbers) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
        let mut pairs = names.split(' ').zip(numbers.split(' '));
        let (_, number) = pairs
            .find(|(name, _)| *name == "TCPSynRetrans")
            .context("no TCPSynRetrans")?;
        sum += number.parse::<u64>()?;
    }
    Ok(sum)
}

/// Does it once in a period, of one family after the other, until it is enough.
fn paced(stop: &AtomicBool, once: impl Fn(usize) -> io::Result<()>) -> Tally {
    let mut tally = Tally::default();
    let mut next = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        if let Err(error) = once(tally.done % 2) {
            tally.failed.push(format!("number {}: {error}", tally.done));
        }
        tally.done += 1;
        tally.slowest = tally.slowest.max(began.elapsed());
        // Who is late does not hurry.
        next = (next + period()).max(Instant::now());
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    tally
}

/// The proxy takes it, and is told whereto it was.
fn call_captured(to: SocketAddr) -> io::Result<()> {
    let mut answer = String::new();
    call(to)?.read_to_string(&mut answer)?;
    expect(&answer, &to.to_string())
}

fn call_gateway(gateway: IpAddr) -> io::Result<()> {
    let mut stream = call((gateway, RELAY).into())?;
    let mut heard = [0; 4];
    stream.write_all(b"ping")?;
    stream.read_exact(&mut heard)?;
    expect(&heard, b"ping")
}

/// The proxy's resolver answers, and the answer seems to come from the server.
fn ask(server: SocketAddr) -> io::Result<()> {
    let any: IpAddr = if server.is_ipv4() { ip("0.0.0.0") } else { ip("::") };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.send_to(b"question", server)?;
    let mut answer = [0; 64];
    let (len, from) = socket.recv_from(&mut answer)?;
    expect(&answer[..len], b"question")?;
    expect(&from, &server)
}

fn send_forbidden(pod: &Pod, to: IpAddr) -> io::Result<()> {
    pod.send(&pod.sender().udp(to, 9)).map_err(io::Error::other)
}

fn expect<T: PartialEq + fmt::Debug + ?Sized>(found: &T, wanted: &T) -> io::Result<()> {
    if found == wanted {
        return Ok(());
    }
    Err(io::Error::other(format!("{found:?} in place of {wanted:?}")))
}
