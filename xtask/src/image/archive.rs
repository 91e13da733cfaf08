//! An image with one layer in an archive: the layout of the OCI image specification 1.0, and beside it the table of
//! contents that `docker load` has always read.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use anyhow::{Context as _, Result};
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use super::Arch;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// No time at all, so that the same agent makes the same image.
const CREATED: &str = "1970-01-01T00:00:00Z";

const FOLDERS: [&str; 2] = ["usr/", "usr/bin/"];
const AGENT: &str = "usr/bin/sluice";

/// Bytes that are named by their digest.
struct Blob {
    bytes: Vec<u8>,
    digest: String,
}

impl Blob {
    fn new(bytes: Vec<u8>) -> Self {
        let digest = digest(&bytes);
        Self { bytes, digest }
    }

    fn json(value: &Value) -> Result<Self> {
        Ok(Self::new(serde_json::to_vec(value)?))
    }

    fn path(&self) -> String {
        format!("blobs/sha256/{}", self.digest)
    }

    fn descriptor(&self, media_type: &str) -> Value {
        json!({
            "mediaType": media_type,
            "digest": format!("sha256:{}", self.digest),
            "size": self.bytes.len(),
        })
    }
}

fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Writes the image of this agent.
pub(super) fn write(agent: &Path, arch: Arch, name: &str, archive: &Path) -> Result<()> {
    let agent = fs::read(agent).with_context(|| format!("cannot read {}", agent.display()))?;
    let unfinished = archive.with_extension("unfinished");
    let file = File::create(&unfinished).with_context(|| format!("cannot write {}", unfinished.display()))?;
    pack(&agent, arch, name, file).with_context(|| format!("cannot write {}", unfinished.display()))?;
    fs::rename(&unfinished, archive).with_context(|| format!("cannot write {}", archive.display()))
}

fn pack(agent: &[u8], arch: Arch, name: &str, out: impl Write) -> Result<()> {
    let tar = layer(agent)?;
    let compressed = Blob::new(compress(&tar)?);
    let config = Blob::json(&config(arch, &digest(&tar)))?;
    let manifest = Blob::json(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.descriptor(CONFIG),
        "layers": [compressed.descriptor(LAYER)],
    }))?;
    let mut described = manifest.descriptor(MANIFEST);
    described["platform"] = json!({"os": "linux", "architecture": arch.name()});
    described["annotations"] = json!({
        // The one is podman's, the other containerd's.
        "org.opencontainers.image.ref.name": name,
        "io.containerd.image.name": name,
    });
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [described]});
    let docker = json!([{"Config": config.path(), "RepoTags": [name], "Layers": [compressed.path()]}]);
    let layout = json!({"imageLayoutVersion": "1.0.0"});

    let mut archive = Builder::new(out);
    add(&mut archive, "oci-layout", 0o644, &serde_json::to_vec(&layout)?)?;
    add(&mut archive, "index.json", 0o644, &serde_json::to_vec(&index)?)?;
    add(
        &mut archive,
        "manifest.json",
        0o644,
        &serde_json::to_vec(&docker)?,
    )?;
    for blob in [manifest, config, compressed] {
        add(&mut archive, &blob.path(), 0o644, &blob.bytes)?;
    }
    archive.into_inner()?.flush()?;
    Ok(())
}

/// What a container starts with.
fn config(arch: Arch, layer: &str) -> Value {
    json!({
        "created": CREATED,
        "architecture": arch.name(),
        "os": "linux",
        "config": {
            "User": "0",
            // For `kubectl exec`.
            "Env": ["PATH=/usr/bin"],
            "Entrypoint": [format!("/{AGENT}")],
            "Labels": {
                "org.opencontainers.image.title": "sluice",
                "org.opencontainers.image.version": env!("CARGO_PKG_VERSION"),
                "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
        "history": [{"created": CREATED, "created_by": "cargo xtask image"}],
    })
}

/// The files of the image.
fn layer(agent: &[u8]) -> io::Result<Vec<u8>> {
    let mut tar = Builder::new(Vec::new());
    for folder in FOLDERS {
        let mut header = header(0o755, 0);
        header.set_entry_type(EntryType::Directory);
        tar.append_data(&mut header, folder, io::empty())?;
    }
    add(&mut tar, AGENT, 0o755, agent)?;
    tar.into_inner()
}

fn compress(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut gzip = GzBuilder::new()
        .mtime(0)
        .write(Vec::new(), Compression::default());
    gzip.write_all(bytes)?;
    gzip.finish()
}

fn add(tar: &mut Builder<impl Write>, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
    tar.append_data(&mut header(mode, bytes.len() as u64), path, bytes)
}

/// Of root, and of no time.
fn header(mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_agent_makes_the_same_archive() {
        let packed = || {
            let mut bytes = Vec::new();
            pack(b"an agent", Arch::Arm64, "localhost/sluice:1", &mut bytes).expect("writing to memory");
            bytes
        };
        assert_eq!(digest(&packed()), digest(&packed()));
    }
}
