//! Changes of policy: atomic, numbered, and felt by what is open.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{
    PATIENCE, Rig,
    bench::addresses::{REGISTERED, UNREGISTERED},
    echo::Echo,
    manifest::Policy,
};

use crate::common::{LONG, SHORT, both, connect, exchange, exchange_datagrams, is_silence, silent, udp};

#[test]
fn a_tightened_policy_cuts_what_is_open() -> Result<()> {
    let any = Policy {
        destinations: "Any",
        ..silent()
    };
    let mut rig = Rig::start(&any)?;
    let _outside = Echo::start(rig.bench.outside(), &both(UNREGISTERED), &[80])?;
    let mut open = Vec::new();
    for dst in both(UNREGISTERED) {
        let (mut stream, socket) = rig
            .gateway
            .run(|| -> std::io::Result<_> { Ok((connect(dst, 80, LONG)?, udp(dst, 80, LONG)?)) })??;
        exchange(&mut stream)?;
        exchange_datagrams(&socket)?;
        open.push((dst, stream, socket));
    }
    rig.bench.state().policy(&silent())?;
    rig.agent.settle()?;
    rig.events.clear();
    for (dst, stream, socket) in &mut open {
        stream.set_read_timeout(Some(SHORT))?;
        socket.set_read_timeout(Some(SHORT))?;
        assert!(
            exchange(stream).is_err_and(|error| is_silence(&error)),
            "TCP to {dst} goes on"
        );
        assert!(
            exchange_datagrams(socket).is_err_and(|error| is_silence(&error)),
            "UDP to {dst} goes on"
        );
        for protocol in ["TCP", "UDP"] {
            let event = rig.events.wait_for(protocol, |event| {
                event.dst == *dst && event.protocol.eq_ignore_ascii_case(protocol) && event.verdict == "deny"
            })?;
            assert_eq!(
                (event.hook.as_str(), event.reason.as_str()),
                ("pod_out", "not-registered")
            );
        }
    }
    // Loosened again, the stream goes on where it stopped.
    rig.bench.state().policy(&any)?;
    rig.agent.settle()?;
    for (dst, mut stream, socket) in open {
        stream.set_read_timeout(Some(LONG))?;
        socket.set_read_timeout(Some(LONG))?;
        exchange(&mut stream).with_context(|| format!("TCP to {dst} did not go on"))?;
        exchange_datagrams(&socket).with_context(|| format!("UDP to {dst} did not go on"))?;
    }
    Ok(())
}

#[test]
fn a_service_entry_opens_and_closes() -> Result<()> {
    let mut rig = Rig::start(&silent())?;
    let dst = both(UNREGISTERED)[0];
    let frame = || rig.gateway.sender().syn(dst, 443);
    let before = rig.refused(&rig.gateway, &frame(), "not-registered")?.generation;
    rig.bench
        .state()
        .register("more", &[UNREGISTERED[0]], &[(443, "TLS")])?;
    rig.agent.settle()?;
    let frame = || rig.gateway.sender().syn(dst, 443);
    let open = rig.passed(&rig.gateway, &frame(), "rule")?.generation;
    assert!(open > before, "generation {open} after {before}");
    rig.bench.state().remove("serviceentry-more")?;
    rig.agent.settle()?;
    let after = rig
        .refused(
            &rig.gateway,
            &rig.gateway.sender().syn(dst, 443),
            "not-registered",
        )?
        .generation;
    assert!(after > open, "generation {after} after {open}");
    Ok(())
}

/// The prefix of one address.
fn host_prefix(address: &str) -> String {
    format!("{address}/{}", if address.contains(':') { 128 } else { 32 })
}

/// Two policies in turn, each of which permits exactly one of two destinations, under a steady stream of packets to
/// both: within one generation, always the same one.
#[test]
fn no_packet_sees_half_of_a_change() -> Result<()> {
    const TURNS: usize = 12;
    let [one, other] = [REGISTERED, UNREGISTERED];
    let permitting = |prefixes: [&str; 2]| {
        let exceptions = prefixes.map(|address| (host_prefix(address), "UDP", 7)).to_vec();
        Policy {
            exceptions,
            ..silent()
        }
    };
    let mut rig = Rig::start(&permitting(one))?;
    let ends = AtomicBool::new(false);
    rig.events.clear();
    let Rig {
        agent, bench, client, ..
    } = &mut rig;
    let mut generation = agent.status()?["generation"].clone();
    thread::scope(|scope| -> Result<()> {
        let stream = scope.spawn(|| -> Result<()> {
            while !ends.load(Ordering::Relaxed) {
                for dst in [both(one), both(other)].concat() {
                    client.send(&client.sender().udp(dst, 7))?;
                }
                thread::sleep(Duration::from_micros(500));
            }
            Ok(())
        });
        let turned = (0..TURNS).try_for_each(|turn| {
            bench
                .state()
                .policy(&permitting(if turn % 2 == 0 { other } else { one }))?;
            let deadline = Instant::now() + PATIENCE;
            while agent.settle()?["generation"] == generation {
                ensure!(Instant::now() < deadline, "the agent stays at {generation}");
            }
            generation = agent.status()?["generation"].clone();
            thread::sleep(Duration::from_millis(10));
            Ok(())
        });
        ends.store(true, Ordering::Relaxed);
        stream
            .join()
            .map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        turned
    })?;
    rig.bench.flush(&rig.outside)?;
    thread::sleep(SHORT);

    // By generation and destination: whether it was permitted, and why.
    let mut generations: BTreeMap<u64, BTreeMap<bool, (bool, String)>> = BTreeMap::new();
    let events = rig.events.all();
    for event in events
        .iter()
        .filter(|event| event.hook == "pod_out" && event.dport == 7)
    {
        let fate = (event.verdict == "allow", event.reason.clone());
        let verdicts = generations.entry(event.generation).or_default();
        let first = verdicts
            .entry(both(one).contains(&event.dst))
            .or_insert_with(|| fate.clone());
        assert_eq!(
            *first, fate,
            "two verdicts on the same packet in one generation: {event:?}"
        );
    }
    assert!(generations.len() > TURNS / 2, "{generations:?}");
    for (generation, verdicts) in generations {
        if let (Some(one), Some(other)) = (verdicts.get(&true), verdicts.get(&false)) {
            assert_ne!(
                one.0, other.0,
                "generation {generation} is half of each policy: {verdicts:?}"
            );
        }
    }
    Ok(())
}
