//! The compiler for BPF code: any recent one that has the source of `core`, because there is no compiled `core`
//! for that target.

use std::{
    fmt,
    fs::{self, File},
    io::Read as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::{
    packages,
    shell::{self, Cmd},
};

/// The oldest compiler that the workspace allows.
const OLDEST: &str = env!("CARGO_PKG_RUST_VERSION");

/// Debian's compiler for its browsers: the only one there that is recent, and it moves together with its source.
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "rust-web-src"];
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// What that compiler calls its sysroot.
pub(crate) const DEBIAN_SYSROOT: &str = "/usr";

/// What else would do when the packages cannot be installed.
const BY_HAND: &str = "building the eBPF programs needs a Rust compiler with its source. \
    Either `rustup component add rust-src` gives one, or Debian's packages do";

/// A compiler that can build BPF code.
#[derive(Debug)]
pub(crate) struct Toolchain {
    sysroot: PathBuf,
    rustc: PathBuf,
    cargo: PathBuf,
    release: String,
    /// The major version of LLVM that it emits bitcode of.
    pub(crate) llvm_major: u32,
    /// The LLVM library that it runs on itself, so that the linker reads exactly what the compiler writes.
    pub(crate) llvm_library: PathBuf,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Rust {} of {} (LLVM {})",
            self.release,
            self.sysroot.display(),
            self.llvm_major
        )
    }
}

impl Toolchain {
    /// Finds a compiler, or installs what is missing of one.
    pub(crate) fn ensure() -> Result<Self> {
        let mut refused = Vec::new();
        let active = Candidate::active();
        let debian = Candidate::at(DEBIAN_RUSTC);
        for candidate in [&active, &debian] {
            match candidate
                .as_ref()
                .map_err(|error| anyhow!("{error:#}"))
                .and_then(Candidate::to_toolchain)
            {
                Ok(toolchain) => return Ok(toolchain),
                Err(error) => refused.push(format!("{error:#}")),
            }
        }
        eprintln!("==> no compiler here can build the eBPF programs:");
        for reason in &refused {
            eprintln!("    {reason}");
        }
        packages::install(&DEBIAN_PACKAGES, "BPF code needs a compiler with its source").context(BY_HAND)?;
        Candidate::at(DEBIAN_RUSTC)
            .and_then(|candidate| candidate.to_toolchain())
            .context(BY_HAND)
    }

    /// A command of this compiler's cargo, free of what the cargo that runs us has set.
    pub(crate) fn cargo(&self) -> Cmd {
        self.command(&self.cargo)
    }

    /// Its clippy, to be called like [`Toolchain::cargo`]: `cargo clippy` would prefer rustup's to the one that belongs
    /// to this compiler.
    pub(crate) fn cargo_clippy(&self) -> Cmd {
        self.command(&self.bin().join("cargo-clippy"))
            .env("CARGO", &self.cargo)
    }

    fn command(&self, program: &Path) -> Cmd {
        Cmd::new(program).without_cargo_env().env("RUSTC", &self.rustc)
    }

    /// The folder of its programs.
    pub(crate) fn bin(&self) -> PathBuf {
        self.sysroot.join("bin")
    }
}

/// A compiler that was found, before it is known whether it will do.
struct Candidate {
    sysroot: PathBuf,
    release: String,
    llvm_major: u32,
}

impl Candidate {
    /// The compiler that the user would get: rustup's active one, as a rule.
    fn active() -> Result<Self> {
        Self::at("rustc")
    }

    fn at(rustc: &str) -> Result<Self> {
        if shell::find_program(rustc).is_none() {
            bail!("{rustc}: not there");
        }
        let sysroot = Cmd::new(rustc).args(["--print", "sysroot"]).read()?;
        let version = Cmd::new(rustc).arg("-vV").read()?;
        let field = |name: &str| {
            version
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                .with_context(|| format!("`{rustc} -vV` does not say its {name}"))
        };
        let llvm = field("LLVM version")?;
        let major = llvm.split('.').next().unwrap_or_default();
        Ok(Self {
            sysroot: PathBuf::from(sysroot.trim()),
            release: field("release")?.to_owned(),
            llvm_major: major
                .parse()
                .with_context(|| format!("`{rustc} -vV`: LLVM version {llvm}"))?,
        })
    }

    fn to_toolchain(&self) -> Result<Toolchain> {
        let at = self.sysroot.display();
        let (rustc, cargo) = (self.sysroot.join("bin/rustc"), self.sysroot.join("bin/cargo"));
        if version(&self.release) < version(OLDEST) {
            bail!("{at}: Rust {} is older than {OLDEST}", self.release);
        }
        if !self.sysroot.join("lib/rustlib/src/rust/library/core").is_dir() {
            bail!("{at}: Rust {} without its source (rust-src)", self.release);
        }
        if !cargo.exists() {
            bail!("{at}: Rust {} without cargo", self.release);
        }
        let llvm_library = self
            .llvm_library()
            .with_context(|| format!("{at}: no shared library of LLVM {}", self.llvm_major))?;
        Ok(Toolchain {
            sysroot: self.sysroot.clone(),
            rustc,
            cargo,
            release: self.release.clone(),
            llvm_major: self.llvm_major,
            llvm_library,
        })
    }

    /// The library is enough to build the linker with: its headers are not used, so no `-dev` package is needed.
    fn llvm_library(&self) -> Option<PathBuf> {
        let major = self.llvm_major;
        let triplet = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
        let folders = [
            self.sysroot.join("lib"),
            PathBuf::from(format!("/usr/lib/llvm-{major}/lib")),
            PathBuf::from(triplet),
        ];
        folders.iter().find_map(|folder| {
            let mut names: Vec<_> = fs::read_dir(folder)
                .ok()?
                .flatten()
                .map(|entry| entry.path())
                .collect();
            names.sort_unstable();
            names
                .into_iter()
                .find(|path| is_llvm_library(path, major))
                .and_then(|path| path.canonicalize().ok())
        })
    }
}

fn is_llvm_library(path: &Path, major: u32) -> bool {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
        return false;
    };
    let of_major = [format!("libLLVM.so.{major}"), format!("libLLVM-{major}")];
    if !of_major.iter().any(|start| name.starts_with(start)) {
        return false;
    }
    // rustup has a linker script beside the library, under the more obvious name.
    let mut magic = [0; 4];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut magic))
        .is_ok()
        && magic == *b"\x7fELF"
}

fn version(text: &str) -> Vec<u32> {
    let digits = text.split('-').next().unwrap_or_default();
    digits.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}
