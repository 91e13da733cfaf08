//! A short run of each fuzz target, from its seeds.

use std::{
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};

use super::tally::{Counts, Tally};
use crate::{
    packages,
    shell::{self, Cmd},
};

const TARGETS: [&str; 2] = ["frame", "decision"];
const SECONDS: u32 = 10;

/// Runs every target; what it finds beyond the seeds stays in `target/fuzz`.
pub(super) fn run(tally: &mut Tally) -> Result<()> {
    packages::ensure(&[("c++", "g++")], "libFuzzer is written in C++")?;
    let folder = shell::root().join("tests/fuzz");
    let target = shell::target("fuzz");
    shell::cargo()
        .in_folder(&folder)
        .env("CARGO_TARGET_DIR", &target)
        .args(["build", "--release", "--locked"])
        .run_logged("fuzz-build", "building the fuzz targets")?;
    for name in TARGETS {
        let found = target.join("corpus").join(name);
        fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
        // Another one each time; libFuzzer prints it, so a finding can be had again.
        let seed = SystemTime::now()
            .duration_since(UNIX_EPOCH)?
            .subsec_nanos()
            .max(1);
        let ran = Cmd::new(program(name)?)
            .in_folder(&target)
            .args([format!("-max_total_time={SECONDS}"), format!("-seed={seed}")])
            .args([found, folder.join("corpus").join(name)])
            .run_logged(
                &format!("fuzz-{name}"),
                &format!("fuzzing {name} for {SECONDS} s"),
            );
        let passed = u64::from(ran.is_ok());
        if let Err(error) = ran {
            eprintln!("{error:#}");
        }
        tally.add(
            "this machine",
            &format!("fuzz/{name}"),
            Counts {
                passed,
                failed: 1 - passed,
                ignored: 0,
                duration: Duration::from_secs(SECONDS.into()),
            },
        );
    }
    Ok(())
}

/// cargo names the folder after the machine, because the configuration names the target.
fn program(name: &str) -> Result<std::path::PathBuf> {
    let version = shell::rustc().arg("-vV").read()?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .context("`rustc -vV` names no host")?;
    Ok(shell::target("fuzz").join(host).join("release").join(name))
}
