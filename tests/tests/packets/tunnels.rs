//! Tunnels that a pod makes: a packet in a packet is judged by the outer one, and only if that says what it is.

use anyhow::Result;
use sluice_tests::{
    Rig,
    bench::{
        addresses::{NODE_V4, REGISTERED, UNREGISTERED},
        ip,
    },
    command,
    frame::{Sender, protocol},
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
fn a_tunnel_in_udp_is_udp_unless_nodes_unwrap_it() -> Result<()> {
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
            if port == VXLAN_PORT {
                rig.refused(&rig.client, &frame, "tunnel")?;
            } else {
                rig.passed_to(&inside, &rig.client, &frame, "internal")?;
            }
        }
    }
    Ok(())
}

/// The port of flannel's and Cilium's VXLAN.
const FLANNEL_PORT: u16 = 8472;
/// VXLAN network 1, as flannel has it.
const FLANNEL: [u8; 8] = [8, 0, 0, 0, 0, 0, 1, 0];
const FLANNEL_MAC: [u8; 6] = [2, 0, 0, 0, 8, 1];

/// The node itself takes packets out of VXLAN, whoever put them in; what comes out has no sender that could be checked.
#[test]
fn a_tunnel_that_ends_on_the_node_is_no_way_out() -> Result<()> {
    let rig = Rig::start_with(&silent(), |bench| {
        bench.node().run(|| {
            command::ip(&format!(
                "link add flannel.1 address 02:00:00:00:08:01 type vxlan id 1 local {NODE_V4} dstport {FLANNEL_PORT} nolearning
addr add 10.244.1.0/32 dev flannel.1
link set flannel.1 up
route add 10.244.1.0/24 dev flannel.1
"
            ))
        })?
    })?;
    let dst = both(UNREGISTERED)[0];
    let forged = Sender {
        mac: [2, 0, 0, 0, 8, 2],
        node_mac: FLANNEL_MAC,
        v4: ip("10.244.1.5"),
        v6: ip("fd00::5"),
    };
    let out = forged.udp(dst, 53);
    let call = forged.udp(forged.v4, out.source_port()).from(dst).sport(53);
    for inner in [&call, &out] {
        let outer = rig.client.sender().udp(ip(NODE_V4), FLANNEL_PORT);
        rig.client
            .send(&outer.carrying(&[&FLANNEL[..], &inner.bytes()].concat()))?;
    }
    rig.did_not_arrive(out.cookie())
}
