//! What the agent's programs take of it, by the kernel's own account.
//!
//! Keeping that account costs some time itself with every run of a program, so these are not the rounds that count. What
//! it says of a program that does nothing is taken off.

use std::{collections::BTreeMap, fs, os::fd::AsRawFd as _, path::Path};

use anyhow::{Context as _, Result};
use aya::{
    programs::ProgramInfo,
    sys::{Stats, enable_stats},
};
use serde::Serialize;

use crate::{
    program::{Program, load_empty},
    redirect::{
        load::{Load, Sample},
        stand::Stand,
    },
};

/// Connections and next to nothing else.
const CONNECTS: Load = Load {
    stream_millis: 0,
    calls: 0,
    connects: 4_000,
};
/// A stream and next to nothing else.
const STREAM: Load = Load {
    stream_millis: 500,
    calls: 0,
    connects: 1,
};
/// Runs of the program that does nothing.
const REPEAT: u32 = 100_000;

/// One program of one contender.
#[derive(Debug, Serialize)]
pub(crate) struct Cost {
    pub(crate) contender: &'static str,
    pub(crate) program: String,
    pub(crate) runs_per_connection: f64,
    pub(crate) ns_per_connection: f64,
    pub(crate) runs_per_mib: f64,
    pub(crate) ns_per_mib: f64,
}

/// Runs so far, and nanoseconds that they took.
type Account = BTreeMap<String, (f64, f64)>;

/// The programs that a contender has run at all.
pub(crate) fn account(contender: &'static str, stand: &Stand) -> Result<Vec<Cost>> {
    let Some(programs) = stand.programs() else {
        return Ok(Vec::new());
    };
    let _enabled = enable_stats(Stats::RunTime).context("enabling the statistics of eBPF programs")?;
    let nothing = nothing()?;
    let (connection, _) = difference(&programs, stand, &CONNECTS)?;
    let (stream, sample) = difference(&programs, stand, &STREAM)?;
    let connections = f64::from(CONNECTS.connects);
    #[expect(
        clippy::cast_precision_loss,
        reason = "a duration in milliseconds is a small number"
    )]
    let mib = sample.throughput * 1e9 / 8.0 * STREAM.stream_millis as f64 / 1e3 / f64::from(1 << 20);
    let costs = connection.into_iter().map(|(program, (runs, time))| {
        let (stream_runs, stream_time) = stream.get(&program).copied().unwrap_or_default();
        Cost {
            contender,
            program,
            runs_per_connection: runs / connections,
            ns_per_connection: (time - runs * nothing).max(0.0) / connections,
            runs_per_mib: stream_runs / mib,
            ns_per_mib: (stream_time - stream_runs * nothing).max(0.0) / mib,
        }
    });
    Ok(costs
        .filter(|cost| cost.runs_per_connection > 0.0 || cost.runs_per_mib > 0.0)
        .collect())
}

/// What a load adds to the account.
fn difference(programs: &Path, stand: &Stand, load: &Load) -> Result<(Account, Sample)> {
    let before = read(programs)?;
    let sample = stand.measure(load)?;
    let mut account = read(programs)?;
    for (program, (runs, time)) in &mut account {
        let (runs_before, time_before) = before.get(program).copied().unwrap_or_default();
        *runs -= runs_before;
        *time -= time_before;
    }
    Ok((account, sample))
}

/// The account of every program that is pinned there.
fn read(programs: &Path) -> Result<Account> {
    let mut account = Account::new();
    for entry in fs::read_dir(programs).with_context(|| format!("reading {}", programs.display()))? {
        let path = entry?.path();
        let info = ProgramInfo::from_pin(&path)
            .with_context(|| format!("asking for the program at {}", path.display()))?;
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        #[expect(
            clippy::cast_precision_loss,
            reason = "runs and nanoseconds of a program that has been there for minutes"
        )]
        let counted = (info.run_count() as f64, info.run_time().as_secs_f64() * 1e9);
        account.insert(name, counted);
    }
    Ok(account)
}

/// Nanoseconds that the account has for a run of a program that does nothing.
fn nothing() -> Result<f64> {
    let empty = load_empty()?;
    let program = Program {
        fd: empty.as_raw_fd(),
    };
    program.run(&[0; 64], REPEAT, None)?;
    let path = format!("/proc/self/fdinfo/{}", program.fd);
    let said = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let value = |name: &str| -> Result<f64> {
        let line = said.lines().find_map(|line| line.strip_prefix(name));
        let value = line.with_context(|| format!("{path} has no {name}"))?;
        Ok(value.trim().parse()?)
    };
    Ok(value("run_time_ns:")? / value("run_cnt:")?)
}
