//! `bpf-linker`, which turns the compiler's LLVM bitcode into a BPF object.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    shell::{Cmd, target},
    toolchain::Toolchain,
};

const VERSION: &str = "0.13.0";

/// The majors of LLVM that this version of bpf-linker has a feature for.
const LLVM_MAJORS: std::ops::RangeInclusive<u32> = 21..=23;

/// Returns the linker that reads what `toolchain` writes, built if this is the first time.
pub(crate) fn ensure(toolchain: &Toolchain) -> Result<PathBuf> {
    let major = toolchain.llvm_major;
    if !LLVM_MAJORS.contains(&major) {
        bail!(
            "bpf-linker {VERSION} can use LLVM {} to {}, but the compiler is {toolchain}",
            LLVM_MAJORS.start(),
            LLVM_MAJORS.end(),
        );
    }
    let home = target("tools/bpf-linker");
    let linker = home.join("bin/bpf-linker");
    let stamp = home.join("built-for");
    let wanted = format!("bpf-linker {VERSION} with {}\n", toolchain.llvm_library.display());
    // The run finds a library that is gone or a target folder that was moved.
    let built = fs::read_to_string(&stamp).is_ok_and(|found| found == wanted);
    if built && Cmd::new(&linker).arg("--version").read().is_ok() {
        return Ok(linker);
    }

    let prefix = llvm_prefix(&home, &toolchain.llvm_library)?;
    let scratch = target("tools/build");
    let install = toolchain
        .cargo()
        .env("LLVM_PREFIX", prefix)
        .env("CARGO_TARGET_DIR", &scratch)
        .args([
            "install",
            "bpf-linker",
            "--locked",
            "--force",
            "--version",
            VERSION,
        ])
        .args(["--no-default-features", "--features", &format!("llvm-{major}")])
        .arg("--root")
        .arg(&home);
    install.run_logged(
        "bpf-linker",
        &format!("building bpf-linker {VERSION} for LLVM {major} (once, about 1 minute)"),
    )?;
    Cmd::new(&linker)
        .arg("--version")
        .read()
        .context("the bpf-linker just built does not run")?;
    fs::write(&stamp, wanted).with_context(|| format!("cannot write {}", stamp.display()))?;
    // Nothing will be built from these again; left behind because of a failure, they make the next attempt shorter.
    fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    Ok(linker)
}

/// A folder of the shape that bpf-linker's build expects, `lib/libLLVM.so`, without any development package.
fn llvm_prefix(home: &Path, library: &Path) -> Result<PathBuf> {
    let prefix = home.join("llvm");
    let lib = prefix.join("lib");
    if lib.exists() {
        fs::remove_dir_all(&lib).with_context(|| format!("cannot remove {}", lib.display()))?;
    }
    fs::create_dir_all(&lib).with_context(|| format!("cannot create {}", lib.display()))?;
    let soname = library.file_name().context("the LLVM library has no name")?;
    // One name to link with, the other to load with.
    for name in ["libLLVM.so".as_ref(), soname] {
        let link = lib.join(name);
        if !link.exists() {
            symlink(library, &link).with_context(|| format!("cannot create {}", link.display()))?;
        }
    }
    Ok(prefix)
}
