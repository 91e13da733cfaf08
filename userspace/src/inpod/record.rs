//! What was in a namespace before, written down before anything is changed there.
//!
//! One file for each namespace, so that whoever takes our things away, this process or a later one, leaves those that
//! are not ours and restores what was different.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    Error,
    routing::{Piece, Routing},
    virtuals::VirtualRule,
};
use crate::{
    facts::{IfIndex, NetnsCookie},
    whole_file,
};

/// One namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Cookies and indexes mean something for as long as the kernel runs.
    pub(super) boot: String,
    pub(super) cookie: NetnsCookie,
    pub(super) name: String,
    /// Where the namespace is; the node's own if there is none.
    pub(super) netns: Option<PathBuf>,
    /// Where the links of its programs are pinned.
    pub(super) links: Option<PathBuf>,
    pub(super) routing: Routing,
    /// Rules and routes, and whether they were there before.
    pub(super) pieces: BTreeMap<Piece, bool>,
    /// Rules of virtual interfaces that are ours.
    pub(super) virtual_rules: BTreeSet<VirtualRule>,
    /// Variables, and what they were before.
    pub(super) sysctls: BTreeMap<String, String>,
    /// Devices whose clsact is ours.
    pub(super) qdiscs: BTreeSet<IfIndex>,
}

/// All of them: files in a directory.
#[derive(Debug)]
pub(super) struct Records {
    directory: PathBuf,
    boot: String,
}

const SUFFIX: &str = ".json";

impl Records {
    /// Makes the directory if it is not there.
    pub(super) fn open(directory: &Path) -> Result<Self, Error> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|source| error(directory, source))?;
        let boot = Path::new("/proc/sys/kernel/random/boot_id");
        let boot = fs::read_to_string(boot).map_err(|source| error(boot, source))?;
        Ok(Self {
            directory: directory.to_owned(),
            boot: boot.trim().to_owned(),
        })
    }

    /// A new one, not written yet.
    pub(super) fn blank(&self, cookie: NetnsCookie, name: &str, routing: Routing) -> Record {
        Record {
            boot: self.boot.clone(),
            cookie,
            name: name.to_owned(),
            netns: None,
            links: None,
            routing,
            pieces: BTreeMap::new(),
            virtual_rules: BTreeSet::new(),
            sysctls: BTreeMap::new(),
            qdiscs: BTreeSet::new(),
        }
    }

    /// The record of a namespace, if there is one.
    pub(super) fn find(&self, cookie: NetnsCookie) -> Result<Option<Record>, Error> {
        self.read(&self.path(cookie))
    }

    /// Every record, and every file that cannot be read as one.
    pub(super) fn all(&self) -> (Vec<Record>, Vec<Error>) {
        let (mut records, mut errors) = (Vec::new(), Vec::new());
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(source) => return (records, vec![error(&self.directory, source)]),
        };
        for entry in entries.flatten() {
            if !entry.file_name().to_string_lossy().ends_with(SUFFIX) {
                continue;
            }
            match self.read(&entry.path()) {
                Ok(record) => records.extend(record),
                Err(error) => errors.push(error),
            }
        }
        (records, errors)
    }

    fn read(&self, path: &Path) -> Result<Option<Record>, Error> {
        let found: Option<Record> = whole_file::read(path).map_err(|source| error(path, source))?;
        let Some(record) = found else {
            return Ok(None);
        };
        if record.boot == self.boot {
            return Ok(Some(record));
        }
        // All that it tells of ended with the kernel.
        fs::remove_file(path).map_err(|source| error(path, source))?;
        Ok(None)
    }

    /// Writes it: the whole of it or nothing.
    pub(super) fn save(&self, record: &Record) -> Result<(), Error> {
        let path = self.path(record.cookie);
        whole_file::write(&path, record).map_err(|source| error(&path, source))
    }

    /// Forgets it, if it is there.
    pub(super) fn remove(&self, cookie: NetnsCookie) -> Result<(), Error> {
        let path = self.path(cookie);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(error(&path, source)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn path(&self, cookie: NetnsCookie) -> PathBuf {
        self.directory.join(format!("{}{SUFFIX}", cookie.0))
    }
}

fn error(path: &Path, source: io::Error) -> Error {
    Error::Record {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_record_reads_back_until_the_next_boot() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut records = Records::open(directory.path()).expect("records");
        let mut record = records.blank(NetnsCookie(7), "app/client", Routing::POD);
        record.pieces.insert(Piece::RuleV4, true);
        record.sysctls.insert("ipv4/fwmark_reflect".into(), "0".into());
        record.qdiscs.insert(IfIndex(2));
        records.save(&record).expect("saved");
        assert_eq!(
            records.find(NetnsCookie(7)).expect("readable"),
            Some(record.clone())
        );
        let mode = fs::metadata(records.path(NetnsCookie(7))).expect("a file");
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        assert_eq!(records.all().0, [record]);

        records.boot = "another".into();
        assert_eq!(records.find(NetnsCookie(7)).expect("readable"), None);
        assert!(!records.path(NetnsCookie(7)).exists());
    }

    #[test]
    fn a_damaged_record_is_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let records = Records::open(directory.path()).expect("records");
        fs::write(directory.path().join("9.json"), "{").expect("written");
        let (found, errors) = records.all();
        assert!(found.is_empty());
        assert!(errors[0].to_string().contains("9.json: "), "{errors:?}");
    }
}
