//! The demonstration: a cluster of one node on network namespaces, with an egress gateway that is a real Envoy, and
//! one way out of it; then another one whose pods are captured by proxies. `cargo xtask demo` prepares what it needs and runs it.

mod capture;
mod dns;
mod judge;
mod probe;
mod show;
mod stage;
mod standing;
mod table;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{SigSet, Signal};

use crate::{
    stage::{Ingredients, Stage},
    standing::Standing,
};

const USAGE: &str =
    "usage: sluice-demo ENVOY CERTIFICATES EXAMPLES RECORD [--keep]\n       sluice-demo --clean RECORD";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["--clean", record] => standing::clear(record.as_ref()).map(|()| true),
        [envoy, certificates, examples, record, rest @ ..] if rest.is_empty() || rest == ["--keep"] => {
            let ingredients = Ingredients {
                envoy: PathBuf::from(envoy),
                certificates: PathBuf::from(certificates),
                example: Path::new(examples).join("egress-gateway"),
                sidecar: Path::new(examples).join("sidecar-excluded-range"),
            };
            demonstrate(&ingredients, record.as_ref(), !rest.is_empty())
        }
        _ => bail!(USAGE),
    }
}

fn demonstrate(ingredients: &Ingredients, record: &Path, keep: bool) -> Result<bool> {
    // Before there is another thread: all of them inherit it, and children do not.
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    signals.thread_block().context("blocking signals")?;
    standing::clear(record)?;
    let interrupted = watch(signals);

    let mut standing = Standing::begin(record)?;
    let shown = perform(ingredients, &mut standing, keep, &interrupted);
    standing.end()?;
    shown
}

/// Builds the stage, plays, and takes everything down.
fn perform(
    ingredients: &Ingredients,
    standing: &mut Standing,
    keep: bool,
    interrupted: &AtomicBool,
) -> Result<bool> {
    let mut stage = Stage::build(ingredients)?;
    standing.remember(stage.folders())?;
    let (mut table, late) = show::play(&mut stage, interrupted)?;
    // An emulated machine has little memory; what is to be looked at later stays.
    let kept = keep.then_some((late, stage));
    capture::play(ingredients, standing, &mut table, interrupted)?;
    let as_expected = table.conclude();
    if let Some((_late, stage)) = &kept {
        standing::print_guide(stage);
        standing.announce(as_expected)?;
        while !interrupted.load(Ordering::Relaxed) {
            thread::park();
        }
    }
    Ok(as_expected)
}

/// Turns a signal into a word, so that everything is taken down in order.
fn watch(signals: SigSet) -> Arc<AtomicBool> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let ours = Arc::clone(&interrupted);
    let main = thread::current();
    thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            // Nobody's terminal is needed any more.
            if signal != Signal::SIGHUP {
                ours.store(true, Ordering::Relaxed);
                main.unpark();
            }
        }
    });
    interrupted
}
