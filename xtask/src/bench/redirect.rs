//! `cargo xtask bench redirect`: what the way to the proxy costs.

use anyhow::Result;
use clap::Args;

use crate::{
    bench::{PROGRAM, build, program},
    build_ebpf, packages, shell,
};

/// What the contenders are set up with.
const TOOLS: [(&str, &str); 3] = [
    ("ip", "iproute2"),
    ("iptables-legacy-restore", "iptables"),
    ("iptables-nft-restore", "iptables"),
];

/// Measure what the way to the proxy costs: sluice beside iptables and beside a direct connection to the proxy's port.
///
/// One stream, connections per second and the duration of `connect()`, in rounds in which everybody has a turn, with a
/// proxy that only takes what it gets. Writes target/bench/redirect.json and target/bench/redirect.svg, and prints
/// which goals are met.
#[derive(Args)]
pub(crate) struct Redirect {
    /// Print JSON instead of the table.
    #[arg(long)]
    json: bool,
    /// How many times everybody is measured.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
}

impl Redirect {
    pub(crate) fn run(self) -> Result<()> {
        let Self { json, rounds } = self;
        packages::ensure(
            &TOOLS,
            "sluice is measured beside iptables, in network namespaces",
        )?;
        build_ebpf::build()?;
        build(&["sluice", PROGRAM])?;
        shell::step("measuring the way to the proxy");
        let directory = shell::target("bench");
        program()
            .env("SLUICE_BIN", shell::target("release/sluice"))
            .arg("redirect")
            .arg(&directory)
            .arg(rounds.to_string())
            .args(json.then_some("--json"))
            .run()?;
        eprintln!(
            "    written: redirect.json and redirect.svg in {}",
            directory.display()
        );
        Ok(())
    }
}
