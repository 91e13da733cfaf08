//! Calls to a captured pod: the proxy gets them first, and calls the application in the caller's name.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::utsname::uname;
use sluice_tests::{
    Bench,
    bench::{
        addresses::{NODE_V4, NODE_V6},
        ip,
    },
    cgroup::Cgroup,
    command,
    manifest::Details,
    netns::on_thread,
    proxy::{HBONE, INBOUND, Listener, OUTBOUND, canonical, connect_as, original},
};

use crate::common::{LONG, Stand, at, connect, converse, fails, on_one_stand, text};

/// A port of the application.
const APP: u16 = 80;

/// An application of the pod.
fn application(stand: &Stand) -> Result<Listener> {
    stand.pod.run(|| Listener::on((ip("::"), APP).into()))?
}

/// Asserts that a call for the pod is the proxy's, by its caller's address and for its own destination.
fn reaches_the_proxy(proxys: &Listener, stream: &TcpStream, to: SocketAddr) -> Result<TcpStream> {
    let taken = proxys.accept().with_context(|| format!("a call for {to}"))?;
    let (from, local) = (taken.peer_addr()?, taken.local_addr()?);
    let (from, local) = (canonical(from), canonical(local));
    ensure!(from == stream.local_addr()?, "the proxy sees {from}");
    ensure!(local == to, "the proxy is called at {local}");
    ensure!(
        original(&taken)? == to,
        "its original destination is {}",
        original(&taken)?
    );
    Ok(taken)
}

on_one_stand! {
    calls_to_a_captured_pod by Stand::start:
    the_proxy_gets_the_call_and_calls_in_the_clients_name,
    a_port_that_nobody_listens_on_refuses_the_proxy,
    without_a_listener_a_call_is_refused,
    two_listeners_share_a_port_where_the_kernel_can,
    hbone_reaches_its_own_listener,
    tcp_in_fragments_is_refused,
    an_application_that_answers_may_also_call,
}

fn the_proxy_gets_the_call_and_calls_in_the_clients_name(stand: &Stand) -> Result<()> {
    let (proxys, app) = (stand.proxy.listen(INBOUND)?, application(stand)?);
    for to in at(stand.pod.addresses(), APP) {
        let mut stream = stand.peer.run(|| connect(to))??;
        let mut taken = reaches_the_proxy(&proxys, &stream, to)?;
        ensure!(app.try_accept()?.is_none(), "the application got the call first");
        let client = stream.local_addr()?.ip();
        let mut inner = stand.proxy.connect_as(client, to, LONG)??;
        let mut served = app.accept()?;
        let seen = served.peer_addr()?.ip().to_canonical();
        ensure!(seen == client, "the application sees {seen}");
        // Through both, and back.
        let mut heard = [0; 4];
        stream.write_all(b"ping")?;
        taken.read_exact(&mut heard)?;
        converse(&mut inner, &mut served)?;
        taken.write_all(&heard)?;
        stream.read_exact(&mut heard)?;
        // More than fits into a segment.
        let long = vec![7; 300_000];
        thread::scope(|scope| {
            scope.spawn(|| served.write_all(&long));
            let mut heard = vec![0; long.len()];
            inner.read_exact(&mut heard).map(|()| assert!(heard == long))
        })?;
    }
    Ok(())
}

/// While one ztunnel takes over from another both listen. `bpf_sk_assign` takes such a listener from Linux 6.6 on.
fn two_listeners_share_a_port_where_the_kernel_can(stand: &Stand) -> Result<()> {
    let place = SocketAddr::new(ip("::"), INBOUND);
    let listen = || stand.proxy.run(|| Listener::shared(place))?;
    let both = [listen()?, listen()?];
    let app = application(stand)?;
    let can = linux()? >= (6, 6);
    let mut taken = [0; 2];
    for to in at(stand.pod.addresses(), APP) {
        if !can {
            fails(libc::ECONNREFUSED, &format!("a call for {to}"), || {
                stand.peer.run(|| connect(to))
            });
            continue;
        }
        // By chance all are one listener's once in 2^31.
        for _ in 0..32 {
            let stream = stand.peer.run(|| connect(to))??;
            let (index, accepted) = either(&both)?;
            let from = canonical(accepted.peer_addr()?);
            ensure!(from == stream.local_addr()?, "the proxy sees {from}");
            ensure!(original(&accepted)? == to, "for {}", original(&accepted)?);
            taken[index] += 1;
        }
    }
    ensure!(
        !can || taken.iter().all(|&calls| calls > 0),
        "one got them all: {taken:?}"
    );
    ensure!(app.try_accept()?.is_none(), "the application got a call first");
    Ok(())
}

/// The next call, and which of the two got it.
fn either(listeners: &[Listener; 2]) -> Result<(usize, TcpStream)> {
    let deadline = Instant::now() + LONG;
    while Instant::now() < deadline {
        for (index, listener) in listeners.iter().enumerate() {
            if let Some(stream) = listener.try_accept()? {
                return Ok((index, stream));
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
    bail!("nobody called")
}

/// Major and minor number of the kernel.
fn linux() -> Result<(u32, u32)> {
    let name = uname()?;
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok((major, minor)),
        (Some(_) | None, _) => bail!("this is no release of Linux: {release}"),
    }
}

/// The proxy is not to wait for an answer that went to the client instead.
fn a_port_that_nobody_listens_on_refuses_the_proxy(stand: &Stand) -> Result<()> {
    let proxys = stand.proxy.listen(INBOUND)?;
    for (client, to) in stand
        .peer
        .addresses()
        .into_iter()
        .zip(at(stand.pod.addresses(), 81))
    {
        fails(
            libc::ECONNREFUSED,
            &format!("a call for {to} in the name of {client}"),
            || stand.proxy.connect_as(client, to, LONG),
        );
    }
    ensure!(proxys.try_accept()?.is_none(), "the proxy has called itself");
    Ok(())
}

fn without_a_listener_a_call_is_refused(stand: &Stand) -> Result<()> {
    let app = application(stand)?;
    for to in at(stand.pod.addresses(), APP) {
        fails(libc::ECONNREFUSED, &format!("a call for {to}"), || {
            stand.peer.run(|| connect(to))
        });
        stand.refusal("capture_in", "no-proxy", to)?;
    }
    ensure!(app.try_accept()?.is_none(), "it was let past");
    Ok(())
}

fn hbone_reaches_its_own_listener(stand: &Stand) -> Result<()> {
    let listeners = [HBONE, INBOUND].map(|port| stand.proxy.listen(port));
    let [hbone, plain] = listeners;
    let (hbone, plain) = (hbone?, plain?);
    for to in at(stand.pod.addresses(), HBONE) {
        let mut stream = stand.peer.run(|| connect(to))??;
        let mut taken = hbone.accept()?;
        let local = canonical(taken.local_addr()?);
        ensure!(local == to, "it is called at {local}");
        converse(&mut stream, &mut taken)?;
    }
    ensure!(plain.try_accept()?.is_none());
    Ok(())
}

/// A stand whose kubelet has a cgroup.
fn with_kubelet() -> Result<(Stand, Cgroup)> {
    let bench = Bench::create()?;
    let kubelet = bench.cgroup().child("kubelet")?;
    let stand = Stand::on(bench, &["--kubelet-cgroup", text(kubelet.path())?], |_, _, _| {
        Ok(())
    })?;
    stand.enroll(&[])?;
    Ok((stand, kubelet))
}

/// Calls as a process of the node.
fn from_node(stand: &Stand, cgroup: Option<&Cgroup>, to: SocketAddr) -> Result<std::io::Result<TcpStream>> {
    on_thread(|| {
        cgroup.map_or(Ok(()), Cgroup::join)?;
        stand.bench.node().enter()?;
        Ok(connect(to))
    })
}

#[test]
fn the_kubelet_is_told_by_its_cgroup() -> Result<()> {
    let (stand, kubelet) = with_kubelet()?;
    let (proxys, app) = (stand.proxy.listen(INBOUND)?, application(&stand)?);
    for to in at(stand.pod.addresses(), APP) {
        let mut probe = from_node(&stand, Some(&kubelet), to)?.context("the kubelet calls")?;
        converse(&mut probe, &mut app.accept()?)?;
        let stream = from_node(&stand, None, to)?.context("another process of the node calls")?;
        reaches_the_proxy(&proxys, &stream, to)?;
        ensure!(
            app.try_accept()?.is_none(),
            "what is not the kubelet was let past"
        );
    }
    // It does not depend on the proxy.
    drop(proxys);
    for to in at(stand.pod.addresses(), APP) {
        from_node(&stand, Some(&kubelet), to)?.context("the kubelet calls")?;
        app.accept()?;
        fails(libc::ECONNREFUSED, "another process of the node", || {
            from_node(&stand, None, to)
        });
    }
    // Nor are the proxy's own ports the kubelet's.
    for to in at(stand.pod.addresses(), INBOUND) {
        fails(libc::ECONNREFUSED, "the kubelet calls the proxy", || {
            from_node(&stand, Some(&kubelet), to)
        });
    }
    Ok(())
}

/// Where Istio's probes come from, and addresses of the node: anybody could have them.
#[test]
fn no_source_address_exempts() -> Result<()> {
    let (stand, _kubelet) = with_kubelet()?;
    let sources = ["169.254.7.127", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff"];
    stand.bench.node().run(|| {
        command::ip(&format!(
            "addr add {}/32 dev lo\naddr add {}/128 dev lo nodad\n",
            sources[0], sources[1]
        ))
    })??;
    let (proxys, app) = (stand.proxy.listen(INBOUND)?, application(&stand)?);
    let all: [[IpAddr; 2]; 2] = [sources.map(ip), [NODE_V4, NODE_V6].map(ip)];
    for sources in all {
        for (from, to) in sources.into_iter().zip(at(stand.pod.addresses(), APP)) {
            let stream = stand
                .bench
                .node()
                .run(|| connect_as(from, to, LONG))?
                .with_context(|| format!("{from} calls {to}"))?;
            reaches_the_proxy(&proxys, &stream, to)?;
        }
    }
    ensure!(app.try_accept()?.is_none(), "it was let past");
    Ok(())
}

/// Which call they belong to cannot be told.
fn tcp_in_fragments_is_refused(stand: &Stand) -> Result<()> {
    let (proxys, app) = (stand.proxy.listen(INBOUND)?, application(stand)?);
    for to in at(stand.pod.addresses(), APP) {
        for part in stand.peer.sender().syn(to.ip(), to.port()).split() {
            stand.events.clear();
            stand.peer.send(&part)?;
            stand.events.wait_for("TCP in fragments", |event| {
                event.hook == "capture_in" && event.reason == "tcp-fragment" && event.dst == to.ip()
            })?;
        }
    }
    ensure!(app.try_accept()?.is_none() && proxys.try_accept()?.is_none());
    Ok(())
}

#[test]
fn inbound_capture_may_be_declined() -> Result<()> {
    let details = Details {
        annotations: vec![("ambient.istio.io/bypass-inbound-capture", "true".to_owned())],
        ..Details::default()
    };
    let stand = Stand::declared(&details)?;
    let (proxys, app) = (stand.proxy.listen(INBOUND)?, application(&stand)?);
    for (client, to) in stand
        .peer
        .addresses()
        .into_iter()
        .zip(at(stand.pod.addresses(), APP))
    {
        let mut stream = stand.peer.run(|| connect(to))??;
        converse(&mut stream, &mut app.accept()?)?;
        // What comes by HBONE is for the application all the same.
        let mut inner = stand.proxy.connect_as(client, to, LONG)??;
        converse(&mut inner, &mut app.accept()?)?;
    }
    ensure!(proxys.try_accept()?.is_none(), "the proxy got a call");
    Ok(())
}

#[test]
fn what_was_open_before_goes_on() -> Result<()> {
    let stand = Stand::with(&[], |_, _, _| Ok(()))?;
    let app = application(&stand)?;
    let mut open = Vec::new();
    for to in at(stand.pod.addresses(), APP) {
        open.push((stand.peer.run(|| connect(to))??, app.accept()?));
    }
    let works = |pairs: &mut [(TcpStream, TcpStream)], when: &str| -> Result<()> {
        for (stream, served) in pairs {
            converse(stream, served).with_context(|| when.to_owned())?;
        }
        Ok(())
    };
    works(&mut open, "before")?;
    stand.enroll(&[])?;
    works(&mut open, "captured")?;
    let proxys = stand.proxy.listen(INBOUND)?;
    for to in at(stand.pod.addresses(), APP) {
        let stream = stand.peer.run(|| connect(to))??;
        let taken = reaches_the_proxy(&proxys, &stream, to)?;
        open.push((stream, taken));
    }
    stand.unenroll()?;
    works(&mut open[..2], "no longer captured")?;
    works(&mut open[2..], "taken by the proxy before")?;
    for to in at(stand.pod.addresses(), APP) {
        let mut stream = stand.peer.run(|| connect(to))??;
        converse(&mut stream, &mut app.accept()?).context("after it was let go")?;
    }
    Ok(())
}

/// The application's own calls are captured while it answers calls in the name of others.
fn an_application_that_answers_may_also_call(stand: &Stand) -> Result<()> {
    let (proxys, app) = (stand.proxy.listen(INBOUND)?, application(stand)?);
    let outward = stand.proxy.listen(OUTBOUND)?;
    for (client, to) in stand
        .peer
        .addresses()
        .into_iter()
        .zip(at(stand.pod.addresses(), APP))
    {
        let mut inner = stand.proxy.connect_as(client, to, LONG)??;
        let mut served = app.accept()?;
        converse(&mut inner, &mut served)?;
        // To the very address in whose name it is called.
        stand.arrives(&outward, SocketAddr::new(client, 9))?;
        converse(&mut inner, &mut served)?;
    }
    ensure!(proxys.try_accept()?.is_none());
    Ok(())
}
