//! The examples are read as they are: every file, every object, without a word of complaint.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use sluice::source::{Directory, Loaded};
use sluice_tests::example::{Example, stem, yaml_files};

/// The examples, and their variants.
fn examples() -> Result<Vec<(PathBuf, &'static str)>> {
    const VARIANTS: [&str; 3] = ["http", "tls-passthrough", "tls-origination"];
    let folder = Example::folder();
    let mut examples = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.ends_with("classic-egress-gateway") {
            examples.extend(VARIANTS.map(|variant| (path.clone(), variant)));
        } else if path.is_dir() {
            examples.push((path, ""));
        }
    }
    ensure!(examples.len() >= 7, "there are {} examples only", examples.len());
    Ok(examples)
}

#[test]
fn every_example_is_read() -> Result<()> {
    for (path, variant) in examples()? {
        let shown = format!("{} {variant}", path.display());
        let example = Example::open(&path, variant)?;
        let state = tempfile::TempDir::new()?;
        let node = Example::folder().join("node.yaml");
        let mut names = BTreeSet::new();
        for file in example.applied.iter().chain(&example.besides).chain([&node]) {
            ensure!(
                names.insert(stem(file)?.to_owned()),
                "{shown}: two files are called {}, and are copied into one folder",
                file.display()
            );
            let to = state
                .path()
                .join(file.file_name().context("a file without a name")?);
            fs::copy(file, to).with_context(|| file.display().to_string())?;
        }
        let Loaded { stores, problems } = Directory::open(state.path())?.load();
        ensure!(problems.is_empty(), "{shown}: {problems:?}");
        ensure!(stores.is_complete(), "{shown} is not complete");
        ensure!(
            stores.nodes.len() == 1 && !stores.pods.is_empty() && stores.policies.len() == 1,
            "{shown} is not an example of a node with pods and a policy"
        );
        for pod in stores.pods.keys() {
            ensure!(
                stores.namespaces.contains_key(&pod.namespace),
                "{shown}: the Namespace of {pod} is missing"
            );
        }
        example.readme()?;
    }
    Ok(())
}

/// A file that is not in the kustomization would be read by an agent and not by a cluster.
#[test]
fn every_file_is_in_the_kustomization() -> Result<()> {
    for (path, variant) in examples()? {
        let named = Example::open(&path, variant)?.applied;
        let named: BTreeSet<PathBuf> = named.iter().map(|file| canonical(file)).collect::<Result<_>>()?;
        for folder in ["", "base", variant] {
            for file in yaml_files(&path.join(folder))? {
                ensure!(
                    named.contains(&canonical(&file)?),
                    "no kustomization names {}",
                    file.display()
                );
            }
        }
    }
    Ok(())
}

/// What is for a directory is not for a cluster, which has nodes and pods of its own.
#[test]
fn no_cluster_is_told_of_pods_or_nodes() -> Result<()> {
    for (path, variant) in examples()? {
        for file in Example::open(&path, variant)?.applied {
            let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
            let made_by_a_cluster = ["kind: Node", "kind: Pod"];
            let found = text.lines().find(|line| made_by_a_cluster.contains(line));
            ensure!(found.is_none(), "{}: {found:?}", file.display());
        }
    }
    Ok(())
}

fn canonical(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).with_context(|| path.display().to_string())
}
