//! The archive that `cargo xtask image` makes.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use flate2::read::GzDecoder;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

/// The archive to test; `cargo xtask test` makes one.
const IMAGE: &str = "SLUICE_IMAGE";

/// An archive, unpacked.
pub(crate) struct Image {
    files: BTreeMap<String, Vec<u8>>,
}

/// What one blob says of another.
struct Descriptor(Value);

impl Image {
    pub(crate) fn open() -> Result<Self> {
        let path = std::env::var_os(IMAGE).map(PathBuf::from);
        let path = path.unwrap_or_else(|| {
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/image/sluice-amd64.tar")
        });
        let file = File::open(&path)
            .with_context(|| format!("{} (`cargo xtask image` makes it)", path.display()))?;
        let mut files = BTreeMap::new();
        for entry in tar::Archive::new(file).entries()? {
            let mut entry = entry?;
            let name = entry.path()?.to_string_lossy().into_owned();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            ensure!(
                files.insert(name.clone(), bytes).is_none(),
                "{name} is there twice"
            );
        }
        Ok(Self { files })
    }

    fn json(&self, name: &str) -> Result<Value> {
        let bytes = self
            .files
            .get(name)
            .with_context(|| format!("there is no {name}"))?;
        serde_json::from_slice(bytes).with_context(|| name.to_owned())
    }

    /// The blob, if it is what the descriptor says.
    fn blob(&self, Descriptor(descriptor): &Descriptor) -> Result<&[u8]> {
        let digest = descriptor["digest"]
            .as_str()
            .context("a descriptor without digest")?;
        let hex = digest
            .strip_prefix("sha256:")
            .context("another digest than SHA-256")?;
        let bytes = self.files.get(&format!("blobs/sha256/{hex}"));
        let bytes = bytes.with_context(|| format!("there is no blob {digest}"))?;
        assert_eq!(sha256(bytes), digest);
        assert_eq!(descriptor["size"].as_u64(), u64::try_from(bytes.len()).ok());
        Ok(bytes)
    }

    fn manifest(&self) -> Result<(Value, Value)> {
        let index = self.json("index.json")?;
        let manifests = index["manifests"].as_array().context("no manifests")?;
        ensure!(manifests.len() == 1, "{} manifests", manifests.len());
        let manifest = self.blob(&Descriptor(manifests[0].clone()))?;
        Ok((manifests[0].clone(), serde_json::from_slice(manifest)?))
    }

    fn config(&self) -> Result<Value> {
        let (_, manifest) = self.manifest()?;
        let config = self.blob(&Descriptor(manifest["config"].clone()))?;
        Ok(serde_json::from_slice(config)?)
    }

    /// The files of the image, as a tar archive.
    fn layer(&self) -> Result<Vec<u8>> {
        let (_, manifest) = self.manifest()?;
        let layers = manifest["layers"].as_array().context("no layers")?;
        ensure!(layers.len() == 1, "{} layers", layers.len());
        let mut tar = Vec::new();
        GzDecoder::new(self.blob(&Descriptor(layers[0].clone()))?).read_to_end(&mut tar)?;
        Ok(tar)
    }

    /// Unpacks the files of the image.
    pub(crate) fn unpack(&self, root: &Path) -> Result<()> {
        let tar = self.layer()?;
        tar::Archive::new(&*tar)
            .unpack(root)
            .with_context(|| root.display().to_string())
    }

    /// What a container runs if it is not told otherwise.
    pub(crate) fn entrypoint(&self) -> Result<Vec<String>> {
        Ok(serde_json::from_value(
            self.config()?["config"]["Entrypoint"].clone(),
        )?)
    }

    /// Its environment, as `NAME=value`.
    pub(crate) fn environment(&self) -> Result<Vec<String>> {
        Ok(serde_json::from_value(self.config()?["config"]["Env"].clone())?)
    }
}

fn sha256(bytes: &[u8]) -> String {
    let hex: Vec<String> = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{}", hex.concat())
}

#[test]
fn every_blob_is_what_is_said_of_it() -> Result<()> {
    let image = Image::open()?;
    assert_eq!(image.json("oci-layout")?["imageLayoutVersion"], "1.0.0");
    let (described, manifest) = image.manifest()?;
    let config = image.config()?;
    assert_eq!(described["platform"]["architecture"], config["architecture"]);
    assert_eq!(config["os"], "linux");
    assert_eq!(config["rootfs"]["diff_ids"][0], sha256(&image.layer()?).as_str());
    // The same, for older readers.
    let docker = image.json("manifest.json")?;
    let path = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap_or_default();
        format!("blobs/{}", digest.replace(':', "/"))
    };
    assert_eq!(docker[0]["Config"], path(&manifest["config"]).as_str());
    assert_eq!(docker[0]["Layers"][0], path(&manifest["layers"][0]).as_str());
    let name = &described["annotations"]["org.opencontainers.image.ref.name"];
    assert_eq!(docker[0]["RepoTags"][0], *name);
    Ok(())
}

#[test]
fn its_files_are_of_root_and_of_no_time() -> Result<()> {
    let tar = Image::open()?.layer()?;
    for entry in tar::Archive::new(&*tar).entries()? {
        let entry = entry?;
        let header = entry.header();
        let of_whom = (header.uid()?, header.gid()?, header.mtime()?, header.mode()?);
        assert_eq!(of_whom, (0, 0, 0, 0o755), "{}", entry.path()?.display());
    }
    Ok(())
}

#[test]
fn the_agent_runs_where_there_is_nothing_else() -> Result<()> {
    let image = Image::open()?;
    let root = TempDir::with_prefix("sluice-image-")?;
    image.unpack(root.path())?;
    let entrypoint = image.entrypoint()?;
    let output = Command::new("chroot")
        .arg(root.path())
        .args(entrypoint)
        .arg("--version")
        .output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        said.trim(),
        concat!("sluice ", env!("CARGO_PKG_VERSION")),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
