//! What an application sees: refused at once, refused by an answer, or silence.

use std::{io, net::UdpSocket, time::Instant};

use anyhow::{Context as _, Result};
use sluice_tests::{
    Rig,
    bench::{
        addresses::{REGISTERED, UNREGISTERED},
        ip,
    },
    capture::Carried,
    echo::Echo,
    frame::unique_port,
    sys,
};

use crate::common::{
    LONG, SHORT, any_of, assert_errno, both, connect, exchange, exchange_datagrams, is_silence, rejecting,
    silent, udp,
};

#[test]
fn a_refused_call_fails_at_once() -> Result<()> {
    let rig = Rig::start(&rejecting())?;
    for dst in [both(REGISTERED), both(UNREGISTERED)].concat() {
        let began = Instant::now();
        rig.client.run(|| {
            assert_errno(connect(dst, 80, LONG), libc::EPERM, "TCP connect()");
            assert_errno(udp(dst, 53, LONG), libc::EPERM, "UDP connect()");
            let socket = UdpSocket::bind((any_of(dst), 0)).expect("a UDP socket");
            assert_errno(socket.send_to(b"hello", (dst, 53)), libc::EPERM, "UDP sendto()");
        })?;
        assert!(began.elapsed() < LONG / 2, "it took {:?}", began.elapsed());
        for hook in if dst.is_ipv4() {
            ["connect4", "sendmsg4"]
        } else {
            ["connect6", "sendmsg6"]
        } {
            let event = rig
                .events
                .wait_for(hook, |event| event.hook == hook && event.dst == dst)?;
            assert_eq!(
                (event.verdict.as_str(), event.reason.as_str()),
                ("deny", "not-gateway")
            );
            assert_eq!(event.pod.map(|pod| pod.name).as_deref(), Some("client"));
        }
    }
    Ok(())
}

#[test]
fn a_mapped_socket_is_refused_like_the_ipv4_it_sends() -> Result<()> {
    for policy in [rejecting(), silent()] {
        let rig = Rig::start(&policy)?;
        let dst = ip(UNREGISTERED[0]);
        let mapped = ip("::ffff:198.51.100.20");
        let (tcp, datagram, unconnected) = rig.client.run(|| {
            let tcp = connect(mapped, 80, SHORT);
            let datagram = udp(mapped, 53, SHORT).and_then(|socket| exchange_datagrams(&socket));
            let socket = UdpSocket::bind((ip("::"), 0)).expect("a UDP socket");
            (tcp, datagram, socket.send_to(b"hello", (mapped, 54)))
        })?;
        if policy.on_deny == "Reject" {
            assert_errno(tcp, libc::EPERM, "TCP connect()");
            assert_errno(datagram, libc::EPERM, "UDP connect()");
            assert_errno(unconnected, libc::EPERM, "UDP sendto()");
        } else {
            assert!(tcp.is_err_and(|error| is_silence(&error)));
            assert!(datagram.is_err_and(|error| is_silence(&error)));
            assert!(unconnected.is_ok());
            for port in [80, 53, 54] {
                let event = rig
                    .events
                    .wait_for("a mapped socket", |event| event.dst == dst && event.dport == port)?;
                assert_eq!(
                    (event.hook.as_str(), event.reason.as_str()),
                    ("pod_out", "not-gateway")
                );
            }
        }
    }
    Ok(())
}

/// Packets that pass no hook of a cgroup are answered on the device.
#[test]
fn a_refused_packet_is_answered() -> Result<()> {
    let rig = Rig::start(&rejecting())?;
    for dst in both(UNREGISTERED) {
        let began = Instant::now();
        rig.client.run_without_cgroup(|| {
            assert_errno(connect(dst, 80, LONG), libc::ECONNREFUSED, "TCP connect()");
            let datagram = udp(dst, 53, LONG).and_then(|socket| exchange_datagrams(&socket));
            let prohibited = if dst.is_ipv4() {
                libc::EHOSTUNREACH
            } else {
                libc::EACCES
            };
            assert_errno(datagram, prohibited, "a UDP answer");
        })?;
        assert!(began.elapsed() < LONG / 2, "it took {:?}", began.elapsed());
    }
    let inside = rig.client.capture()?;
    for dst in both(UNREGISTERED) {
        let sender = rig.client.sender();
        let syn = sender.syn(dst, 80);
        rig.refused(&rig.client, &syn, "not-gateway")?;
        let reset = inside
            .wait_for(|seen| seen.header().is_some_and(|header| header.src == dst))
            .and_then(|seen| seen.header())
            .context("no RST")?;
        // It acknowledges the SYN and the data with it.
        let acknowledged = 1_000 + 1 + 32;
        assert_eq!(reset.dst, sender.own_for(dst));
        assert_eq!(
            reset.transport,
            Carried::Tcp {
                sport: 80,
                dport: syn.source_port(),
                reset: true,
                ack: acknowledged
            }
        );
        let (kind, code) = if dst.is_ipv4() { (3, 13) } else { (1, 1) };
        for frame in [
            sender.udp(dst, 53),
            sender.sctp(dst, 80),
            sender.echo(dst),
            sender.udp(dst, 53).cookies(150),
        ] {
            inside.clear();
            rig.refused(&rig.client, &frame, "not-gateway")?;
            let error = inside.wait_for_cookie(frame.cookie()).context("no ICMP error")?;
            let header = error.header().context("a sound ICMP error")?;
            assert_eq!(
                (header.src, header.transport),
                (dst, Carried::Icmp { kind, code })
            );
        }
    }
    Ok(())
}

#[test]
fn what_is_wrong_in_itself_is_never_answered() -> Result<()> {
    let rig = Rig::start(&rejecting())?;
    let inside = rig.client.capture()?;
    for dst in both(UNREGISTERED) {
        let sender = rig.client.sender();
        for (frame, reason) in [
            (
                sender.syn(dst, 80).from(rig.gateway.sender().own_for(dst)),
                "forged-source",
            ),
            (sender.syn(dst, 80).from_mac([2, 0, 0, 0, 99, 1]), "forged-mac"),
            (sender.other(dst, 47, &[0; 8]), "unknown-protocol"),
            (sender.syn(dst, 80).tagged(0x8100, 5), "vlan-tag"),
        ] {
            rig.refused(&rig.client, &frame, reason)?;
        }
        let from_there =
            |seen: &sluice_tests::capture::Seen| seen.header().is_some_and(|header| header.src == dst);
        assert!(
            !inside.frames().iter().any(from_there),
            "an answer to what was forged"
        );
    }
    Ok(())
}

#[test]
fn silence_is_silent() -> Result<()> {
    let rig = Rig::start(&silent())?;
    for dst in both(UNREGISTERED) {
        let tcp = rig.client.run(|| connect(dst, 80, SHORT))?;
        assert!(tcp.is_err_and(|error| is_silence(&error)));
        let datagram = rig
            .client
            .run(|| udp(dst, 53, SHORT).and_then(|socket| exchange_datagrams(&socket)))?;
        assert!(datagram.is_err_and(|error| is_silence(&error)));
        for port in [80, 53] {
            let event = rig.events.wait_for("a silent refusal", |event| {
                event.dst == dst && event.dport == port
            })?;
            assert_eq!(
                (event.hook.as_str(), event.reason.as_str()),
                ("pod_out", "not-gateway")
            );
        }
    }
    Ok(())
}

#[test]
fn permitted_calls_are_let_alone() -> Result<()> {
    let rig = Rig::start(&rejecting())?;
    let _outside = Echo::start(rig.bench.outside(), &both(REGISTERED), &[80])?;
    let _inside = Echo::start(rig.peer.netns(), &rig.peer.addresses(), &[80])?;
    for dst in both(REGISTERED) {
        rig.gateway
            .run(|| connect(dst, 80, LONG).and_then(|mut stream| exchange(&mut stream)))??;
    }
    for dst in rig.peer.addresses() {
        rig.client.run(|| -> io::Result<()> {
            exchange(&mut connect(dst, 80, LONG)?)?;
            exchange_datagrams(&udp(dst, 80, LONG)?)
        })??;
    }
    // A pod talks to itself by every address it has.
    let _own = Echo::start(
        rig.client.netns(),
        &[ip("127.0.0.1"), ip("::1"), rig.client.v4(), rig.client.v6()],
        &[81],
    )?;
    for dst in [ip("127.0.0.1"), ip("::1"), rig.client.v4(), rig.client.v6()] {
        rig.client
            .run(|| connect(dst, 81, LONG).and_then(|mut stream| exchange(&mut stream)))??;
    }
    Ok(())
}

/// A connected UDP socket is asked once; its packets are judged one by one all the same.
#[test]
fn a_socket_connected_before_the_policy_is_cut() -> Result<()> {
    let mut rig = Rig::start(&rejecting())?;
    let _outside = Echo::start(rig.bench.outside(), &both(UNREGISTERED), &[53])?;
    rig.bench.state().remove("policy")?;
    rig.agent.settle()?;
    let mut open = Vec::new();
    for dst in both(UNREGISTERED) {
        let socket = rig.client.run(|| udp(dst, 53, LONG))??;
        exchange_datagrams(&socket).context("without a policy")?;
        open.push(socket);
    }
    rig.bench.state().policy(&rejecting())?;
    rig.agent.settle()?;
    for socket in open {
        assert!(exchange_datagrams(&socket).is_err(), "an open socket goes on");
    }
    Ok(())
}

/// A raw ICMP socket has no `connect()` that anybody asks about: refused on the device, and told so.
#[test]
fn ping_sockets_are_refused_on_the_device() -> Result<()> {
    let rig = Rig::start(&rejecting())?;
    for dst in both(UNREGISTERED) {
        let id = unique_port();
        let frame = rig.client.sender().echo(dst).sport(id);
        let payload = frame.packet().split_off(if dst.is_ipv4() { 20 } else { 40 });
        rig.client.run(|| {
            let (domain, protocol) = if dst.is_ipv4() {
                (libc::AF_INET, libc::IPPROTO_ICMP)
            } else {
                (libc::AF_INET6, libc::IPPROTO_ICMPV6)
            };
            let socket = sys::socket(domain, libc::SOCK_RAW, protocol)?;
            sys::send_to(&socket, &payload, dst, 0)
        })??;
        let event = rig.verdict_on("pod_out", &frame)?;
        assert_eq!(
            (event.verdict.as_str(), event.reason.as_str()),
            ("deny", "not-gateway")
        );
        rig.did_not_arrive(frame.cookie())?;
    }
    Ok(())
}
