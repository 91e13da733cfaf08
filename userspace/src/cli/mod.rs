//! The command line: one file per verb.

mod agent;
mod bug_report;
mod check;
mod completions;
mod detach;
mod enroll;
mod explain;
mod list;
mod man;
mod observe;
mod output;
mod policy;
mod status;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, CommandFactory as _, Parser, Subcommand};

pub use output::Format;

use crate::cni;

/// The verb could not do it.
const FAILED: u8 = 1;
/// `explain`: the packet would be denied.
const DENIED: u8 = 3;

/// Leaves one way out of a Kubernetes cluster: the egress gateway.
///
/// `sluice agent` runs on every node; the other verbs ask it. Exit codes: 0 done, 1 failed, 2 usage, 3 denied
/// (`explain`).
#[derive(Debug, Parser)]
#[command(name = "sluice", version)]
struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb takes.
#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Directory of the agent's socket and lock, for root alone.
    #[arg(
        long,
        global = true,
        env = "SLUICE_RUN_DIR",
        default_value = "/run/sluice",
        value_name = "DIR"
    )]
    run_dir: PathBuf,
    /// How to print: a table for people, JSON of a stable shape for programs.
    #[arg(short, long, global = true, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Agent(Box<agent::Agent>),
    Status(status::Status),
    List(list::List),
    Explain(explain::Explain),
    Observe(observe::Observe),
    #[command(subcommand)]
    Policy(policy::Policy),
    Enroll(enroll::Enroll),
    Unenroll(enroll::Unenroll),
    Check(check::Check),
    BugReport(bug_report::BugReport),
    Detach(detach::Detach),
    Completions(completions::Completions),
    Man(man::Man),
    /// The CNI plugin, as container runtimes run it by the name sluice-cni.
    #[command(hide = true)]
    Cni,
}

/// The command line as clap has it, for whoever checks or describes it.
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Does what the command line says.
pub fn run() -> ExitCode {
    if cni::is_meant(std::env::args_os().next().as_deref()) {
        return cni::run();
    }
    let Arguments { common, verb } = Arguments::parse();
    let done = match verb {
        Verb::Agent(verb) => verb.run(common),
        Verb::Status(verb) => verb.run(&common),
        Verb::List(verb) => verb.run(&common),
        Verb::Explain(verb) => verb.run(&common),
        Verb::Observe(verb) => verb.run(&common),
        Verb::Policy(verb) => verb.run(&common),
        Verb::Enroll(verb) => verb.run(&common),
        Verb::Unenroll(verb) => verb.run(&common),
        Verb::Check(verb) => verb.run(&common),
        Verb::BugReport(verb) => verb.run(&common),
        Verb::Detach(verb) => verb.run(&common),
        Verb::Completions(verb) => verb.run(),
        Verb::Man(verb) => verb.run(),
        Verb::Cni => return cni::run(),
    };
    match done {
        Ok(code) => code,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  because: {cause}");
            }
            ExitCode::from(FAILED)
        }
    }
}

/// `sluice observe | head` is done when `head` is.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| {
            let io = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            let json = cause.downcast_ref::<serde_json::Error>();
            io.or_else(|| json.and_then(serde_json::Error::io_error_kind))
        })
        .any(|kind| kind == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Arguments::command().debug_assert();
    }
}
