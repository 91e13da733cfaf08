//! What a verdict costs: the live `pod_out` beside a program that does nothing, by `BPF_PROG_TEST_RUN`, in turns.
//!
//! Needs root; works in a network namespace of its own and leaves nothing behind.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Context as _, Result};
use aya::programs::SchedClassifier;
use ebpf::{
    Addr,
    packet::Protocol,
    rules::{ABI, Endpoint, Enforcement, GroupSet, Identity, PolicyId},
};
use etherparse::PacketBuilder;
use ipnet::{IpNet, Ipv4Net};
use serde_json::json;
use sluice::{
    dataplane::{Dataplane, Options, detach},
    desired::{Desired, Ports, Rule},
};
use sluice_tests::netns::Netns;

use crate::program::{Program, load_empty};

const SIZES: [u32; 4] = [10, 1_000, 100_000, 1_000_000];
const ROUNDS: usize = 5;
/// Runs of one packet in a row; the kernel returns the mean.
const REPEAT: u32 = 500_000;
/// Packets of the series in which every packet goes elsewhere.
const SERIES: usize = 4_000;

/// `TC_ACT_UNSPEC` and `TC_ACT_SHOT`.
const PASS: i32 = -1;
const DROP: i32 = 2;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const POD: [u8; 4] = [10, 0, 0, 1];

/// Measures and prints.
pub(crate) fn run(json: bool) -> Result<()> {
    let netns = Netns::create(&format!("sluice-bench-{}", std::process::id()))?;
    let rows = netns.run(|| {
        SIZES
            .iter()
            .map(|&size| measure(size))
            .collect::<Result<Vec<_>>>()
    })??;
    if json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    println!("ns per packet, median of {ROUNDS} rounds; an empty program in brackets\n");
    println!("prefixes   internal     registered   random: p50        denied       one change");
    for row in rows {
        let cell = |name: &str| format!("{} ({})", row[name]["pod_out"], row[name]["empty"]);
        println!(
            "{:<10} {:<12} {:<12} {:<18} {:<12} {} us",
            row["prefixes"].to_string(),
            cell("internal"),
            cell("registered"),
            cell("random"),
            cell("denied"),
            row["change_us"],
        );
    }
    Ok(())
}

/// The rules of a gateway whose registry has `size` addresses.
fn rules(size: u32) -> Desired {
    let endpoint = Endpoint::new(1, MAC, Some(Addr::v4(POD)), None)
        .subject_to(PolicyId(1))
        .as_gateway(true);
    let groups = GroupSet::numbered(1);
    let mut destinations: BTreeMap<IpNet, GroupSet> = (0..size)
        .map(|number| (IpNet::V4(Ipv4Net::from(destination(number))), groups))
        .collect();
    destinations.insert(
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 0, 0, 0), 8)),
        GroupSet::INTERNAL,
    );
    Desired {
        enforcement: Enforcement::Enforce,
        endpoints: BTreeMap::from([(Identity::Device(1), endpoint)]),
        destinations,
        rules: [Rule {
            policy: PolicyId(1),
            groups,
            ports: Ports::single(Protocol::TCP, 443),
        }]
        .into(),
        ..Desired::default()
    }
}

/// Addresses that are spread over 128.0.0.0/2, each once: an odd factor permutes the numbers.
fn destination(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x8000_0000 | (number.wrapping_mul(0x9e37_79b1) & 0x3fff_ffff))
}

fn frame(to: Ipv4Addr) -> Result<Vec<u8>> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(MAC, [2, 0, 0, 0, 0, 1])
        .ipv4(POD, to.octets(), 64)
        .tcp(40_000, 443, 1, u16::MAX)
        .ack(1)
        .write(&mut frame, &[0; 10])?;
    Ok(frame)
}

fn measure(size: u32) -> Result<serde_json::Value> {
    let dir = tempfile::tempdir()?;
    let options = Options {
        bpffs: dir.path().join("bpf"),
        cgroup_root: None,
    };
    let mut dataplane = Dataplane::open(&options)?;
    let mut desired = rules(size);
    dataplane.apply(&desired)?;
    dataplane.settle()?;
    let mut changes = Vec::new();
    for number in 0..ROUNDS {
        // One address more.
        let extra = Ipv4Net::from(Ipv4Addr::new(100, 64, 0, u8::try_from(number)?));
        desired
            .destinations
            .insert(IpNet::V4(extra), GroupSet::numbered(1));
        let applied = dataplane
            .apply(&desired)?
            .context("a change that changes nothing")?;
        changes.push(u32::try_from(applied.duration.as_micros())?);
        dataplane.settle()?;
    }
    let pod_out_pin = SchedClassifier::from_pin(options.bpffs.join(format!("v{ABI}/programs/pod_out")))?;
    let pod_out = Program {
        fd: pod_out_pin.fd()?.as_fd().as_raw_fd(),
    };
    let empty_fd = load_empty()?;
    let empty = Program {
        fd: empty_fd.as_raw_fd(),
    };

    let same = |to: Ipv4Addr, verdict: i32| -> Result<serde_json::Value> {
        let frame = frame(to)?;
        let (mut ours, mut nothing) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            nothing.push(empty.run(&frame, REPEAT, None)?);
            ours.push(pod_out.run(&frame, REPEAT, Some(verdict))?);
        }
        Ok(json!({"pod_out": median(&mut ours), "empty": median(&mut nothing)}))
    };
    let random = || -> Result<serde_json::Value> {
        let (mut ours, mut nothing) = (Vec::new(), Vec::new());
        for number in 0..SERIES {
            let number = u32::try_from(number)?.wrapping_mul(0x85eb_ca6b) % size;
            let frame = frame(destination(number))?;
            nothing.push(empty.run(&frame, 1, None)?);
            ours.push(pod_out.run(&frame, 1, Some(PASS))?);
        }
        Ok(json!({"pod_out": median(&mut ours), "empty": median(&mut nothing)}))
    };
    let row = json!({
        "prefixes": size,
        "internal": same(Ipv4Addr::new(10, 9, 9, 9), PASS)?,
        "registered": same(destination(size / 2), PASS)?,
        "random": random()?,
        "denied": same(Ipv4Addr::new(8, 8, 8, 8), DROP)?,
        "change_us": median(&mut changes),
    });
    drop(dataplane);
    detach(&options)?;
    Ok(row)
}

fn median(values: &mut [u32]) -> u32 {
    values.sort_unstable();
    values[values.len() / 2]
}
