//! The agent dies, comes back, lets go, and goes for good.

use std::{
    fmt::Write as _,
    fs, io,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{
    Pod,
    bench::{addresses::REGISTERED, ip},
    command,
    echo::Echo,
    netns::Netns,
    proxy::{HBONE, INBOUND, Listener, OUTBOUND},
};

use crate::common::{Stand, at, connect, converse, exchange, outside, wait_until};

/// Variables that capture sets.
const SYSCTLS: [&str; 3] = [
    "ipv4/tcp_fwmark_accept",
    "ipv4/fwmark_reflect",
    "ipv6/fwmark_reflect",
];

/// Rules, routes, variables, qdiscs and filters of a namespace.
fn state_of(netns: &Netns) -> Result<String> {
    netns.run(|| -> Result<String> {
        let mut text = String::new();
        for arguments in [
            "-4 rule",
            "-6 rule",
            "-4 route show table all",
            "-6 route show table all",
        ] {
            text += &command::run("ip", &arguments.split(' ').collect::<Vec<_>>(), "")?;
        }
        for name in SYSCTLS {
            let value = fs::read_to_string(format!("/proc/sys/net/{name}"))?;
            write!(text, "{name}={value}")?;
        }
        for device in ["lo", "eth0"] {
            text += &command::run("tc", &["qdisc", "show", "dev", device], "")?;
            for direction in ["ingress", "egress"] {
                text += &command::run("tc", &["filter", "show", "dev", device, direction], "")?;
                writeln!(text, "{device} {direction}: {}", programs(device, direction))?;
            }
        }
        Ok(text)
    })?
}

/// How many programs TCX runs there, which came with Linux 6.6; filters are shown below it.
fn programs(device: &str, direction: &str) -> usize {
    let direction = if direction == "ingress" {
        sluice_tests::sys::Direction::In
    } else {
        sluice_tests::sys::Direction::Out
    };
    let index = sluice_tests::sys::device_index(device);
    index
        .and_then(|index| sluice_tests::sys::bpf::tcx_programs(index, direction))
        .map_or(0, |programs| programs.len())
}

#[test]
fn to_be_let_go_leaves_nothing() -> Result<()> {
    let stand = Stand::with(&[], |_, pod, _| {
        pod.netns().sysctls(&[("ipv4.fwmark_reflect", "0")])
    })?;
    let (pod, node) = (stand.pod.netns(), stand.bench.node());
    let before = [state_of(pod)?, rules_of(node)?];
    stand.enroll(&[])?;
    let captured = state_of(pod)?;
    ensure!(captured != before[0], "capture changes nothing");
    ensure!(captured.matches("fwmark 0x111/0xfff").count() == 2, "{captured}");
    stand.unenroll()?;
    let after = [state_of(pod)?, rules_of(node)?];
    ensure!(
        after == before,
        "before:\n{}\nafter:\n{}",
        before.concat(),
        after.concat()
    );
    // Twice is no fault of anybody's.
    stand.enroll(&[])?;
    stand.enroll(&[])?;
    ensure!(state_of(pod)? == captured);
    stand.unenroll()?;
    ensure!(state_of(pod)? == before[0]);
    Ok(())
}

fn rules_of(netns: &Netns) -> Result<String> {
    netns.run(|| -> Result<String> {
        Ok(command::run("ip", &["-4", "rule"], "")? + &command::run("ip", &["-6", "rule"], "")?)
    })?
}

/// Calls go on to be captured, all of them, while the agent is killed and comes back.
#[test]
fn capture_outlives_the_agent() -> Result<()> {
    let mut stand = Stand::start()?;
    let _past = Echo::start(stand.bench.outside(), &REGISTERED.map(ip), &[80, 443])?;
    let listener = stand.proxy.listen(OUTBOUND)?;
    let mut open = Vec::new();
    for to in outside() {
        open.push(stand.arrives(&listener, to)?);
    }
    stand.agent.kill()?;
    for [stream, taken] in &mut open {
        converse(stream, taken).context("without the agent")?;
    }
    for to in outside() {
        open.push(stand.arrives(&listener, to).context("without the agent")?);
    }
    inbound_works(&stand).context("without the agent")?;

    let stop = AtomicBool::new(false);
    let pod = &stand.pod;
    let agent = &mut stand.agent;
    let called = std::thread::scope(|scope| -> Result<usize> {
        let calls = scope.spawn(|| calling(pod, &listener, &stop));
        let restarted = agent.restart();
        stop.store(true, Ordering::Relaxed);
        let called = calls
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        restarted?;
        Ok(called)
    })?;
    ensure!(called > 0, "nobody called while the agent came back");
    for [stream, taken] in &mut open {
        converse(stream, taken).context("with a new agent")?;
    }
    for to in outside() {
        stand.arrives(&listener, to).context("with a new agent")?;
    }
    inbound_works(&stand).context("with a new agent")?;
    // It remembers whom it was told to capture, and lets him go.
    stand.unenroll()?;
    for to in at(REGISTERED.map(ip), 80) {
        exchange(&mut stand.call(to)??)?;
    }
    Ok(())
}

/// Calls, and asserts that the proxy is told whereto, until it is enough.
fn calling(pod: &Pod, listener: &Listener, stop: &AtomicBool) -> Result<usize> {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        for to in outside() {
            let _stream = pod.run(|| connect(to))?.context("while the agent comes back")?;
            let wanted = sluice_tests::proxy::original(&listener.accept()?)?;
            ensure!(wanted == to, "{to} became {wanted}");
            count += 1;
        }
    }
    Ok(count)
}

/// A call to the pod arrives at the proxy, which can call the application.
fn inbound_works(stand: &Stand) -> Result<()> {
    let proxys = stand.proxy.listen(INBOUND)?;
    let app = stand.pod.run(|| Listener::on((ip("::"), 80).into()))??;
    for to in at(stand.pod.addresses(), 80) {
        let stream = stand.peer.run(|| connect(to))??;
        proxys.accept()?;
        let client = stream.local_addr()?.ip();
        let mut inner = stand
            .proxy
            .connect_as(client, to, crate::common::LONG)?
            .context("the proxy calls the application")?;
        converse(&mut inner, &mut app.accept()?)?;
    }
    Ok(())
}

/// What somebody removes in the pod comes back, and works.
#[test]
fn what_is_removed_comes_back() -> Result<()> {
    let stand = Stand::start()?;
    let netns = stand.pod.netns();
    let whole = state_of(netns)?;
    for damage in [
        "ip rule del pref 32764",
        "ip -6 route flush table 100",
        "sysctl -qw net.ipv4.tcp_fwmark_accept=0",
    ] {
        let words: Vec<&str> = damage.split(' ').collect();
        if words[0] == "sysctl" {
            netns.sysctls(&[("ipv4.tcp_fwmark_accept", "0")])?;
        } else {
            netns.run(|| command::run(words[0], &words[1..], ""))??;
        }
        let took = wait_until(damage, || Ok(state_of(netns)? == whole))?;
        ensure!(
            sluice_tests::in_guest() || took.as_millis() < 2_000,
            "{damage}: it took {took:?}"
        );
    }
    inbound_works(&stand)
}

#[test]
fn detach_undoes_everything() -> Result<()> {
    let mut stand = Stand::with(&[], |_, _, _| Ok(()))?;
    let _past = Echo::start(stand.bench.outside(), &REGISTERED.map(ip), &[80])?;
    let (pod, node) = (stand.pod.netns(), stand.bench.node());
    let before = [state_of(pod)?, rules_of(node)?];
    stand.enroll(&[])?;
    stand.agent.kill()?;
    let output = stand.agent.detach()?;
    ensure!(
        output.status.success(),
        "detach failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let after = [state_of(pod)?, rules_of(node)?];
    ensure!(
        after == before,
        "before:\n{}\nafter:\n{}",
        before.concat(),
        after.concat()
    );
    for to in at(REGISTERED.map(ip), 80) {
        exchange(&mut stand.call(to)??)?;
    }
    Ok(())
}

/// What this replaces: no rule that translates addresses, no connection that is tracked.
#[test]
fn nothing_is_translated_and_nothing_is_tracked() -> Result<()> {
    let stand = Stand::start()?;
    let listener = stand.proxy.listen(OUTBOUND)?;
    let mut open = Vec::new();
    for to in outside() {
        open.push(stand.arrives(&listener, to)?);
    }
    inbound_works(&stand)?;
    for netns in [stand.pod.netns(), stand.bench.node()] {
        netns.run(|| -> Result<()> {
            ensure!(tracked()? == 0, "{} connections are tracked", tracked()?);
            let rules = command::run("nft", &["list", "ruleset"], "")?;
            ensure!(rules.trim().is_empty(), "there are rules:\n{rules}");
            let tables = ["ip_tables_names", "ip6_tables_names"];
            for table in tables {
                // Not there unless somebody has used the old interface since the machine was started.
                let names = fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default();
                ensure!(names.trim().is_empty(), "there are tables: {names}");
            }
            Ok(())
        })??;
    }
    // The count can count.
    let _hbone = stand.proxy.listen(HBONE)?;
    stand.peer.netns().run(|| -> Result<()> {
        let rule = "table inet t { chain c { type filter hook output priority 0; ct state new accept; }; }";
        command::run("nft", &["-f", "-"], rule)?;
        let _call = connect(at(stand.pod.addresses(), HBONE)[0])?;
        ensure!(tracked()? > 0, "nothing is tracked where a rule asks for it");
        Ok(())
    })?
}

/// How many connections the kernel tracks in the network namespace of this thread.
fn tracked() -> Result<u32> {
    match fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count") {
        Ok(count) => Ok(count.trim().parse()?),
        // Not there unless the module is.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error.into()),
    }
}
