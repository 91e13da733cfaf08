//! The transports that are known, to every kind of destination.

use anyhow::Result;
use sluice_tests::{
    Frame, Pod, Rig,
    bench::addresses::{METADATA, REGISTERED, UNREGISTERED},
};

use crate::common::{both, silent};

fn every_transport(pod: &Pod, dst: std::net::IpAddr, port: u16) -> [Frame; 4] {
    let sender = pod.sender();
    [
        sender.syn(dst, port),
        sender.udp(dst, port),
        sender.sctp(dst, port),
        sender.echo(dst),
    ]
}

#[test]
fn a_subject_reaches_nothing_external() -> Result<()> {
    let rig = Rig::start(&silent())?;
    for dst in [both(REGISTERED), both(UNREGISTERED), both(METADATA)].concat() {
        for frame in every_transport(&rig.client, dst, 80) {
            let event = rig.refused(&rig.client, &frame, "not-gateway")?;
            let pod = event.pod.expect("the agent knows who it was");
            assert_eq!((pod.namespace.as_str(), pod.name.as_str()), ("app", "client"));
            assert_eq!(event.device.as_deref(), Some(rig.client.device()));
        }
    }
    Ok(())
}

#[test]
fn pods_reach_each_other_and_the_node() -> Result<()> {
    let rig = Rig::start(&silent())?;
    let inside = rig.peer.capture()?;
    for dst in rig.peer.addresses() {
        for frame in every_transport(&rig.client, dst, 80) {
            rig.passed_to(&inside, &rig.client, &frame, "internal")?;
        }
    }
    Ok(())
}

#[test]
fn a_gateway_reaches_what_is_registered_and_only_that() -> Result<()> {
    let rig = Rig::start(&silent())?;
    let sender = rig.gateway.sender();
    for dst in both(REGISTERED) {
        for port in [80, 443] {
            rig.passed(&rig.gateway, &sender.syn(dst, port), "rule")?;
        }
        rig.refused(&rig.gateway, &sender.syn(dst, 8443), "port")?;
        rig.refused(&rig.gateway, &sender.udp(dst, 80), "port")?;
        rig.refused(&rig.gateway, &sender.sctp(dst, 80), "port")?;
        rig.refused(&rig.gateway, &sender.echo(dst), "port")?;
    }
    for dst in [both(UNREGISTERED), both(METADATA)].concat() {
        for frame in every_transport(&rig.gateway, dst, 443) {
            rig.refused(&rig.gateway, &frame, "not-registered")?;
        }
    }
    Ok(())
}

#[test]
fn a_gateway_of_any_destination_reaches_all() -> Result<()> {
    let mut policy = silent();
    policy.destinations = "Any";
    let rig = Rig::start(&policy)?;
    for dst in [both(REGISTERED), both(UNREGISTERED)].concat() {
        for frame in every_transport(&rig.gateway, dst, 4711) {
            rig.passed(&rig.gateway, &frame, "rule")?;
        }
        rig.refused(&rig.client, &rig.client.sender().udp(dst, 4711), "not-gateway")?;
    }
    Ok(())
}

#[test]
fn an_exception_opens_one_port_of_one_range() -> Result<()> {
    let mut policy = silent();
    policy.exceptions = vec![
        ("198.51.100.0/24".into(), "UDP", 123),
        ("2001:db8:ffff::20/128".into(), "UDP", 123),
    ];
    let rig = Rig::start(&policy)?;
    let sender = rig.client.sender();
    for dst in both(UNREGISTERED) {
        rig.passed(&rig.client, &sender.udp(dst, 123), "rule")?;
        rig.refused(&rig.client, &sender.udp(dst, 124), "port")?;
        rig.refused(&rig.client, &sender.syn(dst, 123), "port")?;
    }
    Ok(())
}

#[test]
fn metadata_is_internal_if_an_exception_says_so() -> Result<()> {
    let mut policy = silent();
    policy.exceptions = vec![
        ("169.254.169.254/32".into(), "TCP", 80),
        ("fd00:ec2::254/128".into(), "TCP", 80),
    ];
    let rig = Rig::start(&policy)?;
    for dst in both(METADATA) {
        rig.passed(&rig.client, &rig.client.sender().syn(dst, 80), "rule")?;
    }
    Ok(())
}

#[test]
fn without_a_policy_nothing_is_held_back() -> Result<()> {
    let mut rig = Rig::start(&silent())?;
    rig.bench.state().remove("policy")?;
    let status = rig.agent.settle()?;
    assert_eq!(status["state"], "idle");
    for dst in both(UNREGISTERED) {
        for frame in every_transport(&rig.client, dst, 80) {
            rig.client.send(&frame)?;
            assert!(
                rig.outside.wait_for_cookie(frame.cookie()).is_some(),
                "{frame:?} did not arrive"
            );
        }
    }
    Ok(())
}
