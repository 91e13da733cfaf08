//! `sluice policy`

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::{
    Common, FAILED, Format,
    explain::pod_name,
    output::{self, Table},
};
use crate::{
    api::{Destination, Explanation, Filter, Kind, Question, Request, VerdictEvent, client},
    problem::Severity,
    rehearsal::{Expectation, Expectations, Rehearsal},
    suggestion::Suggestion,
};

/// Try policies, and make them.
#[derive(Debug, Subcommand)]
pub(super) enum Policy {
    Test(Test),
    Suggest(Suggest),
}

impl Policy {
    pub(super) fn run(&self, common: &Common) -> anyhow::Result<ExitCode> {
        match self {
            Self::Test(verb) => verb.run(common),
            Self::Suggest(verb) => verb.run(common),
        }
    }
}

/// Check what may and may not be reached against a file of expectations.
///
/// With --state nothing runs: the manifests of a directory are judged as if all pods were on one
/// node. Without it the agent of this node is asked, on the rules that are in its kernel. Exit code
/// 1 if an expectation is not met.
///
/// A file of expectations:
///
///     expectations:
///     - {pod: shop/web, to: 203.0.113.5:443, expect: deny, reason: not-gateway}
///     - {pod: egress/gateway, to: 203.0.113.5:443, expect: allow}
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Test {
    /// The file of expectations, YAML.
    file: PathBuf,
    /// A directory of manifests, instead of the agent.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

/// What became of an expectation.
#[derive(Debug, Serialize)]
struct Outcome {
    #[serde(flatten)]
    expected: Expectation,
    met: bool,
    /// What it is instead, or what cannot be said.
    verdict: Option<Kind>,
    found: String,
}

impl Test {
    fn run(&self, common: &Common) -> anyhow::Result<ExitCode> {
        let place = || self.file.display().to_string();
        let text = fs::read_to_string(&self.file).with_context(place)?;
        let Expectations { expectations } = serde_saphyr::from_str(&text).with_context(place)?;
        if expectations.is_empty() {
            bail!("{} expects nothing", place());
        }
        let rehearsal = self.state.as_deref().map(rehearse).transpose()?;
        let outcomes: Vec<Outcome> = expectations
            .into_iter()
            .map(|expected| judge(expected, rehearsal.as_ref(), &common.run_dir))
            .collect();
        match common.output {
            Format::Json => output::json(&outcomes)?,
            Format::Table => print(&outcomes)?,
        }
        let all_met = outcomes.iter().all(|outcome| outcome.met);
        Ok(if all_met {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(FAILED)
        })
    }
}

fn rehearse(directory: &Path) -> anyhow::Result<Rehearsal> {
    let rehearsal = Rehearsal::of(directory)?;
    for problem in rehearsal.problems() {
        if problem.severity >= Severity::Warning {
            eprintln!("{}: {problem}", problem.severity);
        }
    }
    Ok(rehearsal)
}

fn judge(expected: Expectation, rehearsal: Option<&Rehearsal>, run_dir: &Path) -> Outcome {
    match ask(&expected, rehearsal, run_dir) {
        Ok((verdict, reason)) => Outcome {
            met: verdict == expected.expect
                && expected.reason.as_ref().is_none_or(|wanted| *wanted == reason),
            expected,
            verdict: Some(verdict),
            found: reason,
        },
        Err(error) => Outcome {
            expected,
            met: false,
            verdict: None,
            found: format!("{error:#}"),
        },
    }
}

fn ask(
    expected: &Expectation,
    rehearsal: Option<&Rehearsal>,
    run_dir: &Path,
) -> anyhow::Result<(Kind, String)> {
    let pod = pod_name(&expected.pod).map_err(anyhow::Error::msg)?;
    let destination: Destination = expected.to.parse()?;
    if let Some(rehearsal) = rehearsal {
        let (verdict, reason) = rehearsal.ask(&pod, &destination)?;
        return Ok((verdict, reason.to_owned()));
    }
    let question = Question {
        pod,
        destination,
        live: false,
    };
    let answer: Explanation = client::ask_one(run_dir, &Request::Explain(question))?;
    Ok((answer.verdict, answer.reason))
}

fn print(outcomes: &[Outcome]) -> io::Result<()> {
    let mut table = Table::new(["", "POD", "TO", "EXPECTED", "FOUND"]);
    for outcome in outcomes {
        let Expectation {
            pod,
            to,
            expect,
            reason,
        } = &outcome.expected;
        let words = |verdict: Kind, reason: &str| format!("{verdict} {reason}").trim_end().to_owned();
        table.row([
            if outcome.met { "ok" } else { "FAILED" }.to_owned(),
            pod.clone(),
            to.clone(),
            words(*expect, reason.as_deref().unwrap_or_default()),
            outcome
                .verdict
                .map_or_else(|| outcome.found.clone(), |verdict| words(verdict, &outcome.found)),
        ]);
    }
    table.print()
}

/// Make a policy out of what a policy in audit mode would have refused, for somebody to review.
///
/// Reads what the agent of this node still knows, or a file that `sluice agent --events-file` wrote. Every pod that called
/// something outside without being a gateway gets an exception for just that.
#[derive(Debug, Args)]
pub(super) struct Suggest {
    /// A file of verdicts, one JSON object per line; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// The name of the policy.
    #[arg(long, default_value = "suggested")]
    name: String,
}

impl Suggest {
    fn run(&self, common: &Common) -> anyhow::Result<ExitCode> {
        let mut suggestion = Suggestion::default();
        match &self.events {
            Some(path) if path.as_os_str() == "-" => read(&mut suggestion, path, io::stdin().lock())?,
            Some(path) => {
                let file = File::open(path).with_context(|| path.display().to_string())?;
                read(&mut suggestion, path, BufReader::new(file))?;
            }
            None => {
                for value in client::ask(&common.run_dir, &Request::Observe(Filter::default()))? {
                    suggestion.add(&serde_json::from_value(value?)?);
                }
            }
        }
        if suggestion.is_empty() {
            eprintln!("nothing was refused that an exception could permit");
        }
        let yaml = suggestion.yaml(&self.name);
        match common.output {
            Format::Table => print!("{yaml}"),
            Format::Json => output::json(&serde_saphyr::from_str::<serde_json::Value>(&yaml)?)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn read(suggestion: &mut Suggestion, path: &Path, lines: impl BufRead) -> anyhow::Result<()> {
    for (number, line) in (1..).zip(lines.lines()) {
        let place = || format!("{}:{number}", path.display());
        let line = line.with_context(place)?;
        if !line.trim().is_empty() {
            let event: VerdictEvent = serde_json::from_str(&line)
                .with_context(|| format!("{} is no verdict as `observe -o json` prints them", place()))?;
            suggestion.add(&event);
        }
    }
    Ok(())
}
