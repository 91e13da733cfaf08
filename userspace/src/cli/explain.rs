//! `sluice explain`

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use ebpf::DropReason;

use super::{Common, DENIED, Format, output};
use crate::{
    api::{CallFate, Destination, Explanation, Kind, Question, Request, client},
    facts::PodName,
};

/// Say what would become of a packet, and why: the rule, its object, its generation.
///
/// The answer is what the kernel does, because it is computed by the same function on the kernel's
/// own maps. Exit code 3 if the packet would be denied, or the call refused by capture before there
/// is one.
///
/// Examples:
///
///     sluice explain shop/web 203.0.113.5:443
///     sluice explain shop/web [2001:db8::5]:53/udp --live
///     sluice explain shop/web 203.0.113.5/icmp -o json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Explain {
    /// The pod, as NAMESPACE/NAME.
    #[arg(value_parser = pod_name, value_name = "NS/POD")]
    pod: PodName,
    /// The destination.
    #[arg(value_name = "IP[:PORT][/PROTO]")]
    destination: Destination,
    /// Replay the packet through the live program, too, and compare.
    #[arg(long)]
    live: bool,
}

/// Reads NAMESPACE/NAME.
pub(super) fn pod_name(text: &str) -> Result<PodName, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(PodName {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            })
        }
        Some(_) | None => Err(format!("`{text}` is no NAMESPACE/NAME")),
    }
}

impl Explain {
    pub(super) fn run(&self, common: &Common) -> anyhow::Result<ExitCode> {
        let question = Question {
            pod: self.pod.clone(),
            destination: self.destination,
            live: self.live,
        };
        let answer: Explanation = client::ask_one(&common.run_dir, &Request::Explain(question))?;
        match common.output {
            Format::Json => output::json(&answer)?,
            Format::Table => print(&answer).context("cannot print")?,
        }
        if let Some(live) = &answer.live {
            let same = live.reason == answer.reason && live.verdict == answer.verdict;
            anyhow::ensure!(
                same || live.generation != answer.generation,
                "the live program says {} ({}), the function {} ({}): this is a bug in sluice",
                live.verdict,
                live.reason,
                answer.verdict,
                answer.reason,
            );
        }
        let refused = answer
            .capture
            .as_ref()
            .is_some_and(|capture| capture.fate == CallFate::Refuse);
        Ok(match answer.verdict {
            _ if refused => ExitCode::from(DENIED),
            Kind::Deny if redirected_before(&answer) => ExitCode::SUCCESS,
            Kind::Allow | Kind::Audit | Kind::Redirect => ExitCode::SUCCESS,
            Kind::Deny => ExitCode::from(DENIED),
        })
    }
}

/// Whether a packet like this only leaves the pod if it has dodged the hooks that would have redirected its call.
fn redirected_before(answer: &Explanation) -> bool {
    let capture = answer.capture.as_ref();
    answer.reason == DropReason::Uncaptured.word()
        && capture.is_some_and(|capture| capture.fate == CallFate::Redirect)
}

fn print(answer: &Explanation) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    let word = match answer.verdict {
        Kind::Deny if redirected_before(answer) => "REDIRECTED at its socket; past that it would be denied",
        Kind::Allow => "ALLOWED",
        Kind::Deny => "DENIED",
        Kind::Redirect => "REDIRECTED",
        Kind::Audit => "ALLOWED, but audited: enforcement would deny it",
    };
    writeln!(out, "{word}: {} -> {}", answer.pod, answer.destination)?;
    writeln!(out, "  reason       {}: {}", answer.reason, answer.explanation)?;
    if let Some(capture) = &answer.capture {
        let fate = match capture.fate {
            CallFate::Redirect => "goes to the proxy",
            CallFate::Leave => "is left alone",
            CallFate::Refuse => "is refused",
        };
        writeln!(
            out,
            "  capture      {}: the call {fate} ({}: {})",
            capture.mode, capture.reason, capture.explanation
        )?;
    }
    for cause in &answer.because {
        let origin = cause
            .origin
            .as_ref()
            .map(|origin| format!(" ({origin})"))
            .unwrap_or_default();
        writeln!(out, "  because      {}{origin}: {}", cause.object, cause.says)?;
    }
    writeln!(out, "  generation   {}", answer.generation)?;
    if let Some(live) = &answer.live {
        writeln!(
            out,
            "  live program {} ({}), generation {}",
            live.verdict, live.reason, live.generation
        )?;
    }
    Ok(())
}
