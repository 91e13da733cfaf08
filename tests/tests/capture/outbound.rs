//! Calls of a captured pod: the proxy gets them and learns where they wanted to go.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrStorage, getsockopt, setsockopt, socket,
        sockopt::{self, SocketError, TcpFastOpenConnect},
    },
};
use sluice_tests::{
    PATIENCE, Pod, Proxy,
    bench::{addresses::REGISTERED, ip},
    echo::Echo,
    proxy::{HBONE, INBOUND, Level, Listener, OUTBOUND, original, original_at},
    sys,
};

use crate::common::{Stand, at, connect, converse, exchange, fails, mapped, on_one_stand, outside, text};

on_one_stand! {
    calls_of_a_captured_pod by Stand::start:
    the_proxy_learns_where_a_call_wanted_to_go,
    each_level_answers_in_its_own_family,
    other_questions_are_the_kernels,
    only_the_proxy_is_told,
    without_a_listener_a_call_is_refused,
    what_the_proxy_calls_leaves,
    the_proxy_cannot_call_its_own_listeners,
    a_pod_that_talks_to_itself_is_let_alone,
    neither_udp_nor_another_pods_calls_are_captured,
    a_call_that_does_not_wait,
    tcp_fast_open,
    a_socket_that_calls_twice,
}

fn the_proxy_learns_where_a_call_wanted_to_go(stand: &Stand) -> Result<()> {
    let _past = Echo::start(stand.bench.outside(), &REGISTERED.map(ip), &[80, 443])?;
    let listener = stand.proxy.listen(OUTBOUND)?;
    let other_pod = at(stand.peer.addresses(), 9);
    for to in [
        &outside()[..],
        &other_pod,
        &[mapped(outside()[0]), mapped(other_pod[0])],
    ]
    .concat()
    {
        let [mut stream, mut taken] = stand.arrives(&listener, to)?;
        converse(&mut stream, &mut taken)?;
        // The application sees what it asked for, under its own address.
        ensure!(
            stream.peer_addr()? == to,
            "{to}: its peer is {}",
            stream.peer_addr()?
        );
        let local = stream.local_addr()?.ip().to_canonical();
        ensure!(
            local == stand.pod.sender().own_for(to.ip().to_canonical()),
            "{to}: from {local}"
        );
        ensure!(
            taken.peer_addr()?.ip().to_canonical() == local,
            "{to}: the proxy sees another caller"
        );
    }
    ensure!(
        listener.try_accept()?.is_none(),
        "the proxy got more than was called"
    );
    Ok(())
}

fn each_level_answers_in_its_own_family(stand: &Stand) -> Result<()> {
    let listener = stand.proxy.listen(OUTBOUND)?;
    let [v4, v6, ..] = outside();
    for to in [v4, mapped(v4)] {
        let [_stream, taken] = stand.arrives(&listener, to)?;
        ensure!(original_at(&taken, Level::V4)? == v4);
        ensure!(original_at(&taken, Level::V6)? == mapped(v4));
    }
    let [_stream, taken] = stand.arrives(&listener, v6)?;
    ensure!(original_at(&taken, Level::V6)? == v6);
    ensure!(original_at(&taken, Level::V4).is_err(), "an IPv4 answer for {v6}");
    Ok(())
}

/// The number of the option means something else at other levels, and everything else is the kernel's to answer.
fn other_questions_are_the_kernels(stand: &Stand) -> Result<()> {
    let listener = stand.proxy.listen(OUTBOUND)?;
    for to in outside() {
        let [_stream, taken] = stand.arrives(&listener, to)?;
        ensure!(getsockopt(&taken, sockopt::SockType)? == SockType::Stream);
        ensure!(getsockopt(&taken, sockopt::KeepAlive).is_ok_and(|on| !on));
        ensure!(taken.ttl()? > 0);
        for level in [libc::SOL_SOCKET, libc::SOL_TCP] {
            let answer = sys::process::option_bytes(&taken, level, libc::SO_ORIGINAL_DST);
            ensure!(
                !answer.is_ok_and(|bytes| bytes.len() == 16 || bytes.len() == 28),
                "level {level} says where it wanted to go"
            );
        }
    }
    Ok(())
}

fn only_the_proxy_is_told(stand: &Stand) -> Result<()> {
    let listener = stand.proxy.listen(OUTBOUND)?;
    let server = stand
        .pod
        .run(|| Listener::on(at(stand.pod.addresses(), 81)[0]))??;
    for to in outside() {
        let [stream, _taken] = stand.arrives(&listener, to)?;
        ensure!(
            original(&stream).is_err(),
            "the application's own socket is answered"
        );
    }
    let _inward = stand.pod.run(|| connect(at(stand.pod.addresses(), 81)[0]))??;
    ensure!(
        original(&server.accept()?).is_err(),
        "a socket of the pod is answered"
    );
    Ok(())
}

fn without_a_listener_a_call_is_refused(stand: &Stand) -> Result<()> {
    let _past = Echo::start(stand.bench.outside(), &REGISTERED.map(ip), &[80, 443])?;
    for to in outside() {
        fails(libc::ECONNREFUSED, &format!("a call for {to}"), || stand.call(to));
    }
    Ok(())
}

fn what_the_proxy_calls_leaves(stand: &Stand) -> Result<()> {
    let _past = Echo::start(stand.bench.outside(), &REGISTERED.map(ip), &[80])?;
    let _peer = Echo::start(stand.peer.netns(), &stand.peer.addresses(), &[80])?;
    let listener = stand.proxy.listen(OUTBOUND)?;
    for to in [at(REGISTERED.map(ip), 80), at(stand.peer.addresses(), 80)].concat() {
        let mut stream = stand.proxy.run(|| connect(to))??;
        exchange(&mut stream).with_context(|| format!("the proxy calls {to}"))?;
        ensure!(stream.local_addr()?.ip() == stand.pod.sender().own_for(to.ip()));
    }
    ensure!(listener.try_accept()?.is_none(), "the proxy calls itself");
    Ok(())
}

/// A call that the proxy was fooled to make to its own listener would be made again, and again.
fn the_proxy_cannot_call_its_own_listeners(stand: &Stand) -> Result<()> {
    let _listeners = [stand.proxy.listen(OUTBOUND)?, stand.proxy.listen(INBOUND)?];
    for port in [OUTBOUND, INBOUND] {
        for to in [
            at(stand.pod.addresses(), port),
            at(["127.0.0.1", "::1"].map(ip), port),
        ]
        .concat()
        {
            fails(libc::EPERM, &format!("the proxy calls {to}"), || {
                stand.proxy.run(|| connect(to))
            });
        }
    }
    Ok(())
}

fn a_pod_that_talks_to_itself_is_let_alone(stand: &Stand) -> Result<()> {
    let own = [
        &["127.0.0.1", "::1", "127.0.0.9"].map(ip)[..],
        &stand.pod.addresses(),
    ]
    .concat();
    let _own = Echo::start(stand.pod.netns(), &own, &[81])?;
    let listener = stand.proxy.listen(OUTBOUND)?;
    for address in own {
        let to = SocketAddr::new(address, 81);
        for to in [to, mapped(to)] {
            let mut stream = stand.call(to)?.with_context(|| format!("calling {to}"))?;
            exchange(&mut stream)?;
            ensure!(stream.peer_addr()? == to);
        }
    }
    ensure!(
        listener.try_accept()?.is_none(),
        "the proxy got a call for the pod itself"
    );
    Ok(())
}

fn neither_udp_nor_another_pods_calls_are_captured(stand: &Stand) -> Result<()> {
    let _past = Echo::start(stand.bench.outside(), &REGISTERED.map(ip), &[80])?;
    let listener = stand.proxy.listen(OUTBOUND)?;
    for to in at(REGISTERED.map(ip), 80) {
        exchange(&mut stand.peer.run(|| connect(to))??).context("a pod that is not captured")?;
        stand.pod.run(|| -> io::Result<()> {
            let socket = UdpSocket::bind(("::", 0))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send_to(b"ping", mapped(to))?;
            let (_, from) = socket.recv_from(&mut [0; 8])?;
            assert_eq!(from, mapped(to));
            Ok(())
        })??;
    }
    ensure!(
        listener.try_accept()?.is_none(),
        "the proxy got a call of somebody else"
    );
    Ok(())
}

#[test]
fn what_was_open_before_goes_on() -> Result<()> {
    let stand = Stand::with(&[], |_, _, _| Ok(()))?;
    let _past = Echo::start(stand.bench.outside(), &REGISTERED.map(ip), &[80])?;
    let mut open = Vec::new();
    for to in at(REGISTERED.map(ip), 80) {
        let mut stream = stand.call(to)??;
        exchange(&mut stream)?;
        open.push((to, stream));
    }
    let mut works = |when: &str| -> Result<()> {
        for (to, stream) in &mut open {
            exchange(stream).with_context(|| format!("{when}: the connection to {to}"))?;
            ensure!(stream.peer_addr()? == *to, "{when}");
        }
        Ok(())
    };
    stand.enroll(&[])?;
    works("captured")?;
    // And those of the time of capture, afterwards.
    let listener = stand.proxy.listen(OUTBOUND)?;
    let mut captured = Vec::new();
    for to in at(REGISTERED.map(ip), 80) {
        captured.push(stand.arrives(&listener, to)?);
    }
    stand.unenroll()?;
    works("no longer captured")?;
    for [stream, taken] in &mut captured {
        converse(stream, taken).context("captured before, and let go")?;
    }
    for to in at(REGISTERED.map(ip), 80) {
        exchange(&mut stand.call(to)??).context("a new call of a pod that was let go")?;
    }
    Ok(())
}

/// A program may ask for a connection and not wait for it.
fn a_call_that_does_not_wait(stand: &Stand) -> Result<()> {
    let listener = stand.proxy.listen(OUTBOUND)?;
    for to in outside() {
        let started = stand.pod.run(|| -> io::Result<_> {
            let stream = new_socket(to, SockFlag::SOCK_NONBLOCK)?;
            let answer = nix::sys::socket::connect(stream.as_raw_fd(), &SockaddrStorage::from(to));
            assert_eq!(answer, Err(Errno::EINPROGRESS), "{to}");
            Ok(stream)
        })??;
        let taken = listener.accept()?;
        ensure!(original(&taken)? == to);
        let mut ready = [PollFd::new(started.as_fd(), PollFlags::POLLOUT)];
        ensure!(poll(&mut ready, PollTimeout::from(9_000_u16))? == 1);
        ensure!(getsockopt(&started, SocketError)? == 0);
        ensure!(started.peer_addr()? == to);
    }
    Ok(())
}

/// What is said with the first segment arrives there, too.
fn tcp_fast_open(stand: &Stand) -> Result<()> {
    stand.pod.netns().sysctls(&[("ipv4.tcp_fastopen", "3")])?;
    let listener = stand.proxy.listen(OUTBOUND)?;
    sys::set_option(
        &listener.socket().try_clone()?.into(),
        libc::SOL_TCP,
        libc::TCP_FASTOPEN,
        16,
    )?;
    for to in outside() {
        // The first call gets the cookie that the second one has.
        for word in [b"one", b"two"] {
            let mut stream = stand.pod.run(|| -> io::Result<TcpStream> {
                let mut stream = new_socket(to, SockFlag::empty())?;
                setsockopt(&stream, TcpFastOpenConnect, &true)?;
                nix::sys::socket::connect(stream.as_raw_fd(), &SockaddrStorage::from(to))?;
                stream.write_all(word)?;
                Ok(stream)
            })??;
            let mut taken = listener.accept()?;
            ensure!(original(&taken)? == to, "{to}");
            let mut heard = [0; 3];
            taken.read_exact(&mut heard)?;
            ensure!(&heard == word);
            converse(&mut stream, &mut taken)?;
            ensure!(stream.peer_addr()? == to);
        }
    }
    Ok(())
}

/// A socket may be used again: what it wanted the first time is forgotten.
fn a_socket_that_calls_twice(stand: &Stand) -> Result<()> {
    let [first, _, second, _] = outside();
    let stream = stand.pod.run(|| new_socket(first, SockFlag::empty()))??;
    let call = |to: SocketAddr| {
        stand
            .pod
            .run(|| nix::sys::socket::connect(stream.as_raw_fd(), &SockaddrStorage::from(to)))
    };
    ensure!(call(first)? == Err(Errno::ECONNREFUSED), "nobody listens yet");
    let listener = stand.proxy.listen(OUTBOUND)?;
    call(second)??;
    ensure!(original(&listener.accept()?)? == second);
    ensure!(stream.peer_addr()? == second);
    Ok(())
}

/// Two proxies are there while one takes over from the other.
#[test]
fn several_cgroups_may_be_the_proxys() -> Result<()> {
    let stand = Stand::with(&[], |_, _, _| Ok(()))?;
    let second = Proxy::sidecar(&stand.pod)?;
    stand.enroll(&["--proxy-cgroup", text(second.cgroup().path())?])?;
    for proxy in [&stand.proxy, &second] {
        let listener = proxy.listen(OUTBOUND)?;
        for to in outside() {
            stand.arrives(&listener, to)?;
        }
    }
    Ok(())
}

/// Every captured pod has its own proxy's listener, and its own calls.
#[test]
fn two_captured_pods_are_kept_apart() -> Result<()> {
    let stand = Stand::start()?;
    let cgroup = text(stand.proxy.cgroup().path())?;
    stand
        .agent
        .enroll(stand.peer.netns().path(), &["--proxy-cgroup", cgroup])?;
    let listener = stand.proxy.listen(OUTBOUND)?;
    let theirs = stand.proxy.also_in(&stand.peer).listen(OUTBOUND)?;
    let call = |pod: &Pod, listener: &Listener, to| -> Result<()> {
        let _stream = pod.run(|| connect(to))??;
        ensure!(original(&listener.accept()?)? == to);
        Ok(())
    };
    for to in outside() {
        call(&stand.pod, &listener, to)?;
        call(&stand.peer, &theirs, to)?;
    }
    // Captured pods may call each other, on whatever port; the way round is closed on their own side only.
    for port in [HBONE, 80] {
        for to in at(stand.peer.addresses(), port) {
            call(&stand.pod, &listener, to)?;
        }
    }
    ensure!(theirs.try_accept()?.is_none());
    Ok(())
}

/// A TCP socket of the family of `to`.
fn new_socket(to: SocketAddr, flags: SockFlag) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let fd = socket(family, SockType::Stream, flags | SockFlag::SOCK_CLOEXEC, None)?;
    Ok(fd.into())
}
