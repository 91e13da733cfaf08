//! The kernels that sluice is tested on: Debian's cloud kernels, which are small and have everything a node needs.
//!
//! Which exact versions these are is asked from apt once and kept in `target/vm/kernels/chosen.json`, so that a
//! second run needs no network; `cargo xtask vm --refresh` asks again.

use std::cmp::Reverse;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::apt::Apt;
use super::lock::Lock;
use crate::shell;

/// The package that always depends on the current kernel of its suite.
const META: &str = "linux-image-cloud-amd64";

/// The oldest kernel that sluice supports, the one of current distributions, and whatever is newest.
const SERIES: [(&str, Option<[u32; 2]>); 3] =
    [("6.1", Some([6, 1])), ("6.12", Some([6, 12])), ("latest", None)];

/// A kernel that can be booted.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// `6.1`, `6.12` or `latest`: how people choose it.
    pub(crate) label: String,
    /// What `uname -r` says in the guest.
    pub(crate) release: String,
    /// The version of the Debian package.
    pub(crate) version: String,
    /// The compressed kernel.
    pub(crate) vmlinuz: PathBuf,
    /// `…/lib/modules/<release>`.
    pub(crate) modules: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Chosen {
    label: String,
    release: String,
    version: String,
}

/// All kernels, oldest first; those that are not here yet are downloaded.
pub(crate) fn all() -> Result<Vec<Kernel>> {
    SERIES.iter().map(|(label, _)| find(label)).collect()
}

/// One kernel by its label.
pub(crate) fn find(label: &str) -> Result<Kernel> {
    let _lock = Lock::take("prepare")?;
    let chosen = choose(false)?;
    match fetch(pick(&chosen, label)?) {
        Ok(kernel) => Ok(kernel),
        // A mirror drops the old package when a new one comes: then our lists are out of date.
        Err(error) => {
            eprintln!("    {error:#}\n    perhaps there is a newer one");
            fetch(pick(&choose(true)?, label)?)
        }
    }
}

/// Asks apt again which kernels there are.
pub(crate) fn refresh() -> Result<()> {
    let _lock = Lock::take("prepare")?;
    choose(true).map(drop)
}

fn pick<'a>(chosen: &'a [Chosen], label: &str) -> Result<&'a Chosen> {
    chosen
        .iter()
        .find(|kernel| kernel.label == label)
        .with_context(|| {
            let known: Vec<_> = SERIES.iter().map(|(label, _)| *label).collect();
            format!("there is no kernel {label}; known are {}", known.join(", "))
        })
}

fn choose(again: bool) -> Result<Vec<Chosen>> {
    let file = shell::target("vm/kernels/chosen.json");
    if !again && let Ok(text) = fs::read_to_string(&file) {
        return serde_json::from_str(&text)
            .with_context(|| format!("{}: remove it and try again", file.display()));
    }
    let apt = Apt::open()?;
    apt.update(again)?;
    let chosen = select(&apt.query(&["show", META])?)?;
    for Chosen {
        label,
        release,
        version,
    } in &chosen
    {
        eprintln!("    kernel {label}: {release} (Debian's {version})");
    }
    shell::create_parent(&file)?;
    fs::write(&file, serde_json::to_string_pretty(&chosen)?)
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(chosen)
}

/// Chooses from the descriptions of all versions of the meta package.
fn select(descriptions: &str) -> Result<Vec<Chosen>> {
    let mut versions: Vec<_> = descriptions.split("\n\n").filter_map(describe).collect();
    versions.sort_by_key(|(_, version)| Reverse(order(version)));
    let mut chosen = Vec::new();
    for (label, series) in SERIES {
        let matches = |version: &str| series.is_none_or(|series| order(version).starts_with(&series));
        let (release, version) = versions
            .iter()
            .find(|(_, version)| matches(version))
            .with_context(|| format!("Debian has no cloud kernel {label}"))?;
        chosen.push(Chosen {
            label: label.into(),
            release: release.clone(),
            version: version.clone(),
        });
    }
    Ok(chosen)
}

/// The kernel's release and the package's version out of one description.
fn describe(text: &str) -> Option<(String, String)> {
    let version = field(text, "Version")?;
    let release = dependencies(text).find_map(|name| {
        name.strip_prefix("linux-image-")
            .filter(|release| release.starts_with(|first: char| first.is_ascii_digit()))
    })?;
    Some((release.to_owned(), version.to_owned()))
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn dependencies(text: &str) -> impl Iterator<Item = &str> {
    let list = field(text, "Depends").unwrap_or_default();
    list.split(',').filter_map(|item| item.split_whitespace().next())
}

/// The numbers in front of a version: `6.12.107-1` is `[6, 12, 107]`.
fn order(version: &str) -> Vec<u32> {
    let numbers = version
        .split(|c: char| !c.is_ascii_digit() && c != '.')
        .next()
        .unwrap_or_default();
    numbers
        .split('.')
        .filter_map(|number| number.parse().ok())
        .collect()
}

fn fetch(chosen: &Chosen) -> Result<Kernel> {
    let folder = shell::target("vm/kernels").join(&chosen.release);
    if !folder.exists() {
        let apt = Apt::open()?;
        apt.update(false)?;
        apt.unpack(&packages(&apt, chosen)?, &folder)?;
    }
    locate(chosen, &folder).with_context(|| format!("{}: remove it and try again", folder.display()))
}

/// The image package and, since the kernel is split over several, those of the same release that it depends on.
fn packages(apt: &Apt, chosen: &Chosen) -> Result<Vec<String>> {
    let Chosen { release, version, .. } = chosen;
    let mut names = vec![format!("linux-image-{release}")];
    let mut next = 0;
    while let Some(name) = names.get(next) {
        let text = apt.query(&["show", &format!("{name}={version}")])?;
        for name in dependencies(&text).filter(|name| name.ends_with(&format!("-{release}"))) {
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
        next += 1;
    }
    Ok(names
        .into_iter()
        .map(|name| format!("{name}={version}"))
        .collect())
}

/// Finds the parts in an unpacked package: their places differ from release to release.
fn locate(chosen: &Chosen, folder: &Path) -> Result<Kernel> {
    let Chosen {
        label,
        release,
        version,
    } = chosen.clone();
    let first = |candidates: [String; 2], what: &str| -> Result<PathBuf> {
        let found = candidates
            .iter()
            .map(|path| folder.join(path))
            .find(|path| path.exists());
        found.with_context(|| format!("no {what} at {}", candidates.join(" or ")))
    };
    let modules = first(
        [
            format!("usr/lib/modules/{release}"),
            format!("lib/modules/{release}"),
        ],
        "modules",
    )?;
    ensure!(
        modules.join("kernel").is_dir(),
        "no modules in {}",
        modules.display()
    );
    let vmlinuz = first(
        [
            format!("boot/vmlinuz-{release}"),
            format!("usr/lib/modules/{release}/vmlinuz"),
        ],
        "kernel",
    )?;
    Ok(Kernel {
        label,
        release,
        version,
        vmlinuz,
        modules,
    })
}

/// The statically linked busybox that the guest starts with.
pub(crate) fn busybox() -> Result<PathBuf> {
    let _lock = Lock::take("prepare")?;
    let folder = shell::target("vm/busybox");
    if !folder.exists() {
        let apt = Apt::open()?;
        apt.update(false)?;
        apt.unpack(&["busybox-static".into()], &folder)?;
    }
    for path in ["usr/bin/busybox", "bin/busybox"] {
        if folder.join(path).exists() {
            return Ok(folder.join(path));
        }
    }
    bail!("{}: no busybox in it; remove it and try again", folder.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHOWN: &str = "Package: linux-image-cloud-amd64\nVersion: 7.2.12-1~bpo13+1\n\
        Depends: linux-base-cloud-amd64 (= 7.2.12-1~bpo13+1), linux-image-7.2.12+deb13-cloud-amd64 (= 7.2.12-1~bpo13+1)\n\n\
        Package: linux-image-cloud-amd64\nVersion: 6.1.176-1\nDepends: linux-image-6.1.0-50-cloud-amd64 (= 6.1.176-1)\n\n\
        Package: linux-image-cloud-amd64\nVersion: 6.12.107-1\nDepends: linux-image-6.12.107+deb13-cloud-amd64 (= 6.12.107-1)\n\n\
        Package: linux-image-cloud-amd64\nVersion: 6.1.9-1\nDepends: linux-image-6.1.0-9-cloud-amd64 (= 6.1.9-1)\n";

    #[test]
    fn the_newest_of_each_series_is_chosen() {
        let chosen = select(SHOWN).expect("all there");
        let releases: Vec<_> = chosen.iter().map(|kernel| kernel.release.as_str()).collect();
        assert_eq!(
            releases,
            [
                "6.1.0-50-cloud-amd64",
                "6.12.107+deb13-cloud-amd64",
                "7.2.12+deb13-cloud-amd64"
            ]
        );
    }

    #[test]
    fn a_missing_series_is_named() {
        let error = select(SHOWN.split("\n\n").next().expect("one")).expect_err("no 6.1");
        assert!(error.to_string().contains("6.1"), "{error}");
    }

    #[test]
    fn versions_are_ordered_by_number() {
        assert!(order("6.12.107-1") > order("6.12.94-1"));
        assert_eq!(order("7.2.12-1~bpo13+1"), [7, 2, 12]);
        assert_eq!(order("6.1~rc7-1"), [6, 1]);
    }
}
