//! What the way to the proxy costs: sluice, iptables, and straight to the proxy's port, in turns.
//!
//! All contenders stand at the same time, each on a bench of its own, and none but the one that is measured has
//! traffic. The load comes from one CPU and the proxy runs on another, so that no figure depends on where the scheduler
//! happens to put them. Needs root; leaves nothing behind but its report.

mod contender;
mod cost;
mod load;
mod picture;
mod report;
mod sink;
mod stand;
mod table;

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::redirect::{
    contender::CONTENDERS,
    cost::Cost,
    load::{Load, Sample},
    report::Report,
    stand::Stand,
};

/// One round of one contender.
const LOAD: Load = Load {
    stream_millis: 1000,
    calls: 8_000,
    connects: 4_000,
};
/// Fills caches and neighbour tables; not counted.
const WARM_UP: Load = Load {
    stream_millis: 100,
    calls: 200,
    connects: 200,
};

/// Measures, writes `redirect.json` and `redirect.svg` to `directory`, and prints the table or the JSON.
pub(crate) fn run(directory: &Path, rounds: usize, json: bool) -> Result<()> {
    let (samples, costs) = measure(rounds)?;
    let report = Report::new(&samples, costs)?;
    let text = serde_json::to_string_pretty(&report)?;
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    for (name, content) in [
        ("redirect.json", &text),
        ("redirect.svg", &picture::draw(&report)?),
    ] {
        let path = directory.join(name);
        fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
    }
    if json {
        println!("{text}");
    } else {
        print!("{}", table::lay_out(&report)?);
    }
    Ok(())
}

/// The samples of each contender, in the order of [`CONTENDERS`], and what the agent's programs took in the end.
fn measure(rounds: usize) -> Result<(Vec<Vec<Sample>>, Vec<Cost>)> {
    let cpus = Cpus::of_this_process()?;
    let mut stands = Vec::new();
    for contender in CONTENDERS {
        let built = || {
            let stand = Stand::build(contender, cpus)?;
            stand.measure(&WARM_UP)?;
            Ok::<_, anyhow::Error>(stand)
        };
        stands.push(built().with_context(|| format!("setting up {contender}"))?);
    }
    let mut samples = vec![Vec::new(); stands.len()];
    for round in 0..rounds {
        eprintln!("    round {} of {rounds}", round + 1);
        let mut order: Vec<usize> = (0..stands.len()).collect();
        // There and back again: whatever becomes slower or faster over a round does so for everybody.
        if round % 2 == 1 {
            order.reverse();
        }
        for place in order {
            let sample = stands[place]
                .measure(&LOAD)
                .with_context(|| format!("measuring {}", CONTENDERS[place]))?;
            samples[place].push(sample);
        }
    }
    let mut costs = Vec::new();
    for (contender, stand) in CONTENDERS.iter().zip(&stands) {
        costs.extend(cost::account(contender.name, stand)?);
    }
    Ok((samples, costs))
}

/// Where the two sides run.
#[derive(Clone, Copy, Debug)]
struct Cpus {
    load: usize,
    proxy: usize,
}

impl Cpus {
    /// The first and the last that this process may use: the same if it may use but one.
    fn of_this_process() -> Result<Self> {
        let allowed = sched_getaffinity(Pid::from_raw(0)).context("sched_getaffinity")?;
        let mut usable = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false));
        let load = usable.next().context("this process may use no CPU")?;
        Ok(Self {
            load,
            proxy: usable.next_back().unwrap_or(load),
        })
    }
}

/// Moves this thread, and the threads that it makes from now on, to a CPU.
fn pin(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).with_context(|| format!("sched_setaffinity to CPU {cpu}"))
}
