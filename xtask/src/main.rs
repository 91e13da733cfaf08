//! The tasks of the project: `cargo xtask --help` lists them.

mod bpf_linker;
mod build_ebpf;
mod packages;
mod shell;
mod toolchain;

use clap::{Parser, Subcommand};

/// Everything that is done to sluice: building, checking, showing, measuring.
///
/// What a verb needs and does not find it installs: tools into `target/tools`, distribution packages
/// with apt-get after saying which and why. A fresh clone needs no preparation.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    BuildEbpf(build_ebpf::BuildEbpf),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().verb {
        Verb::BuildEbpf(verb) => verb.run(),
    }
}
