//! The tasks of the project: `cargo xtask --help` lists them.

mod bench;
mod bpf_linker;
mod build_ebpf;
mod certificates;
mod crds;
mod demo;
mod envoy;
mod image;
mod kubectl;
mod lint;
mod packages;
mod shell;
mod test;
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
    Bench(bench::Bench),
    BuildEbpf(build_ebpf::BuildEbpf),
    Crds(crds::Crds),
    Demo(demo::Demo),
    Image(image::Image),
    Lint(lint::Lint),
    Test(test::Test),
    Vm(vm::Vm),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Bench(verb) => verb.run().map(|()| ExitCode::SUCCESS),
        Verb::BuildEbpf(verb) => verb.run().map(|()| ExitCode::SUCCESS),
        Verb::Crds(verb) => verb.run().map(|()| ExitCode::SUCCESS),
        Verb::Demo(verb) => verb.run(),
        Verb::Image(verb) => verb.run().map(|()| ExitCode::SUCCESS),
        Verb::Lint(verb) => verb.run().map(|()| ExitCode::SUCCESS),
        Verb::Test(verb) => verb.run(),
        Verb::Vm(verb) => verb.run(),
    };
    let error = match done {
        Ok(code) => return code,
        Err(error) => error,
    };
    // Not by returning it: whoever has RUST_BACKTRACE set would look for the cause among our own frames.
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  because: {cause}");
    }
    ExitCode::FAILURE
}
