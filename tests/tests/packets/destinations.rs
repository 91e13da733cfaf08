//! Destinations that are no host.

use anyhow::Result;
use sluice_tests::{Rig, bench::ip};

use crate::common::silent;

#[test]
fn destinations_that_are_no_host_are_refused_even_to_a_gateway() -> Result<()> {
    let mut policy = silent();
    policy.destinations = "Any";
    let rig = Rig::start(&policy)?;
    for (dst, reason) in [
        ("224.0.0.1", "multicast"),
        ("224.0.0.251", "multicast"),
        ("239.255.255.250", "multicast"),
        ("255.255.255.255", "multicast"),
        ("ff02::fb", "multicast"),
        ("ff05::2", "multicast"),
        ("ff0e::1", "multicast"),
        ("127.0.0.1", "martian"),
        ("127.8.8.8", "martian"),
        ("0.0.0.0", "martian"),
        ("240.0.0.1", "martian"),
        ("::1", "martian"),
        ("::", "martian"),
        // IPv4-mapped, on the wire.
        ("::ffff:203.0.113.10", "martian"),
    ] {
        for pod in [&rig.client, &rig.gateway] {
            // The address of an IPv4-mapped destination is IPv4 to the frame builder only if it is written so.
            let frame = pod.sender().udp(ip(dst), 5353);
            let event = rig.judged_bytes(
                pod,
                &frame.bytes(),
                event_address(frame.src()),
                event_address(ip(dst)),
            )?;
            assert_eq!(
                (event.verdict.as_str(), event.reason.as_str()),
                ("deny", reason),
                "{dst}"
            );
            rig.did_not_arrive(frame.cookie())?;
        }
    }
    // The broadcast address of the link is a host's address like any other where every pod has a /32.
    Ok(())
}

/// The agent shows a mapped address as the IPv4 address that it maps.
fn event_address(address: std::net::IpAddr) -> std::net::IpAddr {
    address.to_canonical()
}

#[test]
fn link_local_addresses_end_at_the_node() -> Result<()> {
    let rig = Rig::start(&silent())?;
    let sender = rig.client.sender();
    // The node's own, on this link: internal.
    for dst in ["169.254.1.1", "fe80::1"] {
        assert_eq!(
            rig.judged("pod_out", &rig.client, &sender.udp(ip(dst), 53))?
                .reason,
            "internal",
            "{dst}"
        );
    }
    // Nobody's: external like any other.
    for dst in ["169.254.7.7", "fe80::7"] {
        rig.refused(&rig.client, &sender.udp(ip(dst), 53), "not-gateway")?;
    }
    // A link-local source gets no further than the link.
    let frame = sender.udp(rig.peer.v6(), 53).from(ip("fe80::ff:fe00:a01"));
    rig.refused(&rig.client, &frame, "forged-source").map(drop)
}
