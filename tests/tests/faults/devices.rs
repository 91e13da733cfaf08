//! Devices that change their names, and pods that come where others were.

use std::{
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rstest::rstest;
use sluice_tests::{
    Capture, Cookie, Rig,
    bench::{
        addresses::{REGISTERED, UNREGISTERED},
        ip,
    },
    command,
    manifest::Policy,
    netns::Netns,
    sys,
};

use crate::common::{both, still_holds, wait_until};

#[test]
fn a_device_that_is_renamed_is_the_same_device() -> Result<()> {
    let rig = Rig::start(&Policy::default())?;
    let device = rig.client.device();
    rig.bench.node().run(|| {
        command::ip(&format!(
            "link set {device} down\nlink set {device} name another\nlink set another up\n"
        ))
    })??;
    wait_until("the new name", || {
        let status = rig.agent.status()?;
        let devices = status["devices"].as_array().context("no devices")?;
        Ok(devices
            .iter()
            .any(|found| found["name"] == "another" && found["role"] == "pod"))
    })?;
    let frame = rig.client.sender().udp(ip(UNREGISTERED[0]), 53);
    rig.refused(&rig.client, &frame, "not-gateway")?;
    still_holds(&rig)
}

/// The gateway goes, and at once there is somebody else with its addresses, behind a device with its index or another
/// one. Nothing that he sends in its name gets out.
#[rstest]
fn who_comes_after_a_gateway_is_no_gateway(#[values(false, true)] same_index: bool) -> Result<()> {
    let rig = Rig::start(&Policy::default())?;
    let heir = rig.bench.sandbox("heir")?;
    let device = rig.gateway.device();
    let index = rig.bench.node().run(|| sys::device_index(device))??;
    let index = if same_index {
        format!("index {index}")
    } else {
        String::new()
    };
    let sender = rig.gateway.sender();
    let mac = |octets: [u8; 6]| octets.map(|octet| format!("{octet:02x}")).join(":");
    rig.bench.node().run(|| {
        command::ip(&format!(
            "link del {device}
link add {device} {index} address {} type veth peer name eth0 address {} netns {}
addr add 169.254.1.1/32 dev {device} scope link
link set {device} up
route add {}/32 dev {device}
",
            mac(sender.node_mac),
            mac(sender.mac),
            heir.name(),
            sender.v4
        ))
    })??;
    let cookies = speak(&rig, &heir)?;
    ensure!(cookies.len() > 100, "only {} packets were sent", cookies.len());
    rig.bench.flush(&rig.outside)?;
    let leaked = cookies
        .iter()
        .filter(|cookie| rig.outside.has_received(**cookie))
        .count();
    ensure!(leaked == 0, "{leaked} of {} packets got out", cookies.len());
    Ok(())
}

/// Sends for a second in the gateway's name, whereto the gateway might.
fn speak(rig: &Rig, heir: &Netns) -> Result<Vec<Cookie>> {
    let socket: OwnedFd = heir.run(|| -> Result<OwnedFd> {
        command::ip("link set eth0 up\n")?;
        Ok(sys::packet_socket("eth0", false)?)
    })??;
    let mut cookies = Vec::new();
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        for dst in both(REGISTERED) {
            let frame = rig.gateway.sender().syn(dst, 443);
            sys::send(&socket, &frame.bytes())?;
            cookies.push(frame.cookie());
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(cookies)
}

/// The way out moves to another device while the agent runs: from then on that one is an uplink, with the backstop on it.
#[test]
fn a_default_route_that_moves() -> Result<()> {
    let mut rig = Rig::start(&Policy::default())?;
    let outside = rig.bench.outside();
    rig.bench.node().run(|| {
        command::ip(&format!(
            "link add up1 type veth peer name eth1 netns {}
addr add 192.0.3.2/24 dev up1
link set up1 up
link add vx0 type vxlan id 7 dstport 4789 dev up1
link set vx0 up
",
            outside.name()
        ))
    })??;
    outside.run(|| command::ip("addr add 192.0.3.1/24 dev eth1\nlink set eth1 up\n"))??;
    let has_role = |rig: &Rig, name: &str, role: &str| -> Result<bool> {
        let status = rig.agent.status()?;
        let devices = status["devices"].as_array().context("no devices")?;
        Ok(devices
            .iter()
            .any(|found| found["name"] == name && found["role"] == role))
    };
    wait_until("a veth that is no way out", || has_role(&rig, "up1", "pod"))?;
    wait_until("a tunnel", || has_role(&rig, "vx0", "passage"))?;
    rig.bench
        .node()
        .run(|| command::ip("route replace default via 192.0.3.1 dev up1\n"))??;
    wait_until("the new way out", || has_role(&rig, "up1", "uplink"))?;

    let there = Capture::start(outside, "eth1")?;
    let allowed = |rig: &Rig| -> Result<()> {
        let frame = rig.gateway.sender().syn(ip(REGISTERED[0]), 443);
        rig.gateway.send(&frame)?;
        let arrived = there.wait_for_cookie(frame.cookie());
        arrived.map(drop).context("the gateway is cut off")
    };
    let refused = rig.client.sender().udp(ip(UNREGISTERED[0]), 53);
    rig.client.send(&refused)?;
    allowed(&rig)?;
    // Of this one nobody knows, and no program is on its device: the backstop alone is left.
    rig.agent.kill()?;
    let newcomer = rig.bench.pod("app", "newcomer")?;
    let unknown = newcomer.sender().udp(ip(UNREGISTERED[0]), 53);
    newcomer.send(&unknown)?;
    allowed(&rig)?;
    for frame in [&refused, &unknown] {
        ensure!(
            !there.has_received(frame.cookie()),
            "it got out by the new device"
        );
    }
    Ok(())
}
