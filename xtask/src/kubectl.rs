//! kubectl, for rendering `deploy/`: Debian's, unpacked and not installed.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::{
    shell,
    vm::{Apt, Lock},
};

/// Debian 12's own is of 2020, and its kustomize knows neither components nor folders among the resources.
const PACKAGE: &str = "kubectl";

/// Returns a kubectl, downloaded if this is the first time.
pub(crate) fn ensure() -> Result<PathBuf> {
    let _lock = Lock::take("prepare")?;
    let folder = shell::target("tools/kubectl");
    if !folder.exists() {
        shell::create_parent(&folder)?;
        let apt = Apt::open()?;
        apt.update(false)?;
        apt.unpack(&[PACKAGE.into()], &folder)?;
    }
    let program = folder.join("usr/bin/kubectl");
    ensure!(
        program.exists(),
        "there is no {}; remove {} and try again",
        program.display(),
        folder.display()
    );
    Ok(program)
}
