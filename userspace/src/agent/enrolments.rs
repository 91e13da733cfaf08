//! What `sluice enroll` has enrolled, kept in a file, so that the next agent knows it too.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};

use crate::enrolled::Enrolled;

/// The enrolled network namespaces, by path.
#[derive(Debug)]
pub(super) struct Enrolments {
    file: PathBuf,
    held: BTreeMap<PathBuf, Enrolled>,
}

impl Enrolments {
    /// Reads what the last agent has left in the run directory.
    pub(super) fn open(run_dir: &Path) -> anyhow::Result<Self> {
        let file = run_dir.join("enrolled.json");
        let held: Vec<Enrolled> = match fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| {
                format!(
                    "cannot read {}; what is enrolled must not be forgotten",
                    file.display()
                )
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
        };
        let held = held
            .into_iter()
            .map(|enrolled| (enrolled.netns.clone(), enrolled))
            .collect();
        Ok(Self { file, held })
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Enrolled> {
        self.held.values().cloned().collect()
    }

    /// Adds one, or changes how it is captured. Returns what was there before.
    pub(super) fn add(&mut self, enrolled: Enrolled) -> anyhow::Result<Option<Enrolled>> {
        let before = self.held.insert(enrolled.netns.clone(), enrolled);
        self.write()?;
        Ok(before)
    }

    /// Takes one away.
    pub(super) fn remove(&mut self, netns: &Path) -> anyhow::Result<Enrolled> {
        let Some(enrolled) = self.held.remove(netns) else {
            let known: Vec<_> = self.held.keys().map(|path| path.display().to_string()).collect();
            let known = if known.is_empty() {
                "nothing".to_owned()
            } else {
                known.join(", ")
            };
            bail!("{} is not enrolled (enrolled is {known})", netns.display());
        };
        self.write()?;
        Ok(enrolled)
    }

    fn write(&self) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(&self.all())?;
        let new = self.file.with_extension("new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &self.file))
            .with_context(|| format!("cannot write {}", self.file.display()))
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
}
