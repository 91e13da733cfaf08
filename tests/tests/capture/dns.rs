//! Questions to DNS servers: the proxy's resolver answers, and the answers seem to come from the server that was asked.

use std::{
    io::{self, IoSlice, Read as _, Write as _},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};
use sluice_tests::{
    PATIENCE,
    bench::{addresses::UNREGISTERED, ip},
    echo::Echo,
    manifest::Details,
    proxy::{OUTBOUND, Resolver, original},
};

use crate::common::{Stand, at, connect, exchange, fails, mapped, on_one_stand};

/// Servers of both families, outside, where an echo server stands in for what must not be reached.
fn servers() -> [SocketAddr; 2] {
    at(UNREGISTERED.map(ip), 53)
}

/// A question that is sent with an address each time, as `glibc` does not and many others do.
pub(crate) fn ask(to: SocketAddr) -> io::Result<(Vec<u8>, SocketAddr)> {
    let socket = socket_for(to)?;
    socket.send_to(b"question", to)?;
    hear(&socket)
}

fn socket_for(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
    let socket = UdpSocket::bind((ip(any), 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn hear(socket: &UdpSocket) -> io::Result<(Vec<u8>, SocketAddr)> {
    let mut buffer = [0; 512];
    let (len, from) = socket.recv_from(&mut buffer)?;
    Ok((buffer[..len].to_vec(), from))
}

/// Both resolvers of the proxy answer this many questions, while the pod does something.
fn answering<T: Send>(stand: &Stand, count: usize, pod: impl FnOnce() -> T + Send) -> Result<T> {
    let resolvers = ["127.0.0.1", "::1"].map(|address| stand.proxy.resolver(ip(address)));
    let [v4, v6] = resolvers;
    let (v4, v6) = (v4?, v6?);
    std::thread::scope(|scope| {
        for resolver in [&v4, &v6] {
            scope.spawn(move || {
                for _ in 0..count {
                    match resolver.answer() {
                        Ok(question) => assert_eq!(question, b"question"),
                        Err(error) => eprintln!("the resolver: {error:#}"),
                    }
                }
            });
        }
        stand.pod.run(pod)
    })
}

on_one_stand! {
    questions by Stand::start:
    unconnected_sockets,
    connected_sockets,
    several_questions_at_once,
    questions_by_tcp,
    without_a_resolver_nobody_answers,
    resolvers_on_loopback_are_let_alone,
    the_proxys_own_questions_leave,
    other_ports_are_no_questions,
}

fn unconnected_sockets(stand: &Stand) -> Result<()> {
    let _past = Echo::start(stand.bench.outside(), &UNREGISTERED.map(ip), &[53])?;
    let [v4, v6] = servers();
    answering(stand, 2, || -> Result<()> {
        // Two for the IPv4 resolver, two for the other one: a mapped address is an IPv4 one.
        for to in [v4, v6, mapped(v4)] {
            let (answer, from) = ask(to).with_context(|| format!("asking {to}"))?;
            ensure!(answer == Resolver::ANSWER, "{to} answers {answer:?}");
            ensure!(from == to, "the answer of {to} comes from {from}");
        }
        ask(v6).map(drop).context("again")
    })?
}

fn connected_sockets(stand: &Stand) -> Result<()> {
    let _past = Echo::start(stand.bench.outside(), &UNREGISTERED.map(ip), &[53])?;
    let [v4, v6] = servers();
    answering(stand, 2, || -> Result<()> {
        for to in [v4, mapped(v4), v6, v6] {
            let socket = socket_for(to)?;
            socket.connect(to)?;
            ensure!(
                socket.peer_addr()? == to,
                "{to}: its peer is {}",
                socket.peer_addr()?
            );
            socket.send(b"question")?;
            let (answer, from) = hear(&socket).with_context(|| format!("asking {to}"))?;
            ensure!(
                answer == Resolver::ANSWER && from == to,
                "{to}: {answer:?} from {from}"
            );
        }
        Ok(())
    })?
}

/// Two questions in one system call, as `glibc` sends A and AAAA.
fn several_questions_at_once(stand: &Stand) -> Result<()> {
    let _past = Echo::start(stand.bench.outside(), &UNREGISTERED.map(ip), &[53])?;
    let [v4, v6] = servers();
    answering(stand, 2, || -> Result<()> {
        for (to, connected) in [(v4, false), (v6, true)] {
            let socket = socket_for(to)?;
            if connected {
                socket.connect(to)?;
            }
            let addresses = [(!connected).then(|| SockaddrStorage::from(to)); 2];
            let parts = [[IoSlice::new(b"question")]; 2];
            let mut headers = MultiHeaders::preallocate(2, None);
            let sent = sendmmsg(
                socket.as_raw_fd(),
                &mut headers,
                &parts,
                addresses,
                [],
                MsgFlags::empty(),
            )?;
            ensure!(sent.count() == 2, "{to}");
            for _ in 0..2 {
                let (answer, from) = hear(&socket)?;
                ensure!(
                    answer == Resolver::ANSWER && from == to,
                    "{to}: {answer:?} from {from}"
                );
            }
        }
        Ok(())
    })?
}

fn questions_by_tcp(stand: &Stand) -> Result<()> {
    let resolvers = ["127.0.0.1", "::1"].map(|address| stand.proxy.resolver(ip(address)));
    let [v4, v6] = resolvers;
    let resolvers = [v4?, v6?];
    let outward = stand.proxy.listen(OUTBOUND)?;
    let [v4, v6] = servers();
    for (to, resolver) in [(v4, 0), (v6, 1), (mapped(v4), 0)] {
        let mut stream = stand.call(to)?.with_context(|| format!("asking {to}"))?;
        let mut taken = resolvers[resolver].streams.accept()?;
        stream.write_all(b"question")?;
        taken.read_exact(&mut [0; 8])?;
        taken.write_all(Resolver::ANSWER)?;
        let mut heard = vec![0; Resolver::ANSWER.len()];
        stream.read_exact(&mut heard)?;
        ensure!(heard == Resolver::ANSWER);
        ensure!(stream.peer_addr()? == to, "its peer is {}", stream.peer_addr()?);
    }
    ensure!(outward.try_accept()?.is_none());
    Ok(())
}

/// Nothing gets out while the proxy is not there.
fn without_a_resolver_nobody_answers(stand: &Stand) -> Result<()> {
    let _past = Echo::start(stand.bench.outside(), &UNREGISTERED.map(ip), &[53])?;
    for to in servers() {
        fails(libc::ECONNREFUSED, &format!("asking {to} by TCP"), || {
            stand.call(to)
        });
        fails(libc::ECONNREFUSED, &format!("asking {to}"), || {
            stand.pod.run(|| -> io::Result<_> {
                let socket = socket_for(to)?;
                socket.connect(to)?;
                socket.send(b"question")?;
                hear(&socket)
            })
        });
    }
    Ok(())
}

fn resolvers_on_loopback_are_let_alone(stand: &Stand) -> Result<()> {
    let own = ["127.0.0.53", "::1"].map(ip);
    let _own = Echo::start(stand.pod.netns(), &own, &[53])?;
    for to in at(own, 53) {
        let (answer, from) = stand.pod.run(|| ask(to))??;
        ensure!(
            answer == b"question" && from == to,
            "{to}: {answer:?} from {from}"
        );
        exchange(&mut stand.call(to)??)?;
    }
    Ok(())
}

/// What the proxy asks itself is for the world.
fn the_proxys_own_questions_leave(stand: &Stand) -> Result<()> {
    let _past = Echo::start(stand.bench.outside(), &UNREGISTERED.map(ip), &[53])?;
    for to in servers() {
        let (answer, from) = stand.proxy.run(|| ask(to))??;
        ensure!(answer == b"question" && from == to);
        exchange(&mut stand.proxy.run(|| connect(to))??)?;
    }
    Ok(())
}

#[test]
fn dns_capture_may_be_declined() -> Result<()> {
    let stand = Stand::declared(&Details {
        annotations: vec![("ambient.istio.io/dns-capture", "false".to_owned())],
        ..Details::default()
    })?;
    let _past = Echo::start(stand.bench.outside(), &UNREGISTERED.map(ip), &[53])?;
    let outward = stand.proxy.listen(OUTBOUND)?;
    for to in servers() {
        let (answer, from) = stand.pod.run(|| ask(to))??;
        ensure!(
            answer == b"question" && from == to,
            "{to}: {answer:?} from {from}"
        );
        // By TCP it is a call like any other.
        let _stream = stand.call(to)??;
        ensure!(original(&outward.accept()?)? == to);
    }
    Ok(())
}

fn other_ports_are_no_questions(stand: &Stand) -> Result<()> {
    let _past = Echo::start(stand.bench.outside(), &UNREGISTERED.map(ip), &[54])?;
    for to in at(UNREGISTERED.map(ip), 54) {
        let (answer, from) = stand.pod.run(|| ask(to))??;
        ensure!(answer == b"question" && from == to);
    }
    Ok(())
}
