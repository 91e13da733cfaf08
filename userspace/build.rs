//! Tells the compiler where the eBPF object to embed lies, if there is one.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// A path to an object to embed instead of `target/bpf/sluice.o`.
const OVERRIDE: &str = "SLUICE_BPF_OBJECT";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(bpf_object)");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={OVERRIDE}");

    let object = match env::var_os(OVERRIDE).filter(|path| !path.is_empty()) {
        Some(path) => named(Path::new(&path)),
        None => standard(),
    };
    if let Some(object) = object {
        println!("cargo::rustc-cfg=bpf_object");
        println!("cargo::rustc-env=SLUICE_BPF_OBJECT_PATH={}", object.display());
    }
}

/// An object that somebody asked for must be there.
fn named(path: &Path) -> Option<PathBuf> {
    match fs::canonicalize(path) {
        Ok(path) => {
            println!("cargo::rerun-if-changed={}", path.display());
            Some(path)
        }
        Err(error) => {
            println!("cargo::error={OVERRIDE} is {}: {error}", path.display());
            None
        }
    }
}

/// What `cargo xtask build-ebpf` leaves; a build without it is for checking and documentation.
fn standard() -> Option<PathBuf> {
    // As cargo says it now: this program may have been compiled in another copy of the repository.
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR")?);
    let root = package.parent()?;
    let folder = root.join("target/bpf");
    // cargo takes a watched file that does not exist for one that has always just changed, so it is the folder that
    // is watched. Where it cannot be made, the object cannot appear either.
    if fs::create_dir_all(&folder).is_ok() {
        println!("cargo::rerun-if-changed={}", folder.display());
    }
    let object = folder.join("sluice.o");
    object.exists().then_some(object)
}
