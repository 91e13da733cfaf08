//! IPv4 options, IPv6 extension headers, VLAN tags, and frames that are not what they say.

use anyhow::Result;
use sluice_tests::{
    Rig,
    bench::{
        addresses::{REGISTERED, UNREGISTERED},
        ip,
    },
    frame::protocol,
};

use crate::common::{both, silent};

const ROUTER_ALERT: [u8; 4] = [148, 4, 0, 0];
const TIMESTAMP: [u8; 8] = [68, 8, 5, 0, 0, 0, 0, 0];
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION_OPTIONS: u8 = 60;
const AUTHENTICATION: u8 = 51;
const NO_NEXT_HEADER: u8 = 59;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const PAD: [u8; 6] = [1, 4, 0, 0, 0, 0];

#[test]
fn ipv4_options_pass_but_source_routes() -> Result<()> {
    let rig = Rig::start(&silent())?;
    let (gateway, sender) = (&rig.gateway, rig.gateway.sender());
    let dst = ip(REGISTERED[0]);
    for options in [&ROUTER_ALERT[..], &TIMESTAMP, &[1, 1, 1, 1, 148, 4, 0, 0]] {
        rig.passed(gateway, &sender.syn(dst, 80).options(options), "rule")?;
    }
    let [loose, strict] = [131, 137];
    for kind in [loose, strict] {
        for options in [
            vec![kind, 7, 4, 203, 0, 113, 10],
            vec![1, 148, 4, 0, 0, kind, 3, 4],
        ] {
            rig.refused(gateway, &sender.syn(dst, 80).options(&options), "source-route")?;
            rig.refused(
                gateway,
                &sender.udp(rig.peer.v4(), 80).options(&options),
                "source-route",
            )?;
        }
    }
    // An option that is longer than the header, or has no length.
    for options in [[7, 40, 4, 0], [7, 0, 0, 0], [7, 1, 0, 0]] {
        rig.refused(gateway, &sender.syn(dst, 80).options(&options), "malformed")?;
    }
    rig.refused(
        &rig.client,
        &rig.client.sender().syn(dst, 80).options(&ROUTER_ALERT),
        "not-gateway",
    )
    .map(drop)
}

#[test]
fn ipv6_extension_headers_are_followed_or_refused() -> Result<()> {
    let rig = Rig::start(&silent())?;
    let (gateway, sender) = (&rig.gateway, rig.gateway.sender());
    for dst in [ip(REGISTERED[1]), rig.peer.v6()] {
        let call = || sender.syn(dst, 80);
        for (number, body, reason) in [
            (ROUTING, &[4, 0, 0, 0, 0, 0][..], "source-route"),
            (AUTHENTICATION, &[0; 14], "unknown-protocol"),
            (MOBILITY, &[0; 6], "header-chain"),
            (HIP, &[0; 6], "header-chain"),
        ] {
            rig.refused(gateway, &call().extension(number, body), reason)?;
            rig.refused(
                gateway,
                &call()
                    .extension(DESTINATION_OPTIONS, &PAD)
                    .extension(number, body),
                reason,
            )?;
        }
        let endless = (0..8).fold(call(), |frame, _| frame.extension(DESTINATION_OPTIONS, &PAD));
        rig.refused(gateway, &endless, "header-chain")?;
        for number in [NO_NEXT_HEADER, protocol::ESP, 253] {
            rig.refused(gateway, &sender.other(dst, number, &[0; 8]), "unknown-protocol")?;
        }
    }
    let dst = ip(REGISTERED[1]);
    let harmless = sender
        .syn(dst, 80)
        .extension(HOP_BY_HOP, &PAD)
        .extension(DESTINATION_OPTIONS, &PAD);
    rig.passed(gateway, &harmless, "rule")?;
    let client = &rig.client;
    let hidden = client
        .sender()
        .syn(dst, 80)
        .extension(HOP_BY_HOP, &PAD)
        .extension(DESTINATION_OPTIONS, &PAD);
    rig.refused(client, &hidden, "not-gateway").map(drop)
}

#[test]
fn vlan_tags_hide_nothing() -> Result<()> {
    let rig = Rig::start(&silent())?;
    for dst in [both(REGISTERED), both(UNREGISTERED), rig.peer.addresses()].concat() {
        let call = || rig.gateway.sender().syn(dst, 80);
        rig.refused(&rig.gateway, &call().tagged(0x8100, 5), "vlan-tag")?;
        rig.refused(&rig.gateway, &call().tagged(0x8100, 0), "vlan-tag")?;
        rig.refused(
            &rig.gateway,
            &call().tagged(0x88a8, 5).tagged(0x8100, 6),
            "vlan-tag",
        )?;
    }
    Ok(())
}

#[test]
fn frames_that_lie_about_themselves_are_refused() -> Result<()> {
    let rig = Rig::start(&silent())?;
    let gateway = &rig.gateway;
    for dst in both(REGISTERED) {
        let frame = gateway.sender().syn(dst, 80);
        let sound = frame.bytes();
        let l4 = if dst.is_ipv4() { 34 } else { 54 };
        let mut cases: Vec<(Vec<u8>, &str)> = vec![
            // Ends in the TCP header.
            (sound[..l4 + 12].to_vec(), "truncated"),
            // Ends before the data that the IP header announces.
            (sound[..sound.len() - 8].to_vec(), "truncated"),
        ];
        // A version that contradicts the ethertype; a TCP header that is too short for itself.
        for (place, octet) in [(14, 0x55), (l4 + 12, 0x40)] {
            let mut bytes = sound.clone();
            bytes[place] = octet;
            cases.push((bytes, "malformed"));
        }
        for (bytes, reason) in cases {
            let event = rig.judged_bytes(gateway, &bytes, frame.src(), dst)?;
            assert_eq!(
                (event.verdict.as_str(), event.reason.as_str()),
                ("deny", reason),
                "{dst}: {bytes:02x?}"
            );
            rig.did_not_arrive(frame.cookie())?;
        }
        if dst.is_ipv4() {
            // A length of nothing, which only the largest packets may have.
            let mut bytes = sound.clone();
            bytes[16..18].copy_from_slice(&[0, 0]);
            let event = rig.judged_bytes(gateway, &bytes, frame.src(), dst)?;
            assert_eq!(event.reason, "malformed");
        }
        // Neither IP nor ARP: MPLS, PPPoE, 802.3 lengths, an experimental one.
        for ether_type in [0x8847_u16, 0x8864, 100, 0x88b5] {
            let mut bytes = sound.clone();
            bytes[12..14].copy_from_slice(&ether_type.to_be_bytes());
            let event = rig.judged_bytes(gateway, &bytes, frame.src(), dst)?;
            assert_eq!(event.reason, "unknown-ethertype", "{ether_type:#x}");
        }
    }
    Ok(())
}
