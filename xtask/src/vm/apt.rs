//! Debian packages without installing them: an `apt-get` with its own sources, lists and caches under
//! `target/vm/apt`.
//!
//! The machine's own sources, lists and packages are neither changed nor needed, and none of this asks for root. Only
//! the mirror is taken over from the machine (a company's proxy may let nothing else through), and Debian's keys are
//! those of its keyring.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::packages;
use crate::shell::{self, Cmd};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where packages come from when the machine itself has no Debian sources.
const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian/";

/// The suites that have the kernels: 6.1 is in bookworm, 6.12 in trixie, the newest in its backports.
const SUITES: [&str; 3] = ["bookworm", "trixie", "trixie-backports"];

/// The private package manager.
pub(crate) struct Apt {
    folder: PathBuf,
}

impl Apt {
    /// Prepares the private configuration. Nothing is downloaded yet.
    pub(crate) fn open() -> Result<Self> {
        packages::ensure(
            &[("dpkg-deb", "dpkg"), (KEYRING, "debian-archive-keyring")],
            "kernels for the test VM are unpacked from Debian packages and checked against Debian's keys",
        )?;
        let apt = Self {
            folder: shell::target("vm/apt"),
        };
        for name in ["lists/partial", "cache/archives/partial", "packages"] {
            let folder = apt.folder.join(name);
            fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        }
        apt.write("sources.list", &sources(&mirror()))?;
        apt.write("apt.conf", &configuration(&apt.folder))?;
        Ok(apt)
    }

    /// Fetches the lists of packages (about 20 MB), unless they are there already.
    pub(crate) fn update(&self, again: bool) -> Result<()> {
        let done = self.folder.join("updated");
        if done.exists() && !again {
            return Ok(());
        }
        self.run("apt-get", &self.folder, &["update", "--error-on=any"])
            .run_logged(
                "vm-apt-update",
                &format!("fetching Debian's package lists ({})", SUITES.join(", ")),
            )?;
        self.write("updated", "")
    }

    /// What `apt-cache` answers.
    pub(crate) fn query(&self, arguments: &[&str]) -> Result<String> {
        self.run("apt-cache", &self.folder, arguments).read()
    }

    /// Downloads packages, each given as `name=version` or `name`, and unpacks them all into `target`, which either
    /// is complete afterwards or does not exist.
    pub(crate) fn unpack(&self, packages: &[String], target: &Path) -> Result<()> {
        let name = target
            .file_name()
            .with_context(|| target.display().to_string())?
            .to_string_lossy();
        let downloads = self.folder.join("packages").join(&*name);
        let partial = target.with_file_name(format!("{name}.partial"));
        for folder in [&downloads, &partial] {
            // Left over from a run that was interrupted.
            if folder.exists() {
                fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
            }
            fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        }
        let mut arguments = vec!["download"];
        arguments.extend(packages.iter().map(String::as_str));
        self.run("apt-get", &downloads, &arguments).run_logged(
            &format!("vm-download-{name}"),
            &format!("downloading {}", packages.join(" ")),
        )?;
        let mut count = 0;
        for entry in fs::read_dir(&downloads).with_context(|| downloads.display().to_string())? {
            let package = entry.with_context(|| downloads.display().to_string())?.path();
            Cmd::new("dpkg-deb")
                .arg("-x")
                .arg(&package)
                .arg(&partial)
                .read()?;
            count += 1;
        }
        ensure!(
            count == packages.len(),
            "{count} packages came for {}",
            packages.join(" ")
        );
        fs::remove_dir_all(&downloads).with_context(|| downloads.display().to_string())?;
        decompress_modules(&partial)?;
        fs::rename(&partial, target).with_context(|| target.display().to_string())
    }

    fn run(&self, program: &str, folder: &Path, arguments: &[&str]) -> Cmd {
        // `apt-get download` writes to the current directory.
        Cmd::new("env")
            .arg("-C")
            .arg(folder)
            .args(["LC_ALL=C.UTF-8", program, "-q", "-c"])
            .arg(self.folder.join("apt.conf"))
            .args(arguments)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// The machine's own Debian mirror, if it has one.
fn mirror() -> String {
    let targets = Cmd::new("apt-get")
        .args([
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE)",
            "Created-By: Packages",
        ])
        .read()
        .unwrap_or_default();
    choose_mirror(&targets).unwrap_or_else(|| DEFAULT_MIRROR.to_owned())
}

/// Takes the first repository that is called `…/debian`: that name tells Debian's own archive from its security
/// archive and from other people's.
fn choose_mirror(targets: &str) -> Option<String> {
    let uris = targets.lines().filter_map(|line| line.split_whitespace().next());
    // A snapshot of one day has no backports of a later one.
    uris.filter(|uri| uri.starts_with("http") && !uri.contains("snapshot."))
        .find(|uri| uri.trim_end_matches('/').ends_with("/debian"))
        .map(str::to_owned)
}

fn sources(mirror: &str) -> String {
    let line = |suite: &&str| {
        format!("deb [arch=amd64 target=Packages signed-by={KEYRING}] {mirror} {suite} main\n")
    };
    SUITES.iter().map(line).collect()
}

/// The machine's own configuration stays in force (its proxy, above all), except for these.
fn configuration(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "// Hooks of the machine, for example those that clean the caches of its own apt.\n\
         #clear APT::Update::Pre-Invoke;\n\
         #clear APT::Update::Post-Invoke;\n\
         #clear APT::Update::Post-Invoke-Success;\n\
         #clear APT::Default-Release;\n\
         Dir::Etc::SourceList \"{folder}/sources.list\";\n\
         Dir::Etc::SourceParts \"/dev/null\";\n\
         Dir::Etc::Preferences \"/dev/null\";\n\
         Dir::Etc::PreferencesParts \"/dev/null\";\n\
         Dir::State \"{folder}\";\n\
         Dir::State::Lists \"{folder}/lists\";\n\
         // An empty list of installed packages: what this machine has does not matter.\n\
         Dir::State::Status \"/dev/null\";\n\
         Dir::Cache \"{folder}/cache\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::Retries \"3\";\n\
         APT::Architecture \"amd64\";\n\
         APT::Architectures \"amd64\";\n\
         // The unprivileged user that apt downloads as may not be able to reach this folder.\n\
         APT::Sandbox::User \"root\";\n"
    )
}

/// Busybox loads modules only as they come out of the compiler; newer packages have them compressed.
fn decompress_modules(folder: &Path) -> Result<()> {
    for (suffix, program, package) in [("xz", "xz", "xz-utils"), ("zst", "zstd", "zstd")] {
        let find = || {
            Cmd::new("find")
                .arg(folder)
                .args(["-name", &format!("*.ko.{suffix}")])
        };
        if find().args(["-print", "-quit"]).read()?.is_empty() {
            continue;
        }
        packages::ensure(
            &[(program, package)],
            "the modules in kernel packages are compressed",
        )?;
        shell::step("decompressing kernel modules");
        // Two at a time: it is the longest step after the download.
        let pipeline = format!(
            "find \"$1\" -name '*.ko.{suffix}' -print0 | xargs -0 -n 64 -P 2 {program} --decompress --force --quiet{}",
            // xz removes its input by itself.
            if suffix == "zst" { " --rm" } else { "" }
        );
        Cmd::new("sh").args(["-c", &pipeline, "sh"]).arg(folder).read()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_the_debian_archive_itself() {
        let targets = "https://deb.nodesource.com/node_20.x/ nodistro\n\
                       http://mirror.example/debian-security/ bookworm-security\n\
                       http://snapshot.debian.org/archive/debian/20250520T000000Z/ bookworm\n\
                       http://mirror.example/debian/ bookworm\n";
        assert_eq!(
            choose_mirror(targets).as_deref(),
            Some("http://mirror.example/debian/")
        );
        assert_eq!(choose_mirror("http://archive.ubuntu.com/ubuntu/ noble\n"), None);
    }

    #[test]
    fn every_suite_has_a_signed_line() {
        let text = sources(DEFAULT_MIRROR);
        assert_eq!(text.lines().count(), SUITES.len());
        assert!(
            text.lines()
                .all(|line| line.contains("signed-by=/usr/share/keyrings/debian"))
        );
    }
}
