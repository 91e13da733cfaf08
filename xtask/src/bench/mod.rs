//! `cargo xtask bench`: what things cost, both sides measured in one run.

mod redirect;
mod source;
mod verdict;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::shell;

/// The program that measures.
const PROGRAM: &str = "sluice-bench";

/// Measure what things cost, both sides in one run.
///
/// Needs root; works in network namespaces of its own.
#[derive(Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    Verdict(verdict::Verdict),
    Redirect(redirect::Redirect),
    Source(source::Source),
}

impl Bench {
    pub(crate) fn run(self) -> Result<()> {
        match self.what {
            What::Verdict(verb) => verb.run(),
            What::Redirect(verb) => verb.run(),
            What::Source(verb) => verb.run(),
        }
    }
}

/// Builds binaries as they are released.
fn build(binaries: &[&str]) -> Result<()> {
    let named = binaries.iter().flat_map(|binary| ["--bin", binary]);
    shell::cargo()
        // A fixed place, whatever the environment says.
        .env("CARGO_TARGET_DIR", shell::target(""))
        .args([
            "build",
            "--release",
            "--package",
            "sluice",
            "--package",
            "sluice-tests",
        ])
        .args(named)
        .run()
}

/// The program that [`build`] has built.
fn program() -> shell::Cmd {
    shell::Cmd::new(shell::target("release").join(PROGRAM))
}
