//! The play: what is tried under which policy, and what has to come of it.

use std::{net::SocketAddr, sync::atomic::AtomicBool, time::Duration};

use anyhow::{Result, bail, ensure};
use sluice_tests::{
    Pod,
    bench::addresses::{REGISTERED, UNREGISTERED},
};

use crate::{
    judge::{Expect, Flow, Judge, Try},
    probe::{self, By, Http, Seen},
    stage::{DNS_SERVICE, ECHO_PORT, GATEWAY_SERVICE, OTHER_HOST, REGISTERED_HOST, Stage, WORLD_DNS, at, ip},
    table::Table,
};

/// Shows enforcement. Returns the table so far, and the pod that joined meanwhile.
pub(crate) fn play(stage: &mut Stage, interrupted: &AtomicBool) -> Result<(Table, Pod)> {
    stage.agent.restart()?;
    let mut judge = Judge::call(stage, interrupted)?;

    Judge::chapter("No EgressPolicy: everything passes, or the rest would prove nothing");
    judge.show(stage, Expect::Pass("not-subject"), directly(stage, &stage.client))?;

    stage.set_policy(&[])?;
    Judge::chapter("EgressPolicy one-way-out: mode Enforce, gatewayDestinations Registry");
    judge.show(stage, Expect::Deny("not-gateway"), directly(stage, &stage.client))?;
    judge.show(
        stage,
        Expect::Pass("rule"),
        through_gateway(stage, &stage.client, REGISTERED_HOST),
    )?;
    judge.show(stage, Expect::Pass("rule"), from_gateway(stage, REGISTERED_HOST))?;
    judge.show(
        stage,
        Expect::Deny("not-registered"),
        through_gateway(stage, &stage.client, OTHER_HOST),
    )?;
    judge.show(
        stage,
        Expect::Deny("not-registered"),
        from_gateway(stage, OTHER_HOST),
    )?;
    judge.show(stage, Expect::Pass("internal"), pod_to_pod(stage, &stage.client))?;

    stage.set_policy(&[("gatewayDestinations: Registry", "gatewayDestinations: Any")])?;
    Judge::chapter("gatewayDestinations Any");
    judge.show(
        stage,
        Expect::Pass("rule"),
        through_gateway(stage, &stage.client, OTHER_HOST),
    )?;
    judge.show(stage, Expect::Pass("rule"), from_gateway(stage, OTHER_HOST))?;
    judge.show(
        stage,
        Expect::Deny("not-gateway"),
        vec![tcp(&stage.client, REGISTERED[0])],
    )?;

    stage.set_policy(&[("mode: Enforce", "mode: Audit")])?;
    Judge::chapter("mode Audit: reported, and passed");
    judge.show(
        stage,
        Expect::Report("not-gateway"),
        directly(stage, &stage.client),
    )?;

    stage.set_policy(&[])?;
    stage.agent.kill()?;
    println!(
        "\n(the agent is killed; the verdicts of this time are read from the kernel when one runs again)"
    );
    judge.note(
        stage,
        "mode Enforce again, and the agent killed (SIGKILL)",
        vec![
            (Expect::Deny("not-gateway"), directly(stage, &stage.client)),
            (
                Expect::Pass("rule"),
                through_gateway(stage, &stage.client, REGISTERED_HOST),
            ),
            (Expect::Pass("internal"), pod_to_pod(stage, &stage.client)),
        ],
    )?;
    let late = stage.new_pod()?;
    judge.note(
        stage,
        "A new pod, started while no agent runs",
        vec![
            (Expect::Pass("internal"), pod_to_pod(stage, &late)),
            (Expect::Deny("not-approved"), directly(stage, &late)),
        ],
    )?;
    stage.declare_new_pod(&late)?;
    stage.agent.restart()?;
    judge.catch_up(stage)?;
    Judge::chapter("An agent runs again");
    judge.show(stage, Expect::Deny("not-gateway"), directly(stage, &late))?;
    judge.show(
        stage,
        Expect::Pass("rule"),
        through_gateway(stage, &late, REGISTERED_HOST),
    )?;
    Ok((judge.leave(), late))
}

/// Out of the cluster past the gateway, in every way.
fn directly<'a>(stage: &'a Stage, pod: &'a Pod) -> Vec<Try<'a>> {
    let [v4, v6] = REGISTERED;
    let query = |server| Try {
        flow: flow(pod, pod, format!("DNS query to {server}"), at(server, 53), "UDP"),
        run: Box::new(move |patience| probe::query(pod, ip(server), REGISTERED_HOST, patience)),
    };
    let ping = |to| Try {
        flow: flow(pod, pod, format!("ping {to}"), at(to, 0), "ICMP"),
        run: Box::new(move |patience| probe::ping(pod, ip(to), patience)),
    };
    let frame = |by, name, to| Try {
        flow: flow(pod, pod, format!("{name}, UDP to {to}"), at(to, 443), "UDP"),
        run: Box::new(move |_| {
            let frame = pod.sender().udp(ip(to), 443);
            probe::frame(pod, &frame, by, || {
                probe::has_arrived(&stage.bench, &stage.outside, &frame)
            })
        }),
    };
    let mut tries = vec![tcp(pod, v4), tcp(pod, v6)];
    tries.extend(WORLD_DNS.map(query));
    tries.extend([v4, v6].map(ping));
    tries.push(frame(By::RawSocket, "raw socket", v4));
    tries.push(frame(By::PacketSocket, "packet socket", v4));
    tries.push(frame(By::PacketSocket, "packet socket", v6));
    tries
}

/// An HTTP request to an address outside.
fn tcp<'a>(pod: &'a Pod, address: &str) -> Try<'a> {
    let to = at(address, 80);
    Try {
        flow: flow(pod, pod, format!("http://{to}"), to, "TCP"),
        run: Box::new(
            move |patience| match probe::http(pod, to, REGISTERED_HOST, patience)? {
                Http::Served(served) => {
                    let own = pod.addresses()[usize::from(to.is_ipv6())];
                    ensure!(served.from == own, "somebody else called: {served}");
                    Ok(Seen::Answer(served.to_string()))
                }
                Http::Status(status) => bail!("{to} answers with {status}"),
                Http::Failed(seen) => Ok(seen),
            },
        ),
    }
}

/// The way that is meant, by both families: an HTTP request by name, to where the cluster's resolver leads.
fn through_gateway<'a>(stage: &'a Stage, pod: &'a Pod, host: &'static str) -> Vec<Try<'a>> {
    let by = |family: usize| {
        let outside = at(upstream(host)[family], 443);
        let what = format!("http://{host} through the gateway, IPv{}", [4, 6][family]);
        Try {
            flow: flow(pod, &stage.gateway, what, outside, "TCP"),
            run: Box::new(move |patience| request(stage, pod, host, family, patience)),
        }
    };
    vec![by(0), by(1)]
}

fn request(stage: &Stage, pod: &Pod, host: &str, family: usize, patience: Duration) -> Result<Seen> {
    let service = ip(GATEWAY_SERVICE[family]);
    if host == REGISTERED_HOST {
        let answer = probe::resolve(pod, ip(DNS_SERVICE[family]), host, patience)?;
        ensure!(answer == [service], "the resolver leads {host} to {answer:?}");
    }
    match probe::http(pod, SocketAddr::new(service, 80), host, patience)? {
        Http::Served(served) => {
            let gateway = stage.gateway.addresses()[family];
            let right = served.tls.is_some() && served.from == gateway && served.host == host;
            ensure!(
                right,
                "the server did not see TLS from {gateway} for {host}: {served}"
            );
            Ok(Seen::Answer(served.to_string()))
        }
        Http::Status(status) => Ok(Seen::Refused(format!("{status} from the gateway"))),
        Http::Failed(seen) => Ok(seen),
    }
}

/// What the gateway's own processes may call.
fn from_gateway<'a>(stage: &'a Stage, host: &str) -> Vec<Try<'a>> {
    let pod = &stage.gateway;
    let call = |address| {
        let to = at(address, 443);
        Try {
            flow: flow(pod, pod, format!("TCP to {to}"), to, "TCP"),
            run: Box::new(move |patience| probe::call(pod, to, patience)),
        }
    };
    upstream(host).map(call).into()
}

fn pod_to_pod<'a>(stage: &'a Stage, pod: &'a Pod) -> Vec<Try<'a>> {
    let call = |address| {
        let to = SocketAddr::new(address, ECHO_PORT);
        Try {
            flow: flow(pod, pod, format!("TCP to client-b, {to}"), to, "TCP"),
            run: Box::new(move |patience| probe::call(pod, to, patience)),
        }
    };
    stage.neighbour.addresses().map(call).into()
}

fn flow(pod: &Pod, sender: &Pod, what: String, to: SocketAddr, protocol: &'static str) -> Flow {
    Flow {
        pod: pod.into(),
        sender: sender.into(),
        what,
        to: to.ip(),
        port: to.port(),
        protocol,
    }
}

fn upstream(host: &str) -> [&'static str; 2] {
    if host == REGISTERED_HOST {
        REGISTERED
    } else {
        UNREGISTERED
    }
}
