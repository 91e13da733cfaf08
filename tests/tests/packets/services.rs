//! Services, as kube-proxy does them: an address translated on the node, behind `pod_out`.

use std::net::IpAddr;

use anyhow::{Context as _, Result};
use sluice_tests::{
    Cookie, Rig,
    bench::{addresses::REGISTERED, ip},
    command,
};

use crate::common::silent;

const SERVICE: [&str; 2] = ["10.96.0.80", "fd00:10:96::80"];

/// Sends what goes to the Service's addresses to these.
fn kube_proxy(rig: &Rig, endpoints: [&str; 2]) -> Result<()> {
    let [v4, v6] = endpoints;
    let rules = format!(
        "table inet services {{
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    ip daddr {} meta l4proto {{ tcp, udp }} th dport 80 dnat ip to {v4}:80
    ip6 daddr {} meta l4proto {{ tcp, udp }} th dport 80 dnat ip6 to [{v6}]:80
  }}
}}
",
        SERVICE[0], SERVICE[1]
    );
    rig.bench.node().run(|| command::nft(&rules))?
}

fn start() -> Result<Rig> {
    Rig::start_with(&silent(), |bench| bench.state().service("web", &SERVICE, 80))
}

#[test]
fn a_service_with_an_external_endpoint_is_stopped_by_the_backstop() -> Result<()> {
    let rig = start()?;
    kube_proxy(&rig, REGISTERED)?;
    for (service, endpoint) in SERVICE.into_iter().zip(REGISTERED) {
        for pod in [&rig.client, &rig.gateway] {
            for frame in [
                pod.sender().syn(ip(service), 80),
                pod.sender().udp(ip(service), 80),
            ] {
                rig.events.clear();
                pod.send(&frame)?;
                let by_pod_out = rig.verdict_on("pod_out", &frame)?;
                assert_eq!(
                    (by_pod_out.verdict.as_str(), by_pod_out.reason.as_str()),
                    ("allow", "internal")
                );
                let by_node_out = rig.events.wait_for("the translated packet", |event| {
                    event.hook == "node_out"
                        && event.dst == ip(endpoint)
                        && event.sport == frame.source_port()
                })?;
                assert_eq!(
                    (by_node_out.verdict.as_str(), by_node_out.reason.as_str()),
                    ("deny", "not-approved")
                );
                assert_eq!(by_node_out.device.as_deref(), Some(pod.device()));
                rig.did_not_arrive(frame.cookie())?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_service_with_a_pod_behind_it_works() -> Result<()> {
    let rig = start()?;
    let (v4, v6) = (rig.peer.v4().to_string(), rig.peer.v6().to_string());
    kube_proxy(&rig, [&v4, &v6])?;
    let inside = rig.peer.capture()?;
    for service in SERVICE {
        let frame = rig.client.sender().syn(ip(service), 80);
        rig.passed_to(&inside, &rig.client, &frame, "internal")
            .with_context(|| format!("to {service}"))?;
    }
    Ok(())
}

/// A router that puts IPv6 fragments together for its NAT takes them apart again; when it cannot use the old ones, the new
/// ones do not say by which device they came.
#[test]
fn fragments_that_the_node_makes_anew_are_not_the_nodes_own() -> Result<()> {
    let rig = start()?;
    kube_proxy(&rig, REGISTERED)?;
    let sender = rig.client.sender();
    let cookie = Cookie::unique();
    let mut udp = Vec::new();
    let data = cookie.times(32);
    udp.extend(4000_u16.to_be_bytes());
    udp.extend(80_u16.to_be_bytes());
    udp.extend(u16::try_from(8 + data.len())?.to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(&data);
    let (IpAddr::V6(src), IpAddr::V6(dst)) = (sender.v6, ip(SERVICE[1])) else {
        anyhow::bail!("not IPv6");
    };
    let mut sum: u32 = 17 + u32::try_from(udp.len())?;
    for pair in src
        .octets()
        .chunks(2)
        .chain(dst.octets().chunks(2))
        .chain(udp.chunks(2))
    {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let sum = !u16::try_from(sum)?;
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    // The first fragment has so long an option that the headers do not fit before the second.
    let mut options = vec![44, 31, 1, 252];
    options.resize(256, 0);
    let first = [&options[..], &[17, 0, 0, 1, 0, 0, 0, 7], &udp[..128]].concat();
    let second = [&[17, 0, 0, 128, 0, 0, 0, 7], &udp[128..]].concat();
    for (next, payload) in [(60, first), (44, second)] {
        let mut frame = [sender.node_mac, sender.mac].concat();
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        frame.extend(u16::try_from(payload.len())?.to_be_bytes());
        frame.extend([next, 64]);
        frame.extend(src.octets());
        frame.extend(dst.octets());
        frame.extend(payload);
        rig.client.send_bytes(&frame)?;
    }
    rig.did_not_arrive(cookie)
}
