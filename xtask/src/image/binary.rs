//! The agent without shared libraries, so that an image needs nothing else.

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use super::Arch;
use crate::{packages, shell};

/// A compiler's name of a machine, with what it takes to link for it.
struct Target {
    triple: &'static str,
    /// As rustc calls the machine that it runs on.
    machine: &'static str,
    /// For another machine than this.
    linker: &'static str,
    /// What has to be there, and Debian's package of it.
    needs: &'static [(&'static str, &'static str)],
}

impl Arch {
    const fn target(self) -> Target {
        match self {
            Self::Amd64 => Target {
                triple: "x86_64-unknown-linux-gnu",
                machine: "x86_64",
                linker: "x86_64-linux-gnu-gcc",
                needs: &[
                    ("x86_64-linux-gnu-gcc", "gcc-x86-64-linux-gnu"),
                    ("/usr/lib/x86_64-linux-gnu/libc.a", "libc6-dev"),
                ],
            },
            Self::Arm64 => Target {
                triple: "aarch64-unknown-linux-gnu",
                machine: "aarch64",
                linker: "aarch64-linux-gnu-gcc",
                needs: &[
                    ("aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu"),
                    ("/usr/aarch64-linux-gnu/lib/libc.a", "libc6-dev-arm64-cross"),
                ],
            },
        }
    }
}

/// Builds it and returns its path.
pub(super) fn build(arch: Arch) -> Result<PathBuf> {
    let Target {
        triple,
        machine,
        linker,
        needs,
    } = arch.target();
    let sysroot = shell::rustc().args(["--print", "sysroot"]).read()?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib").join(triple);
    ensure!(
        library.is_dir(),
        "{} is not there: this compiler has no standard library for {triple}; `rustup target add {triple}` brings it",
        library.display()
    );
    packages::ensure(needs, "the agent of an image is linked statically")?;
    shell::step(&format!("building the agent for {triple}, static, for release"));
    let folder = shell::target("image");
    let variable = triple.replace('-', "_").to_uppercase();
    let mut cargo = shell::cargo().env("CARGO_TARGET_DIR", &folder);
    if machine != std::env::consts::ARCH {
        cargo = cargo.env(format!("CARGO_TARGET_{variable}_LINKER"), linker);
    }
    cargo
        // Of the target alone: procedural macros are shared libraries.
        .env(
            format!("CARGO_TARGET_{variable}_RUSTFLAGS"),
            "-Ctarget-feature=+crt-static",
        )
        .args(["rustc", "--package", "sluice", "--bin", "sluice", "--release"])
        .args(["--target", triple, "--", "-Cstrip=debuginfo"])
        .run()?;
    Ok(folder.join(triple).join("release/sluice"))
}
