//! What `sluice enroll` has enrolled, kept in a file, so that the next agent knows it too.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::{enrolled::Enrolled, whole_file};

/// The enrolled network namespaces.
#[derive(Debug)]
pub(super) struct Enrolments {
    file: PathBuf,
    held: Vec<Enrolled>,
}

impl Enrolments {
    /// Reads what the last agent has left in the run directory.
    pub(super) fn open(run_dir: &Path) -> anyhow::Result<Self> {
        let file = run_dir.join("enrolled.json");
        let held = whole_file::read(&file).with_context(|| {
            format!(
                "cannot read {}; what is enrolled must not be forgotten",
                file.display()
            )
        })?;
        Ok(Self {
            file,
            held: held.unwrap_or_default(),
        })
    }

    /// All of them.
    pub(super) fn all(&self) -> &[Enrolled] {
        &self.held
    }

    /// Adds one, or changes how it is captured. Returns what was there before.
    pub(super) fn add(&mut self, enrolled: Enrolled) -> anyhow::Result<Option<Enrolled>> {
        let (before, mut others) = self.without(&enrolled.netns);
        others.push(enrolled);
        self.replace(others)?;
        Ok(before)
    }

    /// Takes one away.
    pub(super) fn remove(&mut self, netns: &Path) -> anyhow::Result<Enrolled> {
        let (Some(enrolled), others) = self.without(netns) else {
            let known = self.held.iter().map(|known| known.netns.display().to_string());
            let known: Vec<_> = known.collect();
            let known = if known.is_empty() {
                "nothing".to_owned()
            } else {
                known.join(", ")
            };
            bail!("{} is not enrolled (enrolled is {known})", netns.display());
        };
        self.replace(others)?;
        Ok(enrolled)
    }

    /// The one at this path, and the others.
    fn without(&self, netns: &Path) -> (Option<Enrolled>, Vec<Enrolled>) {
        let held = self.held.iter().cloned();
        let (mut found, others): (Vec<_>, Vec<_>) = held.partition(|enrolled| enrolled.netns == netns);
        (found.pop(), others)
    }

    /// What could not be written down does not count.
    fn replace(&mut self, held: Vec<Enrolled>) -> anyhow::Result<()> {
        whole_file::write(&self.file, &held)
            .with_context(|| format!("cannot write {}", self.file.display()))?;
        self.held = held;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::enrolled::Mode;

    #[test]
    fn the_next_agent_knows_them() {
        let dir = tempfile::tempdir().expect("a directory");
        let enrolled = Enrolled {
            netns: "/run/netns/a".into(),
            mode: Mode::InPod,
            name: None,
            proxy_cgroups: vec!["/sys/fs/cgroup/proxy".into()],
        };
        let mut first = Enrolments::open(dir.path()).expect("an empty directory");
        assert_eq!(first.add(enrolled.clone()).expect("it can be written"), None);
        let mut next = Enrolments::open(dir.path()).expect("what the first has written");
        assert_eq!(next.all(), std::slice::from_ref(&enrolled));
        assert_eq!(next.remove(&enrolled.netns).expect("it is there"), enrolled);
        let error = next
            .remove(Path::new("/run/netns/b"))
            .expect_err("it is not there");
        assert!(
            error
                .to_string()
                .contains("is not enrolled (enrolled is nothing)"),
            "{error}"
        );
        assert!(
            Enrolments::open(dir.path())
                .expect("an empty list")
                .all()
                .is_empty()
        );
    }

    #[test]
    fn what_cannot_be_written_down_is_not_enrolled() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut enrolments = Enrolments::open(dir.path()).expect("an empty directory");
        let enrolled = Enrolled {
            netns: "/run/netns/a".into(),
            mode: Mode::InPod,
            name: None,
            proxy_cgroups: Vec::new(),
        };
        dir.close().expect("it can be removed");
        enrolments.add(enrolled).expect_err("there is no directory");
        assert!(enrolments.all().is_empty());
    }
}
