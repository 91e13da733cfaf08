//! Tunnels that a pod makes: a packet in a packet is judged by the outer one, and only if that says what it is.

use anyhow::Result;
use sluice_tests::{
    Rig,
    bench::addresses::{REGISTERED, UNREGISTERED},
    frame::protocol,
};

use crate::common::{both, silent};

/// GRE with IPv4 in it (RFC 2784).
const GRE_IPV4: [u8; 4] = [0, 0, 8, 0];
const VXLAN_PORT: u16 = 4789;
/// VXLAN network 42 (RFC 7348).
const VXLAN: [u8; 8] = [8, 0, 0, 0, 0, 0, 42, 0];
const WIREGUARD_PORT: u16 = 51820;
/// A WireGuard handshake initiation begins so.
const WIREGUARD: [u8; 8] = [1, 0, 0, 0, 7, 7, 7, 7];

#[test]
fn a_tunnel_of_its_own_protocol_goes_nowhere() -> Result<()> {
    let rig = Rig::start(&silent())?;
    let inside = rig.peer.capture()?;
    for pod in [&rig.client, &rig.gateway] {
        let sender = pod.sender();
        for dst in [both(REGISTERED), both(UNREGISTERED), rig.peer.addresses()].concat() {
            let inner_v4 = sender.udp(both(UNREGISTERED)[0], 53).packet();
            let inner_v6 = sender.udp(both(UNREGISTERED)[1], 53).packet();
            for frame in [
                sender.other(dst, protocol::IPIP, &inner_v4),
                sender.other(dst, protocol::IPV6, &inner_v6),
                sender.other(dst, protocol::GRE, &[&GRE_IPV4[..], &inner_v4].concat()),
                sender.other(dst, protocol::ESP, &[0, 0, 0, 1, 0, 0, 0, 1]),
            ] {
                rig.refused(pod, &frame, "unknown-protocol")?;
                assert!(
                    !inside.has_received(frame.cookie()),
                    "a tunnel from {} to a pod",
                    pod.name()
                );
            }
        }
    }
    Ok(())
}

#[test]
fn a_tunnel_in_udp_is_udp() -> Result<()> {
    let rig = Rig::start(&silent())?;
    let inside = rig.peer.capture()?;
    let sender = rig.client.sender();
    let inner = sender.udp(both(REGISTERED)[0], 53).bytes();
    for (port, head) in [
        (VXLAN_PORT, [&VXLAN[..], &inner].concat()),
        (WIREGUARD_PORT, WIREGUARD.to_vec()),
    ] {
        for dst in [both(REGISTERED), both(UNREGISTERED)].concat() {
            rig.refused(&rig.client, &sender.udp(dst, port).carrying(&head), "not-gateway")?;
        }
        for dst in rig.peer.addresses() {
            let frame = sender.udp(dst, port).carrying(&head);
            rig.passed_to(&inside, &rig.client, &frame, "internal")?;
        }
    }
    Ok(())
}
