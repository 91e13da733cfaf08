//! `cargo xtask bench`: what things cost, both sides measured in one run.

use anyhow::Result;
use clap::Args;

use crate::{build_ebpf, packages, shell};

/// Measure what a verdict costs: ns per packet of the live program beside an empty one, by number of prefixes.
///
/// Needs root; works in a network namespace of its own.
#[derive(Args)]
pub(crate) struct Bench {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Bench {
    pub(crate) fn run(self) -> Result<()> {
        let Self { json } = self;
        packages::ensure(
            &[("ip", "iproute2")],
            "the measurement makes a network namespace of its own",
        )?;
        build_ebpf::build()?;
        shell::cargo()
            .args([
                "build",
                "--release",
                "--package",
                "sluice-tests",
                "--bin",
                "sluice-bench",
            ])
            .run()?;
        shell::Cmd::new(shell::target("release/sluice-bench"))
            .args(json.then_some("--json"))
            .run()
    }
}
