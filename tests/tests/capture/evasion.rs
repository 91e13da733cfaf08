//! What a captured pod may try to get past its proxy.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener},
    os::fd::AsRawFd as _,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect as connect_socket, setsockopt, socket,
    sockopt::{Mark, ReuseAddr, ReusePort},
};
use sluice_tests::{
    bench::{addresses::REGISTERED, ip},
    echo::Echo,
    proxy::{DNS, HBONE, INBOUND, OUTBOUND, as_user, original},
    sys,
};

use crate::common::{Stand, at, connect, fails, mapped, on_one_stand, outside};

/// ztunnel's mark, and the user and the group of Istio's sidecar.
const ISTIO: u32 = 1337;

on_one_stand! {
    ways_past_the_proxy by Stand::start:
    no_mark_exempts,
    no_user_exempts,
    a_call_past_the_hooks_is_refused,
    a_packet_socket_is_no_way_round,
    mptcp_is_captured,
    the_proxys_ports_are_the_proxys,
    the_proxy_cannot_be_called_directly,
    nobody_else_calls_the_proxys_own_ports,
    the_source_of_a_call_does_not_matter,
}

fn no_mark_exempts(stand: &Stand) -> Result<()> {
    let _past = Echo::start(stand.bench.outside(), &REGISTERED.map(ip), &[80, 443])?;
    let marked = |to: SocketAddr, mark: u32| {
        stand.pod.run(|| -> io::Result<_> {
            let fd = socket(family(to.ip()), SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
            setsockopt(&fd, Mark, &mark)?;
            connect_socket(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
            Ok(fd)
        })
    };
    // Istio's marks, and the agent's own.
    let marks = [ISTIO, 0x111, 0x1111, 0x2000];
    for to in outside() {
        fails(libc::ECONNREFUSED, "a marked call without a proxy", || {
            marked(to, ISTIO)
        });
    }
    let listener = stand.proxy.listen(OUTBOUND)?;
    for to in outside() {
        for mark in marks {
            let _fd = marked(to, mark)?.with_context(|| format!("{to} with mark {mark:#x}"))?;
            ensure!(original(&listener.accept()?)? == to, "{to} with mark {mark:#x}");
        }
    }
    Ok(())
}

fn no_user_exempts(stand: &Stand) -> Result<()> {
    let _past = Echo::start(stand.bench.outside(), &REGISTERED.map(ip), &[80, 443])?;
    let listener = stand.proxy.listen(OUTBOUND)?;
    for to in outside() {
        let _stream = stand.pod.run(|| as_user(ISTIO, || connect(to)))???;
        ensure!(original(&listener.accept()?)? == to);
    }
    Ok(())
}

/// Unless the operator says so.
#[test]
fn the_operator_may_exempt_a_user() -> Result<()> {
    let stand = Stand::with(&["--proxy-uid", "1337"], |_, _, _| Ok(()))?;
    stand.enroll(&[])?;
    let _past = Echo::start(stand.bench.outside(), &REGISTERED.map(ip), &[80])?;
    let listener = stand.proxy.listen(OUTBOUND)?;
    for to in at(REGISTERED.map(ip), 80) {
        let mut stream = stand.pod.run(|| as_user(ISTIO, || connect(to)))???;
        crate::common::exchange(&mut stream)?;
        stand.arrives(&listener, to)?;
    }
    Ok(())
}

/// A process that is not in the cgroups that the agent has hooks on: its call is seen on the pod's device.
fn a_call_past_the_hooks_is_refused(stand: &Stand) -> Result<()> {
    let _past = Echo::start(stand.bench.outside(), &REGISTERED.map(ip), &[80, 443])?;
    let outside_capture = stand.bench.capture_outside()?;
    let _listener = stand.proxy.listen(OUTBOUND)?;
    for to in [&outside()[..], &at(stand.peer.addresses(), 80)].concat() {
        fails(libc::ECONNREFUSED, &format!("a call for {to}"), || {
            stand.pod.run_without_cgroup(|| connect(to))
        });
        stand.refusal("pod_out", "uncaptured", to)?;
    }
    stand.bench.flush(&outside_capture)?;
    let of_pod = |address| stand.pod.addresses().contains(&address);
    let arrived = outside_capture.frames();
    let arrived = arrived.iter().filter_map(sluice_tests::capture::Seen::header);
    ensure!(
        !arrived.into_iter().any(|header| of_pod(header.src)),
        "something got out"
    );
    Ok(())
}

fn a_packet_socket_is_no_way_round(stand: &Stand) -> Result<()> {
    let outside_capture = stand.bench.capture_outside()?;
    for to in outside() {
        let frame = stand.pod.sender().syn(to.ip(), to.port());
        stand.pod.send(&frame)?;
        stand.refusal("pod_out", "uncaptured", to)?;
        for part in stand.pod.sender().syn(to.ip(), to.port()).split() {
            stand.events.clear();
            stand.pod.send(&part)?;
            stand.events.wait_for("TCP in fragments", |event| {
                event.hook == "pod_out" && event.reason == "tcp-fragment" && event.dst == to.ip()
            })?;
        }
        stand.bench.flush(&outside_capture)?;
        ensure!(!outside_capture.has_received(frame.cookie()), "a SYN got out");
    }
    Ok(())
}

/// MPTCP is TCP on the wire.
fn mptcp_is_captured(stand: &Stand) -> Result<()> {
    let listener = stand.proxy.listen(OUTBOUND)?;
    for to in outside() {
        let call = stand.pod.run(|| -> io::Result<_> {
            let family = family(to.ip()) as i32;
            let fd = sys::socket(family, libc::SOCK_STREAM, libc::IPPROTO_MPTCP)?;
            sys::connect(&fd, to.ip(), to.port())?;
            Ok(fd)
        })?;
        match call {
            Ok(_fd) => ensure!(original(&listener.accept()?)? == to),
            // Then nobody has it.
            Err(error) if error.raw_os_error() == Some(libc::EPROTONOSUPPORT) => return Ok(()),
            Err(error) => return Err(error).with_context(|| format!("an MPTCP call for {to}")),
        }
    }
    Ok(())
}

fn the_proxys_ports_are_the_proxys(stand: &Stand) -> Result<()> {
    let places: [IpAddr; 4] = ["0.0.0.0", "::", "127.0.0.1", "::ffff:0.0.0.0"].map(ip);
    let everywhere = [&places[..], &stand.pod.addresses()].concat();
    for port in [OUTBOUND, INBOUND, HBONE, DNS] {
        for &address in &everywhere {
            for shared in [false, true] {
                let place = SocketAddr::new(address, port);
                let taken = stand.pod.run(|| bind_to(place, SockType::Stream, shared))?;
                ensure!(
                    taken
                        .as_ref()
                        .is_err_and(|error| error.raw_os_error() == Some(libc::EADDRINUSE)),
                    "{place}, shared: {shared}: {taken:?}"
                );
            }
        }
        stand.events.wait_for("a port of the proxy", |event| {
            event.reason == "proxy-port" && event.sport == port && event.hook.starts_with("bind")
        })?;
    }
    for shared in [false, true] {
        let place = SocketAddr::new(ip("127.0.0.1"), DNS);
        let taken = stand.pod.run(|| bind_to(place, SockType::Datagram, shared))?;
        ensure!(taken.is_err_and(|error| error.raw_os_error() == Some(libc::EADDRINUSE)));
    }
    // The proxy is there first, and shares: nobody joins it.
    let _proxys = stand
        .proxy
        .run(|| bind_to((Ipv6Addr::UNSPECIFIED, OUTBOUND).into(), SockType::Stream, true))??;
    for address in everywhere {
        let taken = stand
            .pod
            .run(|| bind_to((address, OUTBOUND).into(), SockType::Stream, true))?;
        ensure!(
            taken.is_err(),
            "a pod's socket has joined the proxy's at {address}"
        );
    }
    // Other ports are free, and so are these ports for pods that are not captured.
    stand.pod.run(|| TcpListener::bind("0.0.0.0:15000").map(drop))??;
    stand
        .peer
        .run(|| TcpListener::bind("0.0.0.0:15001").map(drop))??;
    Ok(())
}

/// To be administered, to be told that everything was captured already, to run in circles.
fn the_proxy_cannot_be_called_directly(stand: &Stand) -> Result<()> {
    let mut listeners = Vec::new();
    for port in [15000, OUTBOUND, 15004, INBOUND] {
        listeners.push(stand.proxy.listen(port)?);
    }
    let own = [
        &["127.0.0.1", "127.0.0.2", "::1", "0.0.0.0", "::"].map(ip)[..],
        &stand.pod.addresses(),
    ]
    .concat();
    for port in [15000, OUTBOUND, 15004, INBOUND] {
        for &address in &own {
            let to = SocketAddr::new(address, port);
            for to in [to, mapped(to)] {
                fails(libc::EPERM, &format!("a call for {to}"), || stand.call(to));
            }
        }
    }
    for listener in listeners {
        ensure!(listener.try_accept()?.is_none(), "a call got there");
    }
    Ok(())
}

/// Nor from elsewhere.
fn nobody_else_calls_the_proxys_own_ports(stand: &Stand) -> Result<()> {
    let listeners = [stand.proxy.listen(OUTBOUND)?, stand.proxy.listen(INBOUND)?];
    for port in [OUTBOUND, INBOUND] {
        for to in at(stand.pod.addresses(), port) {
            fails(libc::ECONNREFUSED, &format!("a call for {to}"), || {
                stand.peer.run(|| connect(to))
            });
            stand.refusal("capture_in", "proxy-port", to)?;
        }
    }
    for listener in listeners {
        ensure!(listener.try_accept()?.is_none(), "a call got there");
    }
    Ok(())
}

/// A loopback address as the source leads nowhere but to the proxy.
fn the_source_of_a_call_does_not_matter(stand: &Stand) -> Result<()> {
    let _past = Echo::start(stand.bench.outside(), &REGISTERED.map(ip), &[80, 443])?;
    let listener = stand.proxy.listen(OUTBOUND)?;
    let [v4, v6, ..] = outside();
    let sources = [
        (stand.pod.v4(), v4),
        (stand.pod.v6(), v6),
        (ip("127.0.0.1"), v4),
        (ip("127.0.0.6"), v4),
    ];
    for (from, to) in sources {
        let _fd = stand.pod.run(|| -> io::Result<_> {
            let fd = bind_to((from, 0).into(), SockType::Stream, false)?;
            connect_socket(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
            Ok(fd)
        })??;
        ensure!(original(&listener.accept()?)? == to, "{to} from {from}");
    }
    Ok(())
}

fn family(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    }
}

fn bind_to(place: SocketAddr, kind: SockType, shared: bool) -> io::Result<std::os::fd::OwnedFd> {
    let fd = socket(family(place.ip()), kind, SockFlag::SOCK_CLOEXEC, None)?;
    if shared {
        setsockopt(&fd, ReusePort, &true)?;
        setsockopt(&fd, ReuseAddr, &true)?;
    }
    bind(fd.as_raw_fd(), &SockaddrStorage::from(place))?;
    Ok(fd)
}
