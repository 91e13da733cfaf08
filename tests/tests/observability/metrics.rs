//! Every metric that is documented is there, no other is, and what it says is so.

use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpListener},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use sluice::metrics::{ALL, Kind};
use sluice_tests::{
    Bench, PATIENCE, Pod,
    bench::{
        OUTSIDER,
        addresses::{NODE_V4, REGISTERED, UNREGISTERED},
        ip,
    },
    http,
    manifest::Policy,
};

use crate::scrape::{self, Sample, Scrape};

/// The samples of a metric, by its kind.
fn samples(kind: Kind, name: &str) -> Vec<String> {
    match kind {
        Kind::Counter => vec![format!("{name}_total")],
        Kind::Gauge => vec![name.to_owned()],
        Kind::Histogram => ["bucket", "count", "sum"]
            .map(|part| format!("{name}_{part}"))
            .to_vec(),
    }
}

fn declare(bench: &Bench) -> Result<[Pod; 2]> {
    let client = bench.pod("app", "client")?;
    let gateway = bench.pod("egress", "gateway")?;
    for pod in [&client, &gateway] {
        bench.state().declare(pod)?;
    }
    bench
        .state()
        .register("registered", &REGISTERED, &[(443, "TLS")])?;
    bench.state().policy(&Policy::default())?;
    Ok([client, gateway])
}

#[test]
fn what_is_documented_is_exported_and_nothing_else() -> Result<()> {
    let bench = Bench::create()?;
    let _pods = declare(&bench)?;
    let (_agent, address) = scrape::agent(&bench)?;
    let scrape = Scrape::make(&bench, address)?;
    let mut documented = BTreeSet::new();
    for metric in ALL {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let announced = scrape.kinds.get(metric.name).map(String::as_str);
        ensure!(
            announced == Some(kind),
            "{} is announced as {announced:?}",
            metric.name
        );
        let help = scrape.helps.get(metric.name).map_or("", String::as_str);
        ensure!(
            help.starts_with(metric.help),
            "{} is explained by {help:?}",
            metric.name
        );
        for name in samples(metric.kind, metric.name) {
            let found: Vec<&Sample> = scrape.named(&name).collect();
            ensure!(!found.is_empty(), "{name} is documented and not exported");
            let wanted: BTreeSet<&str> = metric.labels.iter().copied().collect();
            for sample in found {
                let labels: BTreeSet<&str> = sample.labels.keys().map(String::as_str).collect();
                let wanted = if name.ends_with("_bucket") {
                    ["le"].into()
                } else {
                    wanted.clone()
                };
                ensure!(
                    labels == wanted,
                    "{name} is documented with {wanted:?} and has {labels:?}"
                );
            }
            documented.insert(name);
        }
    }
    for sample in &scrape.samples {
        ensure!(
            documented.contains(&sample.name),
            "{} is not documented",
            sample.name
        );
    }
    Ok(())
}

#[test]
#[expect(clippy::float_cmp, reason = "they are counts, and whole")]
fn numbers_are_those_of_what_happened() -> Result<()> {
    const PACKETS: u16 = 5;
    let bench = Bench::create()?;
    let [client, gateway] = declare(&bench)?;
    let (mut agent, address) = scrape::agent(&bench)?;
    let before = Scrape::make(&bench, address)?;
    ensure!(before.value("sluice_ready", &[])? == 1.0);
    ensure!(before.value("sluice_state", &[("state", "enforcing")])? == 1.0);
    ensure!(before.value("sluice_endpoints", &[("state", "enforced")])? == 2.0);
    ensure!(before.value("sluice_policies", &[])? == 1.0);
    ensure!(before.value("sluice_policy_implementation_delay_seconds_count", &[])? == 1.0);
    ensure!(before.value("sluice_pod_enforcement_delay_seconds_count", &[])? == 0.0);
    let age = before.value("sluice_state_age_seconds", &[])?;
    ensure!((0.0..30.0).contains(&age), "the state is {age} s old");

    for _ in 0..PACKETS {
        client.send(&client.sender().udp(ip(UNREGISTERED[0]), 53))?;
        gateway.send(&gateway.sender().syn(ip(REGISTERED[0]), 443))?;
    }
    // What comes in from outside is remembered in a map that only the kernel counts.
    let inward = OUTSIDER.syn(client.v4(), 8080);
    bench.send_from_outside(&inward)?;
    let newcomer = bench.pod("app", "newcomer")?;
    bench.state().declare(&newcomer)?;
    agent.settle()?;

    let after = settled(&bench, address, |scrape| {
        Ok(scrape.value("sluice_endpoints", &[("state", "enforced")])? == 3.0)
    })?;
    let grown = |name: &str, labels: &[(&str, &str)]| -> Result<f64> {
        Ok(after.value(name, labels)? - before.value(name, labels)?)
    };
    let egress = ("direction", "egress");
    let refused = grown("sluice_drop_count_total", &[("reason", "not-gateway"), egress])?;
    ensure!(refused == f64::from(PACKETS), "{refused} drops are counted");
    // At the pod's device and at the uplink.
    let passed = grown("sluice_forward_count_total", &[("reason", "rule"), egress])?;
    ensure!(
        passed == f64::from(PACKETS),
        "{passed} packets of the gateway are counted"
    );
    ensure!(grown("sluice_generation", &[])? >= 1.0);
    ensure!(grown("sluice_policy_implementation_delay_seconds_count", &[])? >= 1.0);
    ensure!(grown("sluice_pod_enforcement_delay_seconds_count", &[])? == 1.0);
    ensure!(grown("sluice_bpf_map_pressure", &[("map_name", "ENDPOINTS")])? > 0.0);
    ensure!(grown("sluice_bpf_map_pressure", &[("map_name", "HALF_OPEN")])? > 0.0);
    Ok(())
}

/// Scrapes until it is so; an answer is kept for a second.
fn settled(bench: &Bench, address: SocketAddr, is_so: impl Fn(&Scrape) -> Result<bool>) -> Result<Scrape> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let scrape = Scrape::make(bench, address)?;
        if is_so(&scrape)? {
            return Ok(scrape);
        }
        ensure!(Instant::now() < deadline, "the metrics do not follow");
        thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn an_address_that_is_taken_is_said() -> Result<()> {
    let bench = Bench::create()?;
    let _pods = declare(&bench)?;
    let _taken = bench
        .node()
        .run(|| TcpListener::bind((NODE_V4, scrape::PORT)))??;
    let Err(error) = scrape::agent(&bench) else {
        bail!("the agent runs without its metrics");
    };
    let said = format!("{error:#}");
    let expected = format!("cannot serve metrics at {NODE_V4}:{}", scrape::PORT);
    ensure!(said.contains(&expected), "{said}");
    Ok(())
}

#[test]
fn nothing_but_metrics_is_there() -> Result<()> {
    let bench = Bench::create()?;
    let _pods = declare(&bench)?;
    let (_agent, address) = scrape::agent(&bench)?;
    let elsewhere = bench.node().run(|| http::get(address, "node", "/"))??;
    ensure!(elsewhere.status == 404, "{elsewhere:?}");
    let posted = "POST /metrics HTTP/1.1\r\nHost: node\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let posted = bench.node().run(|| http::request(address, posted))??;
    ensure!(posted.status == 405, "{posted:?}");
    Ok(())
}
