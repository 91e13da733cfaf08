//! `cargo xtask bench source`: what a large cluster costs the agent.

use anyhow::Result;
use clap::Args;

use crate::{
    bench::{PROGRAM, build, program},
    build_ebpf, packages, shell,
};

/// Measure what a large cluster costs the agent: time until all of it is known, time for one change, memory.
#[derive(Args)]
pub(crate) struct Source {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl Source {
    pub(crate) fn run(self) -> Result<()> {
        let Self { json } = self;
        packages::ensure(&[("ip", "iproute2")], "the measurement makes a node of its own")?;
        build_ebpf::build()?;
        build(&["sluice", PROGRAM])?;
        program()
            .env("SLUICE_BIN", shell::target("release/sluice"))
            .arg("source")
            .args(json.then_some("--json"))
            .run()
    }
}
