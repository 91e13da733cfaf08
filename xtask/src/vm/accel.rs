//! Whether this machine's KVM can be used.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::kernels::Kernel;
use super::qemu::Accelerator;
use super::{Job, boot};
use crate::shell;

/// `kvm` or `tcg` in this variable decides without a trial.
const OVERRIDE: &str = "SLUICE_VM_ACCEL";

/// A guest that KVM runs is up in less than two seconds; one that it does not run is never up.
const PATIENCE: Duration = Duration::from_secs(15);

/// KVM if it works, and the translator otherwise. `/dev/kvm` may be there and not work (in a virtual machine whose
/// host does not nest them), so it is tried with a real boot; the answer is kept until this machine boots anew.
pub(super) fn choose(kernel: &Kernel) -> Result<Accelerator> {
    match std::env::var(OVERRIDE).as_deref() {
        Ok("kvm") => return Ok(Accelerator::Kvm),
        Ok("tcg") => return Ok(Accelerator::Tcg),
        Ok(other) => bail!("{OVERRIDE}={other}: expected kvm or tcg"),
        Err(_) => {}
    }
    if fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_err()
    {
        return Ok(Accelerator::Tcg);
    }
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let memory = shell::target("vm/kvm");
    let known = fs::read_to_string(&memory).unwrap_or_default();
    if let Some((id, answer)) = known.split_once(' ')
        && id == boot_id.trim()
    {
        return Ok(if answer.trim() == "works" {
            Accelerator::Kvm
        } else {
            Accelerator::Tcg
        });
    }
    shell::step("trying whether KVM works here");
    let trial = boot(&trial(kernel), Accelerator::Kvm);
    let works = trial.is_ok_and(|outcome| outcome.exit_code == 0);
    let answer = if works { "works" } else { "fails" };
    eprintln!(
        "    it {answer}{}",
        if works {
            ""
        } else {
            ": machines are emulated instead"
        }
    );
    fs::write(&memory, format!("{} {answer}", boot_id.trim()))
        .with_context(|| format!("cannot write {}", memory.display()))?;
    Ok(if works { Accelerator::Kvm } else { Accelerator::Tcg })
}

const fn trial(kernel: &Kernel) -> Job<'_> {
    Job {
        name: "kvm-trial",
        kernel,
        programs: &[],
        tools: &[],
        files: &[],
        command: &["true"],
        env: &[],
        timeout: PATIENCE,
        memory_mib: 512,
        prefix: None,
    }
}
