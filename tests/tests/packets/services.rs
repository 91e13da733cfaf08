//! Services, as kube-proxy does them: an address translated on the node, behind `pod_out`.

use anyhow::{Context as _, Result};
use sluice_tests::{
    Rig,
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
