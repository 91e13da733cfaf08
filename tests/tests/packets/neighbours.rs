//! ARP and neighbour discovery: only for the pod's own addresses.

use std::net::IpAddr;

use anyhow::Result;
use sluice_tests::{
    Frame, Rig,
    bench::ip,
    frame::{Transport, arp},
};

use crate::common::silent;

const NODE: [u8; 4] = [169, 254, 1, 1];

fn v4(address: IpAddr) -> [u8; 4] {
    match address {
        IpAddr::V4(v4) => v4.octets(),
        IpAddr::V6(_) => unreachable!("an IPv4 address"),
    }
}

#[test]
fn arp_speaks_for_the_pod_alone() -> Result<()> {
    let rig = Rig::start(&silent())?;
    let sender = rig.client.sender();
    let (own, peer) = (v4(rig.client.v4()), v4(rig.peer.v4()));
    for (reply, mac, claimed, verdict, reason) in [
        (false, sender.mac, own, "allow", "neighbour"),
        (true, sender.mac, own, "allow", "neighbour"),
        // An address probe.
        (false, sender.mac, [0; 4], "allow", "neighbour"),
        (false, sender.mac, peer, "deny", "forged-neighbour"),
        (true, sender.mac, peer, "deny", "forged-neighbour"),
        (true, sender.mac, NODE, "deny", "forged-neighbour"),
        (true, rig.peer.sender().mac, own, "deny", "forged-neighbour"),
    ] {
        let (bytes, _) = arp(sender, reply, mac, claimed, NODE);
        let event = rig.judged_bytes(&rig.client, &bytes, claimed.into(), NODE.into())?;
        assert_eq!(
            (event.verdict.as_str(), event.reason.as_str()),
            (verdict, reason),
            "{claimed:?} at {mac:?}"
        );
    }
    Ok(())
}

/// A neighbour solicitation or advertisement.
fn discovery(rig: &Rig, dst: IpAddr, advertises: bool, target: IpAddr, hop_limit: u8) -> Frame {
    let IpAddr::V6(target) = target else {
        unreachable!("an IPv6 address")
    };
    let mut body = vec![if advertises { 0x60 } else { 0 }, 0, 0, 0];
    body.extend(target.octets());
    let kind = if advertises { 136 } else { 135 };
    rig.client
        .sender()
        .frame(dst, Transport::Icmp { kind, code: 0, body })
        .ttl(hop_limit)
}

#[test]
fn neighbour_discovery_speaks_for_the_pod_alone() -> Result<()> {
    let rig = Rig::start(&silent())?;
    let (own, peer, node, all) = (rig.client.v6(), rig.peer.v6(), ip("fe80::1"), ip("ff02::1"));
    let link_local = ip("fe80::ff:fe00:a01");
    for (frame, verdict, reason) in [
        (discovery(&rig, node, false, node, 255), "allow", "neighbour"),
        (discovery(&rig, node, true, own, 255), "allow", "neighbour"),
        (discovery(&rig, all, true, own, 255), "allow", "neighbour"),
        (
            discovery(&rig, node, true, link_local, 255).from(link_local),
            "allow",
            "neighbour",
        ),
        (discovery(&rig, node, true, peer, 255), "deny", "forged-neighbour"),
        // The node's own link-local address.
        (discovery(&rig, all, true, node, 255), "deny", "forged-neighbour"),
        (
            discovery(&rig, all, false, own, 255).from(node),
            "deny",
            "forged-neighbour",
        ),
        // Is a neighbour with a global address still there?
        (
            discovery(&rig, peer, false, peer, 255).from(link_local),
            "allow",
            "internal",
        ),
        (
            discovery(&rig, all, true, ip("2001:db8:0:1::1"), 255),
            "deny",
            "forged-neighbour",
        ),
        (
            discovery(&rig, node, false, node, 255).from(peer),
            "deny",
            "forged-source",
        ),
        // What has been forwarded is no neighbour's.
        (discovery(&rig, all, true, own, 64), "deny", "multicast"),
        (
            discovery(&rig, ip("2001:db8:ffff::20"), true, own, 255),
            "deny",
            "not-gateway",
        ),
    ] {
        let event = rig.judged("pod_out", &rig.client, &frame)?;
        assert_eq!(
            (event.verdict.as_str(), event.reason.as_str()),
            (verdict, reason),
            "{frame:?}"
        );
    }
    Ok(())
}

#[test]
fn a_pod_is_nobodys_router() -> Result<()> {
    let rig = Rig::start(&silent())?;
    let sender = rig.client.sender();
    let message = |kind, len| Transport::Icmp {
        kind,
        code: 0,
        body: vec![0; len],
    };
    let [router_advertisement, redirect_v6, redirect_v4] = [134, 137, 5];
    for (dst, transport) in [
        (ip("ff02::1"), message(router_advertisement, 12)),
        (ip("fe80::1"), message(redirect_v6, 36)),
        (rig.peer.v6(), message(redirect_v6, 36)),
        (rig.peer.v4(), message(redirect_v4, 32)),
    ] {
        rig.refused(
            &rig.client,
            &sender.frame(dst, transport).ttl(255),
            "forged-neighbour",
        )?;
    }
    let solicitation = sender.frame(ip("ff02::2"), message(133, 4)).ttl(255);
    assert_eq!(
        rig.judged("pod_out", &rig.client, &solicitation)?.reason,
        "neighbour"
    );
    Ok(())
}
