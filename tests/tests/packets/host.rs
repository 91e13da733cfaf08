//! Pods in the node's own network namespace.

use std::net::UdpSocket;

use anyhow::Result;
use sluice_tests::{
    Cookie, Pod, Rig,
    bench::addresses::{REGISTERED, UNREGISTERED},
    echo::Echo,
    manifest::Policy,
    sys,
};

use crate::common::{
    LONG, SHORT, any_of, assert_errno, both, connect, exchange, is_silence, rejecting, silent,
};

fn start(policy: &Policy) -> Result<(Rig, Pod)> {
    let policy = Policy {
        host_network: true,
        ..policy.clone()
    };
    let mut agent_pod = None;
    let rig = Rig::start_with(&policy, |bench| {
        let pod = bench.host_pod("app", "agent")?;
        bench.state().declare(&pod)?;
        agent_pod = Some(pod);
        Ok(())
    })?;
    let pod = agent_pod.expect("made before the agent starts");
    Ok((rig, pod))
}

/// Sends a datagram from a socket and says by which port.
fn datagram(pod: &Pod, dst: std::net::IpAddr, cookie: Cookie) -> Result<u16> {
    pod.run(|| -> Result<u16> {
        let socket = UdpSocket::bind((any_of(dst), 0))?;
        socket.send_to(&cookie.times(2), (dst, 53))?;
        Ok(socket.local_addr()?.port())
    })?
}

#[test]
fn a_host_pod_is_held_on_the_uplink() -> Result<()> {
    let (rig, pod) = start(&silent())?;
    for dst in both(UNREGISTERED) {
        let cookie = Cookie::unique();
        let port = datagram(&pod, dst, cookie)?;
        let event = rig.events.wait_for("a host pod's packet", |event| {
            event.sport == port && event.dst == dst
        })?;
        assert_eq!(
            (event.hook.as_str(), event.verdict.as_str(), event.reason.as_str()),
            ("node_out", "deny", "not-gateway")
        );
        assert_eq!(event.pod.map(|pod| pod.name).as_deref(), Some("agent"));
        rig.did_not_arrive(cookie)?;
        let tcp = pod.run(|| connect(dst, 80, SHORT))?;
        assert!(tcp.is_err_and(|error| is_silence(&error)));
    }
    Ok(())
}

#[test]
fn a_host_pods_raw_socket_is_no_way_around() -> Result<()> {
    let (rig, pod) = start(&silent())?;
    for dst in both(UNREGISTERED) {
        let frame = rig.client.sender().echo(dst);
        let payload = frame.packet().split_off(if dst.is_ipv4() { 20 } else { 40 });
        rig.events.clear();
        pod.run(|| {
            let (domain, protocol) = if dst.is_ipv4() {
                (libc::AF_INET, libc::IPPROTO_ICMP)
            } else {
                (libc::AF_INET6, libc::IPPROTO_ICMPV6)
            };
            let socket = sys::socket(domain, libc::SOCK_RAW, protocol)?;
            sys::send_to(&socket, &payload, dst, 0)
        })??;
        let event = rig.events.wait_for("a host pod's ping", |event| {
            event.hook == "node_out" && event.dst == dst
        })?;
        assert_eq!(
            (event.verdict.as_str(), event.reason.as_str()),
            ("deny", "not-gateway")
        );
        rig.did_not_arrive(frame.cookie())?;
    }
    Ok(())
}

#[test]
fn a_host_pods_call_fails_at_once() -> Result<()> {
    let (rig, pod) = start(&rejecting())?;
    for dst in [both(REGISTERED), both(UNREGISTERED)].concat() {
        assert_errno(pod.run(|| connect(dst, 80, LONG))?, libc::EPERM, "connect()");
        let event = rig
            .events
            .wait_for("a host pod's call", |event| event.dst == dst && event.len == 0)?;
        assert_eq!(
            (event.reason.as_str(), event.pod.map(|pod| pod.name).as_deref()),
            ("not-gateway", Some("agent"))
        );
    }
    Ok(())
}

#[test]
fn the_nodes_own_processes_are_free() -> Result<()> {
    let (rig, pod) = start(&rejecting())?;
    let _outside = Echo::start(rig.bench.outside(), &both(UNREGISTERED), &[80])?;
    let _inside = Echo::start(rig.peer.netns(), &rig.peer.addresses(), &[80])?;
    for dst in both(UNREGISTERED) {
        rig.bench
            .node()
            .run(|| connect(dst, 80, LONG).and_then(|mut stream| exchange(&mut stream)))??;
    }
    for dst in rig.peer.addresses() {
        pod.run(|| connect(dst, 80, LONG).and_then(|mut stream| exchange(&mut stream)))??;
    }
    Ok(())
}

#[test]
fn host_pods_are_free_unless_the_policy_names_them() -> Result<()> {
    let mut agent_pod = None;
    let rig = Rig::start_with(&rejecting(), |bench| {
        let pod = bench.host_pod("app", "agent")?;
        bench.state().declare(&pod)?;
        agent_pod = Some(pod);
        Ok(())
    })?;
    let pod = agent_pod.expect("made before the agent starts");
    let _outside = Echo::start(rig.bench.outside(), &both(UNREGISTERED), &[80])?;
    for dst in both(UNREGISTERED) {
        pod.run(|| connect(dst, 80, LONG).and_then(|mut stream| exchange(&mut stream)))??;
    }
    Ok(())
}
