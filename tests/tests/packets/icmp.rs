//! ICMP errors: those that belong to a flow that may be, and no others.

use std::{
    net::{IpAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, Result};
use sluice_tests::{
    Frame, Pod, Rig,
    bench::{
        OUTSIDER,
        addresses::{REGISTERED, UNREGISTERED},
    },
    capture::Carried,
    frame::{Tcp, Transport},
};

use crate::common::{both, silent};

/// "Port unreachable", about a packet that went from `quoted.src()` to the pod.
fn unreachable(pod: &Pod, dst: IpAddr, quoted: &Frame) -> Frame {
    let (kind, code) = if dst.is_ipv4() { (3, 3) } else { (1, 4) };
    let body = [&[0; 4][..], &quoted.packet()].concat();
    pod.sender().frame(dst, Transport::Icmp { kind, code, body })
}

#[test]
fn an_error_about_nothing_is_refused() -> Result<()> {
    let rig = Rig::start(&silent())?;
    for dst in both(UNREGISTERED) {
        for pod in [&rig.client, &rig.gateway] {
            let own = pod.sender().own_for(dst);
            let called = OUTSIDER.udp(own, 8080).from(dst);
            rig.refused(pod, &unreachable(pod, dst, &called), "unrelated-error")?;
            // It quotes a packet to somebody else.
            let elsewhere = OUTSIDER.udp(rig.peer.sender().own_for(dst), 8080).from(dst);
            rig.refused(pod, &unreachable(pod, dst, &elsewhere), "unrelated-error")?;
        }
    }
    Ok(())
}

#[test]
fn an_error_about_what_a_rule_permits_passes() -> Result<()> {
    let rig = Rig::start(&silent())?;
    for dst in both(REGISTERED) {
        let own = rig.gateway.sender().own_for(dst);
        let tcp = |port| {
            OUTSIDER
                .frame(
                    own,
                    Transport::Tcp(Tcp {
                        port,
                        flags: Tcp::ACK,
                        seq: 1,
                        ack: 1,
                    }),
                )
                .from(dst)
        };
        let answer = tcp(40_000).sport(443);
        rig.passed(
            &rig.gateway,
            &unreachable(&rig.gateway, dst, &answer),
            "related-error",
        )?;
        let of_another_port = tcp(40_000).sport(8443);
        rig.refused(
            &rig.gateway,
            &unreachable(&rig.gateway, dst, &of_another_port),
            "unrelated-error",
        )?;
        // The same from somebody who may not.
        let own = rig.client.sender().own_for(dst);
        let answer = OUTSIDER.frame(
            own,
            Transport::Tcp(Tcp {
                port: 40_000,
                flags: Tcp::ACK,
                seq: 1,
                ack: 1,
            }),
        );
        rig.refused(
            &rig.client,
            &unreachable(&rig.client, dst, &answer.sport(443)),
            "unrelated-error",
        )?;
    }
    Ok(())
}

/// An outside client calls a port that nobody listens on: the kernel's own error leaves, because of the call.
#[test]
fn an_error_about_a_call_from_outside_passes() -> Result<()> {
    let rig = Rig::start(&silent())?;
    for (family, caller) in both(REGISTERED).into_iter().enumerate() {
        let pod = rig.client.addresses()[family];
        rig.outside.clear();
        let answer = rig.bench.outside().run(|| -> Result<_> {
            let socket = UdpSocket::bind((caller, 0))?;
            socket.connect((pod, 9999))?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            socket.send(b"anybody?")?;
            Ok(socket.recv(&mut [0; 8]).map_err(|error| error.kind()))
        })??;
        assert_eq!(answer, Err(std::io::ErrorKind::ConnectionRefused), "{pod}");
        let (kind, code) = if caller.is_ipv4() { (3, 3) } else { (1, 4) };
        rig.outside
            .wait_for(|seen| {
                seen.header().is_some_and(|header| {
                    header.src == pod
                        && header.dst == caller
                        && header.transport == Carried::Icmp { kind, code }
                })
            })
            .context("the error did not arrive")?;
        let event = rig
            .events
            .wait_for("the error", |event| event.src == pod && event.dst == caller)?;
        assert_eq!(
            (event.hook.as_str(), event.reason.as_str()),
            ("pod_out", "related-error")
        );
    }
    Ok(())
}

/// What comes back to the gateway of its own calls is not the agent's business.
#[test]
fn errors_from_outside_arrive() -> Result<()> {
    let rig = Rig::start(&silent())?;
    let inside = rig.gateway.capture()?;
    for router in both(REGISTERED) {
        let own = rig.gateway.sender().own_for(router);
        let called = rig.gateway.sender().syn(router, 443).packet();
        let (kind, code) = if router.is_ipv4() { (3, 1) } else { (1, 3) };
        let body = [&[0; 4][..], &called].concat();
        let error = OUTSIDER.frame(own, Transport::Icmp { kind, code, body });
        rig.bench.send_from_outside(&error)?;
        inside
            .wait_for_cookie(error.cookie())
            .context("the error did not arrive in the pod")?;
    }
    Ok(())
}
