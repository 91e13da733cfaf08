//! What several tests need.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use sluice_tests::{
    Agent, Bench, Event, Events, PATIENCE, Pod, Proxy,
    bench::{
        addresses::{REGISTERED, UNREGISTERED},
        ip,
    },
    manifest::Details,
    proxy::{Listener, canonical, original},
};

/// How long a test waits for a refusal, which must be quick, or for what must come.
pub(crate) const LONG: Duration = Duration::from_secs(10);
/// How long it waits for what shall not come.
pub(crate) const SHORT: Duration = Duration::from_millis(400);
/// A refusal that took longer than this was none: somebody waited for an answer.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(3);

/// A pod that is captured by a proxy inside it, one that is not, and a node.
///
/// Fields are dropped in this order.
#[derive(Debug)]
pub(crate) struct Stand {
    /// Refusals.
    pub(crate) events: Events,
    pub(crate) agent: Agent,
    pub(crate) proxy: Proxy,
    /// `app/client`: captured.
    pub(crate) pod: Pod,
    /// `app/peer`: not captured.
    pub(crate) peer: Pod,
    pub(crate) bench: Bench,
}

impl Stand {
    /// With no manifest but the node's, and the pod enrolled by its namespace.
    pub(crate) fn start() -> Result<Self> {
        let stand = Self::with(&[], |_, _, _| Ok(()))?;
        stand.enroll(&[])?;
        Ok(stand)
    }

    /// The same with a manifest that says more.
    pub(crate) fn declared(details: &Details) -> Result<Self> {
        let stand = Self::with(&[], |bench, pod, peer| {
            bench.state().declare_with(pod, details)?;
            bench.state().declare(peer)
        })?;
        stand.enroll(&["--name", "app/client"])?;
        Ok(stand)
    }

    /// With nobody enrolled, and something in place before the agent starts.
    pub(crate) fn with(
        arguments: &[&str],
        more: impl FnOnce(&Bench, &Pod, &Pod) -> Result<()>,
    ) -> Result<Self> {
        Self::on(Bench::create()?, arguments, more)
    }

    /// The same on a node that is there already.
    pub(crate) fn on(
        bench: Bench,
        arguments: &[&str],
        more: impl FnOnce(&Bench, &Pod, &Pod) -> Result<()>,
    ) -> Result<Self> {
        let pod = bench.pod("app", "client")?;
        let peer = bench.pod("app", "peer")?;
        let proxy = Proxy::in_pod(&bench, &pod)?;
        more(&bench, &pod, &peer)?;
        let mut agent = Agent::prepare(&bench)?.with_arguments(arguments);
        agent.restart()?;
        let events = agent.observe(false)?;
        Ok(Self {
            events,
            agent,
            proxy,
            pod,
            peer,
            bench,
        })
    }

    /// Captures the pod.
    pub(crate) fn enroll(&self, more: &[&str]) -> Result<()> {
        let cgroup = text(self.proxy.cgroup().path())?;
        let arguments = [&["--proxy-cgroup", cgroup], more].concat();
        self.agent.enroll(self.pod.netns().path(), &arguments).map(drop)
    }

    /// Lets it go again.
    pub(crate) fn unenroll(&self) -> Result<()> {
        self.agent.unenroll(self.pod.netns().path()).map(drop)
    }

    /// Calls as the pod would.
    pub(crate) fn call(&self, to: SocketAddr) -> Result<io::Result<TcpStream>> {
        self.pod.run(|| connect(to))
    }

    /// Asserts that a call of the pod arrives at the listener, and where it wanted to go.
    pub(crate) fn arrives(&self, listener: &Listener, to: SocketAddr) -> Result<[TcpStream; 2]> {
        let stream = self.call(to)?.with_context(|| format!("calling {to}"))?;
        let taken = listener.accept().with_context(|| format!("a call for {to}"))?;
        let wanted = original(&taken).with_context(|| format!("the original destination of {to}"))?;
        ensure!(wanted == canonical(to), "{to} became {wanted}");
        Ok([stream, taken])
    }

    /// Waits for a refusal for this reason.
    pub(crate) fn refusal(&self, hook: &str, reason: &str, dst: SocketAddr) -> Result<Event> {
        let dst = canonical(dst);
        self.events
            .wait_for(&format!("{dst} at {hook} for {reason}"), |event| {
                event.verdict == "deny"
                    && event.hook == hook
                    && event.reason == reason
                    && event.dst == dst.ip()
                    && event.dport == dst.port()
            })
    }
}

/// A test of several checks, one after the other. To start an agent is most of a test's time, above all on an emulated
/// machine, so those that leave things as they found them share one.
macro_rules! on_one_stand {
    ($(#[$attribute:meta])* $test:ident by $start:path: $($check:ident),+ $(,)?) => {
        $(#[$attribute])*
        #[test]
        fn $test() -> Result<()> {
            let stand = $start()?;
            $(
                eprintln!("{}", stringify!($check));
                $crate::common::Fresh::fresh(&stand);
                $check(&stand).with_context(|| stringify!($check))?;
            )+
            Ok(())
        }
    };
}
pub(crate) use on_one_stand;

/// What several checks share.
pub(crate) trait Fresh {
    /// Forgets what the last one has left behind.
    fn fresh(&self);
}

impl Fresh for Stand {
    fn fresh(&self) {
        self.events.clear();
    }
}

/// A path as an argument.
pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

/// Destinations outside the cluster of both families, where the outside listens if a test wants it to.
pub(crate) fn outside() -> [SocketAddr; 4] {
    let [a, b] = REGISTERED;
    let [c, d] = UNREGISTERED;
    [(a, 80), (b, 443), (c, 8080), (d, 1)].map(|(address, port)| SocketAddr::new(ip(address), port))
}

/// Addresses of both families, with a port.
pub(crate) fn at(addresses: [IpAddr; 2], port: u16) -> [SocketAddr; 2] {
    addresses.map(|address| SocketAddr::new(address, port))
}

/// An IPv4 address as an IPv6 socket writes it.
pub(crate) fn mapped(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Calls in the network namespace and the cgroup of this thread.
pub(crate) fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, LONG)?;
    stream.set_read_timeout(Some(LONG))?;
    Ok(stream)
}

/// What is said on one side is heard on the other, both ways.
pub(crate) fn converse(a: &mut TcpStream, b: &mut TcpStream) -> io::Result<()> {
    let mut heard = [0; 4];
    a.write_all(b"ping")?;
    b.read_exact(&mut heard)?;
    b.write_all(b"pong")?;
    a.read_exact(&mut heard)
}

/// Says something to an echo server and hears it again.
pub(crate) fn exchange(stream: &mut TcpStream) -> io::Result<()> {
    let mut heard = [0; 4];
    stream.write_all(b"ping")?;
    stream.read_exact(&mut heard)
}

/// Asserts that a call failed with this error number, without waiting for anybody.
#[track_caller]
pub(crate) fn fails<T: std::fmt::Debug>(
    expected: i32,
    what: &str,
    call: impl FnOnce() -> Result<io::Result<T>>,
) {
    let began = Instant::now();
    match call() {
        Ok(Err(error)) if error.raw_os_error() == Some(expected) => {}
        other => panic!(
            "{what}: expected {}, got {other:?}",
            io::Error::from_raw_os_error(expected)
        ),
    }
    assert!(began.elapsed() < AT_ONCE, "{what}: it took {:?}", began.elapsed());
}

/// Waits until it is so.
pub(crate) fn wait_until(what: &str, mut so: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let began = Instant::now();
    while !so()? {
        if began.elapsed() > PATIENCE {
            bail!("{what} did not happen");
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(began.elapsed())
}
