//! The measurements of `cargo xtask bench`, one per module.

mod program;
mod redirect;
mod source;
mod verdict;

use std::{path::Path, process::ExitCode};

use anyhow::{Context as _, Result, bail};

const USAGE: &str = "usage: sluice-bench verdict [--json]
       sluice-bench redirect DIRECTORY ROUNDS [--json]
       sluice-bench source [--json]";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let json = arguments.pop_if(|last| *last == "--json").is_some();
    match arguments.as_slice() {
        ["verdict"] => verdict::run(json),
        ["source"] => source::run(json),
        ["redirect", directory, rounds] => {
            let rounds = rounds
                .parse()
                .with_context(|| format!("{rounds} is no number of rounds"))?;
            redirect::run(Path::new(directory), rounds, json)
        }
        _ => bail!(USAGE),
    }
}
