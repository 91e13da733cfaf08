//! The play: what is tried under which policy, and what has to come of it.

use std::{net::SocketAddr, sync::atomic::AtomicBool};

use anyhow::{Result, bail, ensure};
use sluice_tests::{
    Pod,
    bench::addresses::{REGISTERED, UNREGISTERED},
};

use crate::{
    judge::{Expect, Judge, Try},
    probe::{self, By, Http, Seen},
    stage::{DNS_SERVICE, ECHO_PORT, GATEWAY_SERVICE, OTHER_HOST, REGISTERED_HOST, Stage, WORLD_DNS, at, ip},
    table::Table,
};

/// Shows everything; the result says whether it was as expected.
pub(crate) fn play(stage: &mut Stage, interrupted: &AtomicBool) -> Result<bool> {
    let mut table = Table::default();
    stage.agent.restart()?;
    let mut play = Judge::call(stage, &mut table, interrupted)?;

    play.table
        .chapter("No EgressPolicy: everything passes, or these tests would prove nothing");
    play.directly(stage, &stage.client, Expect::Pass("not-enforced"))?;

    stage.set_policy(&[])?;
    play.table
        .chapter("EgressPolicy one-way-out: mode Enforce, gatewayDestinations Registry");
    play.directly(stage, &stage.client, Expect::Deny("not-gateway"))?;
    play.through_gateway(stage, REGISTERED_HOST, Expect::Pass("rule"))?;
    play.gateway_calls(stage, REGISTERED_HOST, Expect::Pass("rule"))?;
    play.through_gateway(stage, OTHER_HOST, Expect::Deny("not-registered"))?;
    play.gateway_calls(stage, OTHER_HOST, Expect::Deny("not-registered"))?;
    play.pod_to_pod(stage, Expect::Pass("internal"))?;

    stage.set_policy(&[("gatewayDestinations: Registry", "gatewayDestinations: Any")])?;
    play.table.chapter("gatewayDestinations Any");
    play.through_gateway(stage, OTHER_HOST, Expect::Pass("rule"))?;
    play.gateway_calls(stage, OTHER_HOST, Expect::Pass("rule"))?;
    play.tcp(stage, &stage.client, REGISTERED[0], Expect::Deny("not-gateway"))?;

    stage.set_policy(&[("mode: Enforce", "mode: Audit")])?;
    play.table.chapter("mode Audit: reported, and passed");
    play.directly(stage, &stage.client, Expect::Report("not-gateway"))?;

    stage.set_policy(&[])?;
    stage.agent.kill()?;
    play.table
        .chapter("mode Enforce again, and the agent killed (SIGKILL)");
    play.directly(stage, &stage.client, Expect::DenyInTheDark)?;
    play.through_gateway(stage, REGISTERED_HOST, Expect::PassInTheDark)?;
    play.pod_to_pod(stage, Expect::PassInTheDark)?;
    let late = stage.new_pod()?;
    play.table.chapter("A new pod, started while the agent is down");
    play.directly(stage, &late, Expect::DenyInTheDark)?;

    stage.declare_new_pod(&late)?;
    stage.agent.restart()?;
    play.watch(stage)?;
    play.table.chapter("The agent is back");
    play.tcp(stage, &late, REGISTERED[0], Expect::Deny("not-gateway"))?;
    play.http(stage, &late, 0, REGISTERED_HOST, Expect::Pass("rule"))?;

    table.conclude();
    Ok(table.wrong() == 0)
}

impl Judge<'_> {
    /// Out of the cluster past the gateway, in every way.
    fn directly(&mut self, stage: &Stage, pod: &Pod, expect: Expect) -> Result<()> {
        let [v4, v6] = REGISTERED;
        self.tcp(stage, pod, v4, expect)?;
        self.tcp(stage, pod, v6, expect)?;
        let server = ip(WORLD_DNS[0]);
        self.show(
            stage,
            expect,
            &Try {
                pod,
                sender: pod,
                what: format!("UDP: DNS query to {server}"),
                to: server,
                port: 53,
                protocol: "UDP",
                run: Box::new(move || probe::query(pod, server, REGISTERED_HOST)),
            },
        )?;
        for to in [ip(v4), ip(v6)] {
            self.show(
                stage,
                expect,
                &Try {
                    pod,
                    sender: pod,
                    what: format!("ping {to}"),
                    to,
                    port: 0,
                    protocol: "ICMP",
                    run: Box::new(move || probe::ping(pod, to)),
                },
            )?;
        }
        for (by, name, to) in [
            (By::RawSocket, "raw socket", v4),
            (By::PacketSocket, "packet socket", v4),
            (By::PacketSocket, "packet socket", v6),
        ] {
            let to = ip(to);
            self.show(
                stage,
                expect,
                &Try {
                    pod,
                    sender: pod,
                    what: format!("{name}: UDP to {to} port 443"),
                    to,
                    port: 443,
                    protocol: "UDP",
                    run: Box::new(move || {
                        let frame = pod.sender().udp(to, 443);
                        probe::frame(pod, &frame, by, || {
                            probe::has_arrived(&stage.bench, &stage.outside, &frame)
                        })
                    }),
                },
            )?;
        }
        Ok(())
    }

    /// An HTTP request to an address outside.
    fn tcp(&mut self, stage: &Stage, pod: &Pod, address: &str, expect: Expect) -> Result<()> {
        let to = at(address, 80);
        self.show(
            stage,
            expect,
            &Try {
                pod,
                sender: pod,
                what: format!("TCP: http://{to}"),
                to: to.ip(),
                port: to.port(),
                protocol: "TCP",
                run: Box::new(move || match probe::http(pod, to, REGISTERED_HOST)? {
                    Http::Served(served) => {
                        ensure!(
                            served.from == pod.addresses()[usize::from(to.is_ipv6())],
                            "somebody else called: {served}"
                        );
                        Ok(Seen::Answer(served.to_string()))
                    }
                    Http::Status(status) => bail!("{to} answers with {status}"),
                    Http::Failed(seen) => Ok(seen),
                }),
            },
        )
    }

    /// The way that is meant, by both families.
    fn through_gateway(&mut self, stage: &Stage, host: &'static str, expect: Expect) -> Result<()> {
        self.http(stage, &stage.client, 0, host, expect)?;
        self.http(stage, &stage.client, 1, host, expect)
    }

    /// An HTTP request by name, to where the cluster's resolver leads.
    fn http(
        &mut self,
        stage: &Stage,
        pod: &Pod,
        family: usize,
        host: &'static str,
        expect: Expect,
    ) -> Result<()> {
        let outside = ip(upstream(host)[family]);
        let gateway = stage.gateway.addresses()[family];
        self.show(
            stage,
            expect,
            &Try {
                pod,
                sender: &stage.gateway,
                what: format!("http://{host} through the gateway, IPv{}", [4, 6][family]),
                to: outside,
                port: 443,
                protocol: "TCP",
                run: Box::new(move || {
                    let service = if host == REGISTERED_HOST {
                        let answer = probe::resolve(pod, ip(DNS_SERVICE[family]), host)?;
                        ensure!(
                            answer == [ip(GATEWAY_SERVICE[family])],
                            "the resolver leads {host} to {answer:?}"
                        );
                        answer[0]
                    } else {
                        ip(GATEWAY_SERVICE[family])
                    };
                    match probe::http(pod, SocketAddr::new(service, 80), host)? {
                        Http::Served(served) => {
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
                }),
            },
        )
    }

    /// What the gateway's own processes may call.
    fn gateway_calls(&mut self, stage: &Stage, host: &'static str, expect: Expect) -> Result<()> {
        let pod = &stage.gateway;
        for address in upstream(host) {
            let to = at(address, 443);
            self.show(
                stage,
                expect,
                &Try {
                    pod,
                    sender: pod,
                    what: format!("TCP: {to} ({host})"),
                    to: to.ip(),
                    port: 443,
                    protocol: "TCP",
                    run: Box::new(move || probe::call(pod, to)),
                },
            )?;
        }
        Ok(())
    }

    fn pod_to_pod(&mut self, stage: &Stage, expect: Expect) -> Result<()> {
        let pod = &stage.client;
        for to in stage.neighbour.addresses() {
            self.show(
                stage,
                expect,
                &Try {
                    pod,
                    sender: pod,
                    what: format!("TCP: client-b, {}", SocketAddr::new(to, ECHO_PORT)),
                    to,
                    port: ECHO_PORT,
                    protocol: "TCP",
                    run: Box::new(move || probe::call(pod, SocketAddr::new(to, ECHO_PORT))),
                },
            )?;
        }
        Ok(())
    }
}

const fn upstream(host: &str) -> [&'static str; 2] {
    if host.len() == REGISTERED_HOST.len() {
        REGISTERED
    } else {
        UNREGISTERED
    }
}
