//! `cargo xtask bench verdict`: what the decision on a packet costs.

use anyhow::Result;
use clap::Args;

use crate::{
    bench::{PROGRAM, build, program},
    build_ebpf, packages,
};

/// Measure what a verdict costs: ns per packet of the live program beside an empty one, by number of prefixes.
#[derive(Args)]
pub(crate) struct Verdict {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Verdict {
    pub(crate) fn run(self) -> Result<()> {
        let Self { json } = self;
        packages::ensure(
            &[("ip", "iproute2")],
            "the measurement makes a network namespace of its own",
        )?;
        build_ebpf::build()?;
        build(&[PROGRAM])?;
        program().arg("verdict").args(json.then_some("--json")).run()
    }
}
