//! A node on which everything that sluice does is done: pods that are held to a policy, a gateway that passes on what
//! they say, a captured pod with its proxy and its resolver.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use ebpf::rules::ABI;
use sluice_tests::{
    Agent, Bench, Capture, Pod, Proxy,
    bench::{
        addresses::{REGISTERED, UNREGISTERED},
        ip,
    },
    echo::Echo,
    manifest::Policy,
    proxy::{DNS, Listener, OUTBOUND, original},
};

/// Where the gateway takes what it passes on.
pub(crate) const RELAY: u16 = 8080;
/// How long a call may take, on an emulated machine, too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// How long a server waits before it looks whether it is to end.
const TICK: Duration = Duration::from_millis(100);

/// Fields are dropped in this order.
pub(crate) struct Stand {
    pub(crate) agent: Agent,
    pub(crate) places: Places,
}

/// One at a time: what an agent takes to start is taken from the load of all.
static TURN: Mutex<()> = Mutex::new(());

/// Who talks to whom.
pub(crate) struct Places {
    /// What arrives outside.
    pub(crate) outside: Capture,
    /// A call from outside to `peer`, which is there all the time.
    inbound: TcpStream,
    _servers: Servers,
    _proxy: Proxy,
    /// `app/client`: captured.
    pub(crate) client: Pod,
    /// `app/peer`: held to the policy, not captured.
    pub(crate) peer: Pod,
    /// `egress/gateway`: the way out.
    pub(crate) gateway: Pod,
    /// Of which no object tells.
    pub(crate) stranger: Pod,
    pub(crate) bench: Bench,
    _turn: MutexGuard<'static, ()>,
}

impl Stand {
    pub(crate) fn start() -> Result<Self> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let bench = Bench::create()?;
        let client = bench.pod("app", "client")?;
        let peer = bench.pod("app", "peer")?;
        let gateway = bench.pod("egress", "gateway")?;
        let stranger = bench.pod("app", "stranger")?;
        for pod in [&client, &peer, &gateway] {
            bench.state().declare(pod)?;
        }
        bench
            .state()
            .register("registered", &REGISTERED, &[(80, "HTTP")])?;
        bench.state().policy(&Policy::default())?;
        let outside = bench.capture_outside()?;
        // Without an agent it gets out: what counts leaks can count.
        let forbidden = peer.sender().udp(ip(UNREGISTERED[0]), 9);
        peer.send(&forbidden)?;
        let control = outside.wait_for_cookie(forbidden.cookie());
        control.context("what shall not get out does not get out without an agent either")?;

        let proxy = Proxy::in_pod(&bench, &client)?;
        let servers = Servers::start(&bench, &proxy, &peer, &gateway)?;
        let agent = Agent::start(&bench)?;
        let cgroup = text(proxy.cgroup().path())?;
        let enrolled = ["--proxy-cgroup", cgroup.as_str(), "--name", "app/client"];
        agent.enroll(client.netns().path(), &enrolled)?;
        let inbound = bench.outside().run(|| call((peer.v4(), 7).into()))??;
        Ok(Self {
            agent,
            places: Places {
                outside,
                inbound,
                _servers: servers,
                _proxy: proxy,
                client,
                peer,
                gateway,
                stranger,
                bench,
                _turn: turn,
            },
        })
    }
}

/// Waits until an agent that was started is ready, under a load and perhaps on an emulated machine.
pub(crate) fn is_back(agent: &mut Agent) -> Result<()> {
    const TRIES: u32 = 12;
    for _ in 1..TRIES {
        if agent.settle().is_ok() {
            return Ok(());
        }
    }
    agent.settle().map(drop)
}

/// The directory of a version.
pub(crate) fn version(agent: &Agent, abi: u32) -> PathBuf {
    agent.bpffs().join(format!("v{abi}"))
}

/// Makes an agent of another version of the one that has ended: its directory of pins, and what it has written down of
/// that.
pub(crate) fn rename(agent: &Agent, abi: u32) -> Result<()> {
    let (from, to) = (version(agent, ABI), version(agent, abi));
    fs::rename(&from, &to).context("renaming a directory of pins")?;
    for entry in fs::read_dir(agent.run_dir().join("pods"))? {
        let path = entry?.path();
        let record = fs::read_to_string(&path)?;
        fs::write(&path, record.replace(&text(&from)?, &text(&to)?))?;
    }
    Ok(())
}

fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().context("a path that is no text")?.to_owned())
}

impl Places {
    /// A call that was made before the agent changed goes on: its answers are let out for its sake.
    pub(crate) fn inbound_goes_on(&mut self) -> io::Result<()> {
        let mut heard = [0; 4];
        self.inbound.write_all(b"ping")?;
        self.inbound.read_exact(&mut heard)
    }
}

/// Calls in the network namespace and the cgroup of this thread.
pub(crate) fn call(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// All that answers, until it is dropped.
struct Servers {
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    _echoes: [Echo; 2],
}

impl Servers {
    fn start(bench: &Bench, proxy: &Proxy, peer: &Pod, gateway: &Pod) -> Result<Self> {
        let echoes = [
            Echo::start(bench.outside(), &REGISTERED.map(ip), &[80])?,
            Echo::start(peer.netns(), &peer.addresses(), &[7])?,
        ];
        let mut servers = Self {
            ends: Arc::default(),
            threads: Vec::new(),
            _echoes: echoes,
        };
        let captured = proxy.listen(OUTBOUND)?;
        servers.serve(move || answer_call(&captured));
        for address in ["127.0.0.1", "::1"] {
            let socket = proxy.run(|| UdpSocket::bind((ip(address), DNS)))??;
            socket.set_read_timeout(Some(TICK))?;
            servers.serve(move || answer_question(&socket));
        }
        let listener = gateway.run(|| TcpListener::bind((ip("::"), RELAY)))??;
        listener.set_nonblocking(true)?;
        // A thread stays where it was made.
        let gateway_thread = gateway.run(|| {
            let ends = Arc::clone(&servers.ends);
            thread::spawn(move || until(&ends, || pass_on(&listener)))
        })?;
        servers.threads.push(gateway_thread);
        Ok(servers)
    }

    fn serve(&mut self, answer: impl FnMut() -> Result<()> + Send + 'static) {
        let ends = Arc::clone(&self.ends);
        self.threads.push(thread::spawn(move || until(&ends, answer)));
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// Who is not answered counts it as a failure; why, is said here.
fn until(ends: &AtomicBool, mut answer: impl FnMut() -> Result<()>) {
    while !ends.load(Ordering::Relaxed) {
        if let Err(error) = answer() {
            eprintln!("a server: {error:#}");
        }
    }
}

/// The proxy says whereto a call was.
fn answer_call(listener: &Listener) -> Result<()> {
    let Some(mut stream) = listener.try_accept()? else {
        thread::sleep(Duration::from_millis(1));
        return Ok(());
    };
    let to = original(&stream).context("the original destination")?;
    Ok(write!(stream, "{to}")?)
}

/// So does its resolver say what it was asked.
fn answer_question(socket: &UdpSocket) -> Result<()> {
    let mut question = [0; 64];
    if let Ok((len, from)) = socket.recv_from(&mut question) {
        socket.send_to(&question[..len], from)?;
    }
    Ok(())
}

/// The gateway makes a call of its own for each that it gets.
fn pass_on(listener: &TcpListener) -> Result<()> {
    let Ok((mut stream, from)) = listener.accept() else {
        thread::sleep(Duration::from_millis(1));
        return Ok(());
    };
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let family = usize::from(!is_v4(from.ip()));
    let mut words = [0; 4];
    let mut out = call((ip(REGISTERED[family]), 80).into()).context("from the gateway to the outside")?;
    stream.read_exact(&mut words)?;
    out.write_all(&words)?;
    out.read_exact(&mut words)?;
    Ok(stream.write_all(&words)?)
}

fn is_v4(address: IpAddr) -> bool {
    address.to_canonical().is_ipv4()
}
