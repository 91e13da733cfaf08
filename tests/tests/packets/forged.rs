//! Senders that are somebody else, by every kind of socket that can be.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use sluice_tests::{
    Cookie, Frame, Rig,
    bench::{
        addresses::{REGISTERED, UNREGISTERED},
        ip,
    },
    frame::unique_port,
    sys,
};

use crate::common::{both, silent};

/// Addresses that are not the client's, by family: another pod's, the gateway's, the node's, one of outside.
fn foreign(rig: &Rig) -> [Vec<IpAddr>; 2] {
    [
        vec![
            rig.peer.v4(),
            rig.gateway.v4(),
            ip("192.0.2.2"),
            ip("203.0.113.10"),
            ip("0.0.0.0"),
            ip("127.0.0.1"),
        ],
        vec![
            rig.peer.v6(),
            rig.gateway.v6(),
            ip("2001:db8:0:1::2"),
            ip("2001:db8:ffff::10"),
            ip("::"),
            ip("fe80::99"),
        ],
    ]
}

#[test]
fn a_forged_source_address_reaches_nobody() -> Result<()> {
    let rig = Rig::start(&silent())?;
    let inside = rig.peer.capture()?;
    let sender = rig.client.sender();
    for (family, sources) in foreign(&rig).into_iter().enumerate() {
        for src in sources {
            for dst in [
                both(REGISTERED)[family],
                both(UNREGISTERED)[family],
                rig.peer.addresses()[family],
            ] {
                let frame = sender.syn(dst, 80).from(src);
                rig.refused(&rig.client, &frame, "forged-source")?;
                assert!(
                    !inside.has_received(frame.cookie()),
                    "{src} -> {dst} arrived in a pod"
                );
            }
        }
    }
    Ok(())
}

#[test]
fn a_forged_hardware_address_reaches_nobody() -> Result<()> {
    let rig = Rig::start(&silent())?;
    let gateway = rig.gateway.sender();
    for dst in [both(REGISTERED), rig.peer.addresses()].concat() {
        rig.refused(
            &rig.client,
            &rig.client.sender().syn(dst, 80).from_mac(gateway.mac),
            "forged-mac",
        )?;
        // Even of a gateway.
        rig.refused(
            &rig.gateway,
            &gateway.syn(dst, 80).from_mac([2, 0, 0, 0, 99, 1]),
            "forged-mac",
        )?;
    }
    // A frame to another station is somebody else's business, but judged all the same.
    for dst in both(UNREGISTERED) {
        let frame = rig.client.sender().udp(dst, 80).to_mac([0xff; 6]);
        rig.refused(&rig.client, &frame, "not-gateway")?;
    }
    Ok(())
}

#[test]
fn a_raw_socket_is_no_way_around() -> Result<()> {
    let rig = Rig::start(&silent())?;
    for (family, dst) in both(UNREGISTERED).into_iter().enumerate() {
        let own = rig.client.sender().udp(dst, 80);
        send_raw(&rig, &own)?;
        expect(&rig, &own, "not-gateway")?;
        let forged = rig
            .client
            .sender()
            .udp(dst, 80)
            .from(rig.gateway.addresses()[family]);
        send_raw(&rig, &forged)?;
        expect(&rig, &forged, "forged-source")?;
    }
    Ok(())
}

/// From the pod's cgroup, with the IP header included.
fn send_raw(rig: &Rig, frame: &Frame) -> Result<()> {
    let (packet, dst) = (frame.packet(), frame.dst());
    rig.client
        .run(|| {
            let domain = if dst.is_ipv4() {
                libc::AF_INET
            } else {
                libc::AF_INET6
            };
            let socket = sys::socket(domain, libc::SOCK_RAW, libc::IPPROTO_RAW)?;
            if dst.is_ipv6() {
                sys::set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_HDRINCL, 1_i32)?;
            }
            sys::send_to(&socket, &packet, dst, 0)
        })?
        .context("sending by a raw socket")
}

#[test]
fn a_transparent_socket_is_no_way_around() -> Result<()> {
    let rig = Rig::start(&silent())?;
    for (family, dst) in both(REGISTERED).into_iter().enumerate() {
        let src = rig.gateway.addresses()[family];
        let (cookie, sport) = (Cookie::unique(), unique_port());
        rig.events.clear();
        rig.client
            .run(|| {
                let (domain, level, option) = if dst.is_ipv4() {
                    (libc::AF_INET, libc::SOL_IP, libc::IP_TRANSPARENT)
                } else {
                    (libc::AF_INET6, libc::SOL_IPV6, libc::IPV6_TRANSPARENT)
                };
                let socket = sys::socket(domain, libc::SOCK_DGRAM, 0)?;
                sys::set_option(&socket, level, option, 1_i32)?;
                sys::bind(&socket, src, sport)?;
                sys::send_to(&socket, &cookie.times(2), dst, 80)
            })?
            .context("sending by a transparent socket")?;
        let event = rig.events.wait_for("a transparent socket's packet", |event| {
            event.hook == "pod_out" && event.sport == sport && event.dst == dst
        })?;
        assert_eq!((event.reason.as_str(), event.src), ("forged-source", src));
        rig.did_not_arrive(cookie)?;
    }
    Ok(())
}

fn expect(rig: &Rig, frame: &Frame, reason: &str) -> Result<()> {
    let event = rig.verdict_on("pod_out", frame)?;
    assert_eq!(
        (event.verdict.as_str(), event.reason.as_str()),
        ("deny", reason),
        "{event:?}"
    );
    rig.did_not_arrive(frame.cookie())
}
