//! The examples are read as they are: every file, every object, without a word of complaint.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use sluice::source::{Directory, Loaded};

#[test]
fn every_example_is_read() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples");
    let entries = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
    let mut count = 0;
    for entry in entries {
        let path = entry?.path();
        let shown = path.display();
        let Loaded { stores, problems } = Directory::open(&path)?.load();
        ensure!(problems.is_empty(), "{shown}: {problems:?}");
        ensure!(stores.is_complete(), "{shown} is not complete");
        ensure!(
            stores.nodes.len() == 1 && !stores.pods.is_empty() && !stores.policies.is_empty(),
            "{shown} is not an example of a node with pods and a policy"
        );
        for pod in stores.pods.keys() {
            ensure!(
                stores.namespaces.contains_key(&pod.namespace),
                "{shown}: the Namespace of {pod} is missing"
            );
        }
        ensure!(path.join("README.md").is_file(), "{shown} has no README.md");
        count += 1;
    }
    ensure!(count >= 2, "there are {count} examples only");
    Ok(())
}
