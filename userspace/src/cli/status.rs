//! `sluice status`

use std::{process::ExitCode, time::Duration};

use clap::Args;

use super::{
    Common, FAILED, Format,
    output::{self, Table},
};
use crate::{
    agent::status,
    api::{Request, client},
    cni,
    source::WatchState,
};

/// Is it on? What is in the kernel, and what is wrong.
///
/// Exit code 1 if the kernel does not hold what the source says.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// Wait until it does, for this long at the most: 500ms, 10s, 2m.
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    wait: Option<Duration>,
}

/// Reads a number with a unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("`{text}` is no duration; expected 500ms, 10s or 2m"))?;
    match &text[digits.len()..] {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        "h" => Ok(Duration::from_secs(number * 60 * 60)),
        unit => Err(format!("`{unit}` is no unit; expected ms, s, m or h")),
    }
}

impl Status {
    pub(super) fn run(&self, common: &Common) -> anyhow::Result<ExitCode> {
        let wait_ms = self
            .wait
            .map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
        let status: status::Status = client::ask_one(&common.run_dir, &Request::Status { wait_ms })?;
        match common.output {
            Format::Json => output::json(&status)?,
            Format::Table => print(&status)?,
        }
        Ok(if status.ready {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(FAILED)
        })
    }
}

fn print(status: &status::Status) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "node {}: {} (sluice {})",
        status.node, status.state, status.version
    )?;
    writeln!(
        out,
        "generation {}: {} pods, {} destinations, {} rules; policies: {}",
        status.generation,
        status.endpoints,
        status.destinations,
        status.rules,
        if status.policies.is_empty() {
            "none".to_owned()
        } else {
            status.policies.join(", ")
        },
    )?;
    for problem in &status.problems {
        writeln!(out, "{}: {problem}", problem.severity)?;
    }
    if let Some(age) = status.source.age_seconds {
        writeln!(out, "source: {}, last heard {age} s ago", status.source.kind)?;
    }
    for (name, kind) in &status.source.kinds {
        if kind.state != WatchState::Watching {
            writeln!(out, "  {name}: {}, {} objects", kind.state, kind.objects)?;
        }
    }
    let internal: Vec<&str> = status.internal.keys().map(String::as_str).collect();
    writeln!(out, "internal: {}", internal.join(", "))?;
    let devices: Vec<String> = status
        .devices
        .iter()
        .map(|device| format!("{} ({})", device.name, device.role))
        .collect();
    writeln!(
        out,
        "programs on: {}",
        if devices.is_empty() {
            "no device".to_owned()
        } else {
            devices.join(", ")
        }
    )?;
    if let Some(cni::State { file, restored }) = &status.cni {
        match file {
            Some(file) => writeln!(
                out,
                "CNI plugin: in {} (put back {restored} times), {} pods announced",
                file.display(),
                status.announced
            )?,
            None => writeln!(out, "CNI plugin: waits for a network configuration")?,
        }
    }
    if status.repairs > 0 {
        writeln!(
            out,
            "programs that somebody removed or displaced, put back: {}",
            status.repairs
        )?;
    }
    if status.lost != status::Lost::default() {
        writeln!(
            out,
            "not recorded: {} events, {} flows",
            status.lost.events, status.lost.flows
        )?;
    }
    if status.counters.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    drop(out);
    let mut table = Table::new(["HOOK", "VERDICT", "REASON", "PACKETS"]);
    for count in &status.counters {
        table.row([
            count.hook.clone(),
            count.verdict.clone(),
            count.reason.clone(),
            count.packets.to_string(),
        ]);
    }
    table.print()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("2m"), Ok(Duration::from_mins(2)));
        assert!(duration("10").is_err());
        assert!(duration("s").is_err());
        assert_eq!(duration("1h"), Ok(Duration::from_hours(1)));
        assert!(duration("1d").is_err());
    }
}
