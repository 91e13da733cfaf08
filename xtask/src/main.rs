//! The tasks of the project: `cargo xtask --help` lists them.

mod bpf_linker;
mod build_ebpf;
mod lint;
mod packages;
mod shell;
mod toolchain;
mod vm;

use std::process::ExitCode;

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
    Lint(lint::Lint),
    Vm(vm::Vm),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::BuildEbpf(verb) => verb.run(),
        Verb::Lint(verb) => verb.run(),
        // The exit code of what ran in the machine is the answer.
        Verb::Vm(verb) => match verb.run() {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
    };
    let Err(error) = done else {
        return ExitCode::SUCCESS;
    };
    // Not by returning it: whoever has RUST_BACKTRACE set would look for the cause among our own frames.
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  because: {cause}");
    }
    ExitCode::FAILURE
}
