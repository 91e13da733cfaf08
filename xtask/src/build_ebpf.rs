//! `cargo xtask build-ebpf`: from `ebpf/` to `target/bpf/sluice.o`.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{
    bpf_linker,
    shell::{self, Cmd, target},
    toolchain::Toolchain,
};

/// The target that all supported machines share: BPF in little-endian byte order.
pub(crate) const TARGET: &str = "bpfel-unknown-none";

/// Build the eBPF programs into target/bpf/sluice.o, which the next `cargo build` embeds.
///
/// The first run looks for a compiler with rust-src (rustup's, then Debian's), installs what is missing and builds
/// bpf-linker into target/tools; that takes one to three minutes, later runs a second.
#[derive(Args)]
pub(crate) struct BuildEbpf {}

impl BuildEbpf {
    pub(crate) fn run(self) -> Result<()> {
        let Self {} = self;
        let object = build()?;
        eprintln!("    {}", object.display());
        Ok(())
    }
}

/// Where the object lies that `userspace/build.rs` embeds.
pub(crate) fn object_path() -> PathBuf {
    target("bpf/sluice.o")
}

/// Builds the object and returns its path.
pub(crate) fn build() -> Result<PathBuf> {
    let toolchain = Toolchain::ensure()?;
    let linker = bpf_linker::ensure(&toolchain)?;
    shell::step(&format!("building the eBPF programs with {toolchain}"));
    for_bpf(toolchain.cargo(), "build")
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker)
        .args(["--bin", "sluice-ebpf"])
        .run()?;
    let object = object_path();
    publish(&target("bpf-build").join(TARGET).join("bpf/sluice-ebpf"), &object)?;
    Ok(object)
}

/// Makes `cargo` work over the BPF package for the BPF target; only a linker is not chosen.
pub(crate) fn for_bpf(cargo: Cmd, subcommand: &str) -> Cmd {
    // The kernel wants BTF for maps, locks and line information in the verifier's log: it is made from debug info.
    // Options are separated by the unit separator, as cargo defines for this variable.
    const FLAGS: &str = "-Cdebuginfo=2\x1f-Clink-arg=--btf";
    cargo
        // Building `core` is reserved to nightly compilers by name only.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS)
        .env("CARGO_TARGET_DIR", target("bpf-build"))
        .args([subcommand, "--package", "sluice-ebpf", "--profile", "bpf"])
        .args(["--target", TARGET, "-Zbuild-std=core"])
}

/// Copies the object to its fixed place, but only if it differs: its time of change makes cargo build the agent anew.
fn publish(built: &Path, object: &Path) -> Result<()> {
    let bytes = fs::read(built).with_context(|| format!("cannot read {}", built.display()))?;
    if fs::read(object).is_ok_and(|present| present == bytes) {
        return Ok(());
    }
    shell::create_parent(object)?;
    // Renamed into place, because a `cargo build` may be reading it. The unfinished file must not lie beside the
    // object: the agent's build watches that folder.
    let unfinished = target("bpf-build/sluice.o");
    fs::write(&unfinished, &bytes).with_context(|| format!("cannot write {}", unfinished.display()))?;
    fs::rename(&unfinished, object).with_context(|| format!("cannot write {}", object.display()))
}
