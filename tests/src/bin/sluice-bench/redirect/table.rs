//! The report for people.

use std::fmt::Write as _;

use anyhow::Result;

use crate::redirect::report::{FIGURES, Report};

/// Medians of rounds that differ more than that say little; the ratios, of neighbours in time, are of more use.
const UNREST: f64 = 1.3;

/// The table, and the goals below it.
pub(crate) fn lay_out(report: &Report) -> Result<String> {
    let Report {
        kernel,
        cpus,
        rounds,
        groups,
        goals,
        costs,
    } = report;
    let mut text = format!(
        "Linux {kernel}, {cpus} CPUs: medians of {rounds} rounds; in brackets the ratio to the uncaptured\n"
    );
    for group in groups {
        write!(text, "\n{:<26}", group.proxy.to_string())?;
        for (name, _) in FIGURES {
            write!(text, "{name:>20}")?;
        }
        writeln!(text)?;
        for line in &group.contenders {
            write!(text, "  {:<24}", line.name)?;
            for (figure, (_, decimals)) in line.figures().into_iter().zip(FIGURES) {
                let cell = format!("{:.decimals$} ({:.2})", figure.median, figure.ratio);
                write!(text, "{cell:>20}")?;
            }
            writeln!(text)?;
        }
        if group.unrest > UNREST {
            writeln!(
                text,
                "  The machine was busy: the uncaptured stream was {:.1} times as fast in one round as in another.",
                group.unrest
            )?;
        }
    }
    writeln!(text, "\ngoals")?;
    for goal in goals {
        writeln!(
            text,
            "  {:<8} {:<16} {:<38} {:.3}, {} {}",
            if goal.met { "met" } else { "missed" },
            goal.contender,
            goal.what,
            goal.reached,
            goal.bound.words(),
            goal.limit,
        )?;
    }
    writeln!(
        text,
        "\n{:<44}{:>14}{:>8}{:>10}{:>8}",
        "the agent's programs", "a connection", "ns", "a MiB", "ns"
    )?;
    for cost in costs {
        writeln!(
            text,
            "  {:<20} {:<21}{:>14.1}{:>8.0}{:>10.1}{:>8.0}",
            cost.contender,
            cost.program,
            cost.runs_per_connection,
            cost.ns_per_connection,
            cost.runs_per_mib,
            cost.ns_per_mib
        )?;
    }
    Ok(text)
}
