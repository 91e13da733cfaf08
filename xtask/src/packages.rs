//! Distribution packages, installed when a verb needs them and not before.

use anyhow::{Context as _, Result, bail};

use crate::shell::{self, Cmd};

/// Makes sure that every program (looked up in `PATH`) or path (with a slash) of `needs` is there, and installs the
/// package beside those that are not. `why` completes the sentence "needed because …".
pub(crate) fn ensure(needs: &[(&str, &str)], why: &str) -> Result<()> {
    let missing = missing(needs);
    if missing.is_empty() {
        return Ok(());
    }
    let probes: Vec<_> = missing.iter().map(|(probe, _)| *probe).collect();
    let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();

    install(
        &packages,
        &format!("{} not found, needed because {why}", probes.join(", ")),
    )?;

    match self::missing(needs).as_slice() {
        [] => Ok(()),
        [(probe, package), ..] => bail!("package {package} is installed but does not bring {probe}"),
    }
}

/// Installs Debian packages after saying which and why; an error lists the commands that were to be run.
pub(crate) fn install(packages: &[&str], reason: &str) -> Result<()> {
    let names = packages.join(" ");
    let by_hand = format!(
        "run this yourself, then try again:\n\n    sudo apt-get update\n    sudo apt-get install --no-install-recommends {names}\n"
    );
    if shell::find_program("apt-get").is_none() {
        bail!(
            "{reason}, and this is no Debian: there is no apt-get. Install what corresponds to the Debian packages\n\n    {names}\n"
        );
    }
    if !shell::is_root() && shell::find_program("sudo").is_none() {
        bail!("{reason}. Packages need root, and there is no sudo: {by_hand}");
    }
    eprintln!("==> {reason}\n    installing: {names}");
    // A mirror of something else that does not answer fails the update as a whole; whether the package can be had
    // nevertheless is for the installation to say.
    if let Err(error) = apt_get(&["update"]).run_logged("apt-update", "apt-get update") {
        eprintln!("    {error:#}\n    going on with the package lists that there are");
    }
    // --no-remove: whatever conflicts with something installed is the owner's decision, not ours.
    apt_get(&["install", "--yes", "--no-install-recommends", "--no-remove"])
        .args(packages)
        .run_logged("apt-install", &format!("apt-get install {names}"))
        .with_context(|| format!("{reason}. It could not be installed; {by_hand}"))
}

fn missing<'a>(needs: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    needs
        .iter()
        .copied()
        .filter(|(probe, _)| shell::find_program(probe).is_none())
        .collect()
}

fn apt_get(arguments: &[&str]) -> Cmd {
    let environment = [
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "LC_ALL=C.UTF-8",
        "apt-get",
    ];
    let command = if shell::is_root() {
        Cmd::new(environment[0])
    } else {
        Cmd::new("sudo").arg(environment[0])
    };
    // Another apt-get may be at work on a machine that is still being set up.
    command
        .args(&environment[1..])
        .args(["-o", "DPkg::Lock::Timeout=300"])
        .args(arguments)
}
