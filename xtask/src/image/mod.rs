//! `cargo xtask image`: the agent as an image for clusters, made without a container engine.

mod archive;
mod binary;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

use crate::{build_ebpf, shell};

/// The name that `deploy/base` has for it.
const NAME: &str = concat!("localhost/sluice:", env!("CARGO_PKG_VERSION"));

/// Build the agent's image: an OCI archive of one file, the agent, statically linked.
///
/// `docker load`, `podman load`, `ctr images import` and `kind load image-archive` take it. The same agent always makes the
/// same archive.
#[derive(Args)]
pub(crate) struct Image {
    /// The machine that it is to run on.
    #[arg(long, value_enum, default_value_t = Arch::Amd64)]
    arch: Arch,
    /// Where to write it [default: target/image/sluice-ARCH.tar]
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The name that it has once it is loaded.
    #[arg(long, value_name = "NAME:TAG", default_value = NAME)]
    name: String,
}

/// A machine, as images name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arch {
    /// x86-64
    Amd64,
    /// aarch64
    Arm64,
}

impl Arch {
    const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }
}

impl Image {
    pub(crate) fn run(self) -> Result<()> {
        let path = self.output.unwrap_or_else(|| standard(self.arch));
        let path = std::path::absolute(&path).with_context(|| path.display().to_string())?;
        write(self.arch, &self.name, &path)?;
        eprintln!("    {}: {}", self.name, path.display());
        Ok(())
    }
}

/// The image of this machine's kind at its usual place, for the tests.
pub(crate) fn build() -> Result<PathBuf> {
    let path = standard(Arch::Amd64);
    write(Arch::Amd64, NAME, &path)?;
    Ok(path)
}

fn standard(arch: Arch) -> PathBuf {
    shell::target(format!("image/sluice-{}.tar", arch.name()))
}

fn write(arch: Arch, name: &str, path: &std::path::Path) -> Result<()> {
    build_ebpf::build()?;
    let agent = binary::build(arch)?;
    shell::step(&format!("packing {name} for {}", arch.name()));
    shell::create_parent(path)?;
    archive::write(&agent, arch, name, path)
}
