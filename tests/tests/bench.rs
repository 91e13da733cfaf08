//! The bench itself, without an agent: packets arrive where nothing holds them back. Every other test relies on it.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result};
use sluice_tests::{
    Bench, Capture,
    bench::{
        addresses::{METADATA, REGISTERED, UNREGISTERED},
        ip,
    },
    echo::Echo,
};

#[test]
fn frames_arrive_outside_and_in_other_pods() -> Result<()> {
    let bench = Bench::create()?;
    let [client, peer] = [bench.pod("app", "client")?, bench.pod("app", "peer")?];
    let outside = bench.capture_outside()?;
    let inside = Capture::start(peer.netns(), "eth0")?;
    let sender = client.sender();
    for dst in [REGISTERED, UNREGISTERED, METADATA].concat() {
        let dst = ip(dst);
        let [first, later] = sender.udp(dst, 53).split();
        for frame in [
            sender.udp(dst, 53),
            sender.syn(dst, 80),
            sender.sctp(dst, 5000),
            sender.echo(dst),
            later,
            first,
        ] {
            client.send(&frame)?;
            outside
                .wait_for_cookie(frame.cookie())
                .with_context(|| format!("{frame:?} did not arrive"))?;
        }
    }
    for dst in peer.addresses() {
        let frame = sender.udp(dst, 53);
        client.send(&frame)?;
        inside
            .wait_for_cookie(frame.cookie())
            .with_context(|| format!("{frame:?} did not arrive"))?;
    }
    bench.flush(&outside)
}

#[test]
fn sockets_reach_servers_and_are_called_from_outside() -> Result<()> {
    let bench = Bench::create()?;
    let client = bench.pod("app", "client")?;
    let servers: Vec<IpAddr> = REGISTERED.map(ip).into();
    let _outside = Echo::start(bench.outside(), &servers, &[80])?;
    let _inside = Echo::start(client.netns(), &client.addresses(), &[8080])?;
    for server in servers {
        client.run(|| call(SocketAddr::new(server, 80)))??;
    }
    for server in client.addresses() {
        bench.outside().run(|| call(SocketAddr::new(server, 8080)))??;
    }
    Ok(())
}

fn call(server: SocketAddr) -> Result<()> {
    let mut answer = [0; 5];
    let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(5)).context("connect()")?;
    stream.write_all(b"hello")?;
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"hello");
    let unspecified: IpAddr = if server.is_ipv4() {
        [0; 4].into()
    } else {
        [0_u16; 8].into()
    };
    let socket = UdpSocket::bind((unspecified, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.send_to(b"hello", server)?;
    socket.recv_from(&mut answer).context("no answer to UDP")?;
    assert_eq!(&answer, b"hello");
    Ok(())
}

#[test]
fn a_pod_process_is_in_the_pods_cgroup_alone() -> Result<()> {
    let bench = Bench::create()?;
    let client = bench.pod("app", "client")?;
    let inside = client.run(|| std::fs::read_to_string("/proc/thread-self/cgroup"))??;
    let here = std::fs::read_to_string("/proc/thread-self/cgroup")?;
    let own = format!("{}/client", bench.id());
    assert!(inside.lines().any(|line| line.ends_with(&own)), "{inside}");
    assert!(!here.lines().any(|line| line.ends_with(&own)), "{here}");
    Ok(())
}
