//! What is told of a verdict, how often, and to whom.

use std::{
    fs, io,
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{
    Agent, Bench, Event, PATIENCE, Rig,
    bench::{
        addresses::{REGISTERED, UNREGISTERED},
        ip,
    },
    manifest::Policy,
};

/// Longer than what follows the first of a flow is gathered.
const REST: Duration = Duration::from_millis(2500);

fn rejecting() -> Policy {
    Policy {
        on_deny: "Reject",
        ..Policy::default()
    }
}

/// How many refusals for this reason the programs have counted.
fn refusals(rig: &Rig, reason: &str) -> Result<u64> {
    let status = rig.agent.status()?;
    let counters = status["counters"].as_array().context("no counters")?;
    let same = counters
        .iter()
        .filter(|counter| counter["verdict"] == "deny" && counter["reason"] == reason);
    Ok(same.filter_map(|counter| counter["packets"].as_u64()).sum())
}

/// What `sluice observe` shows of the past.
fn shown(agent: &Agent, filter: &[&str]) -> Result<Vec<Event>> {
    let output = agent.command(&[&["observe", "-o", "json"], filter].concat())?;
    ensure!(
        output.status.success(),
        "{filter:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let lines = String::from_utf8(output.stdout)?;
    lines
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| line.to_owned()))
        .collect()
}

#[test]
fn a_flow_is_told_of_at_once_and_then_in_sum() -> Result<()> {
    const PACKETS: u64 = 5_000;
    let rig = Rig::start(&Policy::default())?;
    let frame = rig.client.sender().udp(ip(UNREGISTERED[0]), 53);
    let before = refusals(&rig, "not-gateway")?;
    let started = Instant::now();
    rig.client.send(&frame)?;
    let first = rig.verdict_on("pod_out", &frame)?;
    ensure!(first.count == 1, "the first of a flow was gathered: {first:?}");
    ensure!(
        started.elapsed() < Duration::from_millis(900),
        "the first of a flow had to wait"
    );
    for _ in 1..PACKETS {
        rig.client.send(&frame)?;
    }
    let seconds = started.elapsed().as_secs() + 1;
    thread::sleep(REST);
    let events = rig.events.all();
    let of_flow: Vec<&Event> = events
        .iter()
        .filter(|event| event.sport == frame.source_port())
        .collect();
    let told: u64 = of_flow.iter().map(|event| event.count).sum();
    ensure!(
        told == PACKETS,
        "{told} of {PACKETS} packets were told of: {of_flow:?}"
    );
    let processors = thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let most = (seconds + 1) * processors + 1;
    ensure!(
        of_flow.len() as u64 <= most,
        "{} events on one flow",
        of_flow.len()
    );
    let counted = refusals(&rig, "not-gateway")? - before;
    ensure!(counted == PACKETS, "{counted} packets are counted");
    Ok(())
}

#[test]
fn a_pod_that_calls_everybody_hides_nobody_else() -> Result<()> {
    const FLOWS: u16 = 12_000;
    let rig = Rig::start(&Policy::default())?;
    let before = refusals(&rig, "not-gateway")?;
    let lost_before = rig.agent.status()?["lost"]["events"].as_u64().unwrap_or(0);
    let base = rig.client.sender().udp(ip(UNREGISTERED[0]), 53);
    for port in 0..FLOWS {
        rig.client.send(&base.clone().sport(20_000 + port))?;
    }
    let other = rig.peer.sender().udp(ip(UNREGISTERED[0]), 53);
    rig.peer.send(&other)?;
    rig.verdict_on("pod_out", &other)
        .context("another pod's event was lost")?;
    let counted = refusals(&rig, "not-gateway")? - before;
    ensure!(counted == u64::from(FLOWS) + 1, "{counted} packets are counted");
    let lost = rig.agent.status()?["lost"]["events"].as_u64().unwrap_or(0) - lost_before;
    let told = shown(&rig.agent, &["--pod", "app/client"])?.len() as u64;
    // The agent keeps fewer than are told.
    ensure!(lost > 0 && told > 0, "{told} were told and {lost} lost");
    Ok(())
}

#[test]
fn a_verdict_names_everybody() -> Result<()> {
    let rig = Rig::start(&rejecting())?;
    let frame = rig.gateway.sender().syn(ip(REGISTERED[0]), 8443);
    rig.gateway.send(&frame)?;
    let event = rig.verdict_on("pod_out", &frame)?;
    ensure!(event.reason == "port", "{event:?}");
    let destination = event.destination.clone().unwrap_or_default();
    ensure!(
        destination.starts_with("ServiceEntry ") && destination.ends_with("/registered"),
        "{event:?}"
    );
    ensure!(event.policies.len() == 1, "which policy? {event:?}");
    ensure!(event.process.is_none(), "a packet has no process: {event:?}");

    let name = "caller é\n";
    let refused = rig.client.run(|| -> Result<io::Result<TcpStream>> {
        fs::write("/proc/thread-self/comm", name)?;
        let address = SocketAddr::new(ip(UNREGISTERED[0]), 443);
        Ok(TcpStream::connect_timeout(&address, PATIENCE))
    })??;
    ensure!(refused.is_err(), "the call went through");
    let event = rig.events.wait_for("the call", |event| {
        event.hook == "connect4" && event.verdict == "deny"
    })?;
    let process = event.process.clone().unwrap_or_default();
    ensure!(process.starts_with("caller ") && process.is_ascii(), "{event:?}");
    ensure!(event.pod.is_some_and(|pod| pod.name == "client") && event.policies.len() == 1);
    Ok(())
}

#[test]
fn filters_show_what_is_asked_for() -> Result<()> {
    let rig = Rig::start(&Policy::default())?;
    let near = rig.client.sender().udp(ip(UNREGISTERED[0]), 53);
    let far = rig.gateway.sender().syn(ip(UNREGISTERED[1]), 443);
    for (pod, frame) in [(&rig.client, &near), (&rig.gateway, &far)] {
        pod.send(frame)?;
        rig.verdict_on("pod_out", frame)?;
    }
    let ports = |filter: &[&str]| -> Result<Vec<u16>> {
        let mut ports: Vec<u16> = shown(&rig.agent, &[&["--verdict", "deny"], filter].concat())?
            .iter()
            .filter(|event| event.hook == "pod_out")
            .map(|event| event.dport)
            .collect();
        ports.sort_unstable();
        ports.dedup();
        Ok(ports)
    };
    let cases: [(&[&str], &[u16]); 9] = [
        (&[], &[53, 443]),
        (&["--namespace", "app"], &[53]),
        (&["--pod", "egress/gateway"], &[443]),
        (&["--reason", "not-registered"], &[443]),
        (&["--reason", "not-registered,not-gateway"], &[53, 443]),
        (&["--to", "198.51.100.0/24"], &[53]),
        (&["--to", UNREGISTERED[1]], &[443]),
        (&["--port", "53"], &[53]),
        (&["--since", "1h", "--verdict", "audit"], &[53, 443]),
    ];
    for (filter, expected) in cases {
        ensure!(
            ports(filter)? == expected,
            "{filter:?} shows {:?}",
            ports(filter)?
        );
    }
    thread::sleep(Duration::from_millis(1100));
    ensure!(ports(&["--since", "1s"])?.is_empty(), "what is old is shown");
    for wrong in [
        ["--reason", "no-reason"],
        ["--to", "nowhere"],
        ["--since", "yesterday"],
    ] {
        let output = rig.agent.command(&[&["observe"], &wrong[..]].concat())?;
        ensure!(output.status.code() == Some(2), "{wrong:?} is taken");
    }
    let table = rig.agent.command(&["observe", "--port", "53"])?;
    let table = String::from_utf8(table.stdout)?;
    ensure!(
        table.contains("not-gateway") && table.contains("app/client: "),
        "{table}"
    );
    Ok(())
}

#[test]
fn verdicts_are_written_down() -> Result<()> {
    let bench = Bench::create()?;
    let client = bench.pod("app", "client")?;
    bench.state().declare(&client)?;
    bench.state().policy(&Policy::default())?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("events.json");
    let path = file.display().to_string();
    let mut agent = Agent::prepare(&bench)?.with_arguments(&["--events-file", &path]);
    agent.restart()?;
    client.send(&client.sender().udp(ip(UNREGISTERED[0]), 53))?;
    let deadline = Instant::now() + PATIENCE;
    let line = loop {
        let text = fs::read_to_string(&file)?;
        if let Some(line) = text.lines().find(|line| line.contains(UNREGISTERED[0])) {
            break line.to_owned();
        }
        ensure!(Instant::now() < deadline, "nothing is written down: {text:?}");
        thread::sleep(Duration::from_millis(20));
    };
    let event: Event = serde_json::from_str(&line)?;
    ensure!(
        event.verdict == "deny" && event.reason == "not-gateway" && event.dport == 53,
        "{line}"
    );
    ensure!(event.pod.is_some_and(|pod| pod.name == "client"), "{line}");
    Ok(())
}
