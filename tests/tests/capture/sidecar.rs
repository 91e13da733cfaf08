//! Pods whose proxy is a container of theirs, and what their annotations say of it.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use sluice_tests::{
    Bench, PATIENCE, Pod, Proxy,
    bench::{addresses::REGISTERED, ip},
    command,
    echo::Echo,
    manifest::Details,
    netns::Netns,
    proxy::{INBOUND, Listener, OUTBOUND, connect_as, original},
};

use crate::common::{LONG, Stand, at, connect, converse, exchange, fails};

/// Addresses outside that ranges are made of.
pub(crate) const NEAR: [&str; 2] = ["10.10.0.4", "2001:db8:ffff::4"];
pub(crate) const NEXT: [&str; 2] = ["10.10.0.5", "2001:db8:ffff::5"];
/// The rest of the world.
pub(crate) const FAR: [&str; 2] = REGISTERED;
/// Ports on which the outside listens.
const PORTS: [u16; 5] = [80, 8080, 15008, 15020, 15999];

/// A pod with a sidecar.
pub(crate) struct Sidecar {
    stand: Stand,
    pub(crate) proxy: Proxy,
    _past: Echo,
}

impl Sidecar {
    pub(crate) fn start() -> Result<Self> {
        Self::with(|_, _| Ok(()))
    }

    fn with(more: impl FnOnce(&Bench, &Pod) -> Result<()>) -> Result<Self> {
        let mut proxy = None;
        let stand = Stand::with(&["--sidecar"], |bench, pod, peer| {
            bench.outside().run(|| {
                let add = |address: &str| format!("addr add {address} dev lo\n");
                command::ip(&[NEAR, NEXT].concat().into_iter().map(add).collect::<String>())
            })??;
            let made = Proxy::sidecar(pod)?;
            bench.state().declare_with(pod, &details(&made, &[]))?;
            bench.state().declare(peer)?;
            proxy = Some(made);
            more(bench, pod)
        })?;
        let places = [NEAR, NEXT, FAR].concat().into_iter().map(ip).collect::<Vec<_>>();
        let past = Echo::start(stand.bench.outside(), &places, &PORTS)?;
        Ok(Self {
            stand,
            proxy: proxy.context("no proxy was made")?,
            _past: past,
        })
    }

    /// The pod says this and nothing else.
    pub(crate) fn says(&mut self, annotations: &[(&'static str, &str)]) -> Result<()> {
        let details = details(&self.proxy, annotations);
        self.stand.bench.state().declare_with(&self.stand.pod, &details)?;
        self.stand.agent.settle().map(drop)
    }

    /// Whether the proxy gets a call of the pod, or else somebody outside.
    pub(crate) fn is_captured(&self, listener: &Listener, to: SocketAddr) -> Result<bool> {
        let stream = self.stand.call(to)?.with_context(|| format!("calling {to}"))?;
        let Some(taken) = who_answers(stream, listener)? else {
            return Ok(false);
        };
        let wanted = original(&taken)?;
        ensure!(wanted == to, "{to} became {wanted}");
        Ok(true)
    }
}

/// The proxy's side of a call that it took; `None` if whoever was called has answered himself.
fn who_answers(mut stream: TcpStream, listener: &Listener) -> Result<Option<TcpStream>> {
    stream.write_all(b"ping")?;
    stream.set_nonblocking(true)?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(taken) = listener.try_accept()? {
            return Ok(Some(taken));
        }
        match stream.read(&mut [0; 4]) {
            Ok(4) => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(1));
            }
            other => bail!("neither the proxy nor anybody else answers: {other:?}"),
        }
    }
    bail!("neither the proxy nor anybody else answers")
}

fn details(proxy: &Proxy, annotations: &[(&'static str, &str)]) -> Details {
    let mut all = vec![
        ("sidecar.istio.io/status", "{}".to_owned()),
        (
            "sluice.dev/proxy-cgroup",
            proxy.cgroup().path().display().to_string(),
        ),
    ];
    all.extend(annotations.iter().map(|(key, value)| (*key, (*value).to_owned())));
    Details {
        annotations: all,
        sidecar: true,
        ..Details::default()
    }
}

/// Ports of the pod: whether calls to them are captured.
#[test]
fn ports_of_the_pod() -> Result<()> {
    const INCLUDE: &str = "traffic.sidecar.istio.io/includeInboundPorts";
    const EXCLUDE: &str = "traffic.sidecar.istio.io/excludeInboundPorts";
    type Case<'a> = (&'a [(&'static str, &'a str)], &'a [(u16, bool)]);
    let cases: &[Case<'_>] = &[
        (
            &[],
            &[
                (80, true),
                (8080, true),
                (15020, false),
                (15021, false),
                (15090, false),
                (15008, false),
            ],
        ),
        (
            &[(INCLUDE, "*"), (EXCLUDE, "8080")],
            &[(80, true), (8080, false), (15021, false)],
        ),
        (&[(INCLUDE, "8080")], &[(80, false), (8080, true)]),
        (&[(INCLUDE, "")], &[(80, false), (8080, false)]),
        // Only with `*` is there anything to exclude from.
        (
            &[(INCLUDE, "80,8080"), (EXCLUDE, "8080")],
            &[(80, true), (8080, true)],
        ),
        (
            &[("status.sidecar.istio.io/port", "15999")],
            &[(15999, false), (80, true)],
        ),
    ];
    let mut sidecar = Sidecar::start()?;
    for (annotations, ports) in cases {
        sidecar.says(annotations)?;
        let listener = sidecar.proxy.listen(INBOUND)?;
        for (port, expected) in *ports {
            let app = sidecar.proxy.run(|| Listener::on((ip("::"), *port).into()))??;
            for to in at(sidecar.stand.pod.addresses(), *port) {
                let stream = sidecar
                    .stand
                    .peer
                    .run(|| connect(to))?
                    .with_context(|| format!("{annotations:?}: calling {to}"))?;
                let taken = if *expected { &listener } else { &app };
                let taken = taken
                    .accept()
                    .with_context(|| format!("{annotations:?}: captured is not {expected}"))?;
                ensure!(taken.peer_addr()?.port() == stream.local_addr()?.port());
            }
            ensure!(app.try_accept()?.is_none() && listener.try_accept()?.is_none());
        }
    }
    Ok(())
}

/// Behind an interface that is excluded, nobody is captured, whichever way he calls.
#[test]
fn excluded_interfaces() -> Result<()> {
    let mut behind = None;
    let mut sidecar = Sidecar::with(|bench, pod| {
        let other = Netns::create(&format!("{}-behind", bench.id()))?;
        pod.netns().run(|| {
            command::ip(&format!(
                "link add ex0 type veth peer name eth0 netns {}
addr add 10.77.0.1/24 dev ex0
addr add fd00:77::1/64 dev ex0 nodad
link set ex0 up
",
                other.name()
            ))
        })??;
        other.run(|| {
            command::ip(
                "link set lo up
addr add 10.77.0.2/24 dev eth0
addr add fd00:77::2/64 dev eth0 nodad
link set eth0 up
",
            )
        })??;
        behind = Some(other);
        Ok(())
    })?;
    let behind = behind.context("nobody is behind it")?;
    sidecar.says(&[("traffic.sidecar.istio.io/excludeInterfaces", "ex0")])?;
    let outward = sidecar.proxy.listen(OUTBOUND)?;
    let inward = sidecar.proxy.listen(INBOUND)?;
    let theirs = ["10.77.0.2", "fd00:77::2"].map(ip);
    let _echo = Echo::start(&behind, &theirs, &[80])?;
    for to in at(theirs, 80) {
        ensure!(!sidecar.is_captured(&outward, to)?, "a call for {to} is captured");
    }
    for to in at(FAR.map(ip), 80) {
        ensure!(
            sidecar.is_captured(&outward, to)?,
            "a call for {to} is not captured"
        );
    }
    let app = sidecar
        .stand
        .pod
        .run(|| Listener::on((ip("::"), 8080).into()))??;
    for to in at(["10.77.0.1", "fd00:77::1"].map(ip), 8080) {
        let mut stream = behind.run(|| connect(to))??;
        converse(&mut stream, &mut app.accept()?)?;
    }
    ensure!(inward.try_accept()?.is_none());
    Ok(())
}

/// The application calls a Service that is the pod itself: the proxy sends that to its own inbound listener.
#[test]
fn a_proxy_that_calls_its_own_pod_is_called_itself() -> Result<()> {
    let sidecar = Sidecar::start()?;
    let inward = sidecar.proxy.listen(INBOUND)?;
    let pod = &sidecar.stand.pod;
    let app = pod.run(|| Listener::on((ip("::"), 80).into()))??;
    for to in at(pod.addresses(), 80) {
        let mut stream = sidecar
            .proxy
            .run(|| connect(to))?
            .with_context(|| format!("calling {to}"))?;
        let mut taken = inward.accept()?;
        ensure!(original(&taken)? == to, "{to} became {}", original(&taken)?);
        converse(&mut stream, &mut taken)?;
        // The application itself is let alone.
        let mut stream = pod.run(|| connect(to))??;
        converse(&mut stream, &mut app.accept()?)?;
    }
    // From the address of its inbound side, it gets through to the application.
    let to = SocketAddr::new(pod.v4(), 80);
    let mut stream = sidecar.proxy.run(|| connect_as(ip("127.0.0.6"), to, LONG))??;
    converse(&mut stream, &mut app.accept()?)?;
    for to in at(["127.0.0.1", "::1"].map(ip), 80) {
        let mut stream = sidecar.proxy.run(|| connect(to))??;
        converse(&mut stream, &mut app.accept()?)?;
    }
    ensure!(inward.try_accept()?.is_none());
    Ok(())
}

/// As its proxy is told by its cgroup, a container that runs as the same user is captured.
#[test]
fn without_a_proxy_nothing_is_let_past() -> Result<()> {
    let sidecar = Sidecar::start()?;
    let pod = &sidecar.stand.pod;
    let app = pod.run(|| Listener::on((ip("::"), 80).into()))??;
    for to in at(FAR.map(ip), 80) {
        fails(libc::ECONNREFUSED, "a call of the pod", || {
            pod.run(|| connect(to))
        });
        fails(libc::ECONNREFUSED, "a call of user 1337", || {
            pod.run(|| sluice_tests::proxy::as_user(1337, || connect(to)))?
        });
        exchange(&mut sidecar.proxy.run(|| connect(to))??).context("the proxy's own call")?;
    }
    for to in at(pod.addresses(), 80) {
        fails(libc::ECONNREFUSED, "a call to the pod", || {
            sidecar.stand.peer.run(|| connect(to))
        });
    }
    ensure!(app.try_accept()?.is_none());
    Ok(())
}

/// A sidecar is captured only by an agent that is told to.
#[test]
fn without_the_flag_sidecars_are_let_alone() -> Result<()> {
    let stand = Stand::with(&[], |bench, pod, peer| {
        let proxy = Proxy::sidecar(pod)?;
        bench.state().declare_with(pod, &details(&proxy, &[]))?;
        bench.state().declare(peer)
    })?;
    let _past = Echo::start(stand.bench.outside(), &FAR.map(ip), &[80])?;
    for to in at(FAR.map(ip), 80) {
        exchange(&mut stand.call(to)??)?;
    }
    let listed = stand.agent.endpoint(&stand.pod)?;
    ensure!(listed["not_captured"].is_string(), "{listed}");
    Ok(())
}
