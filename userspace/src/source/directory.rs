//! A directory of YAML files as the source of objects.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs,
    hash::{BuildHasher, RandomState},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::io::{Interest, unix::AsyncFd};

use super::{
    Loaded,
    file::{Content, MAX_ERRORS, duplicate},
    stores::{AnyObject, Stores},
    watch::Watch,
};
use crate::problem::{Origin, Problem, Severity};

/// How long events are gathered, so that a change of several files is one.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// How often a directory that has vanished is looked for.
const RETRY: Duration = Duration::from_millis(500);
/// For how long a file must have been empty before its objects are taken for deleted.
const EMPTYING: Duration = Duration::from_secs(1);

/// The directory cannot be a source.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not there, or no directory, or may not be read.
    #[error("cannot read the directory {path}; does it exist, and may this user read it?")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There are no inotify instances left.
    #[error("cannot watch files (inotify); is fs.inotify.max_user_instances exhausted?")]
    Inotify(#[source] nix::Error),
}

/// A directory of YAML files, watched.
pub struct Directory {
    path: PathBuf,
    watch: Watch,
    files: BTreeMap<OsString, File>,
    /// There was a time at which every file could be read.
    complete: bool,
    /// It was gone since it was last read.
    lost: bool,
    /// Something changed during the last look.
    again: bool,
    hasher: RandomState,
}

/// What is known of a file.
#[derive(Default)]
struct File {
    /// Hash of the content from which `good` was made.
    hash: Option<u64>,
    /// Its last good content.
    good: Option<Arc<Content>>,
    /// Since when there has been nothing in it, though there had been objects.
    empty_since: Option<Instant>,
}

/// What the files in the directory hold at this moment.
enum Look {
    /// As when it was last good.
    Unchanged,
    /// Something else, which may be good.
    New { hash: u64, content: Content },
    /// Something that cannot be used.
    Broken(Vec<Problem>),
}

impl Directory {
    /// Opens and watches a directory.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, OpenError> {
        let path = path.into();
        if let Err(source) = fs::read_dir(&path) {
            return Err(OpenError::Directory { path, source });
        }
        Ok(Self {
            watch: Watch::new().map_err(OpenError::Inotify)?,
            path,
            files: BTreeMap::new(),
            complete: false,
            lost: false,
            again: false,
            hasher: RandomState::new(),
        })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits until there is reason to [`load`](Self::load) again. May be dropped and called again at any time.
    /// Needs tokio with I/O and time.
    pub async fn changed(&mut self) {
        while !self.again {
            if self.watch.is_lost() {
                tokio::time::sleep(RETRY).await;
                self.again = self.watch.ensure(&self.path).is_ok();
            } else if self.readable().await.is_err() {
                // Without notice there is still the clock.
                tokio::time::sleep(RETRY).await;
                self.again = true;
            } else {
                self.again = self.watch.drain(&self.path).changed;
            }
        }
        tokio::time::sleep(DEBOUNCE).await;
        self.watch.drain(&self.path);
        self.again = false;
    }

    async fn readable(&self) -> io::Result<()> {
        let descriptor = std::os::fd::AsFd::as_fd(&self.watch);
        #[expect(
            deprecated,
            reason = "its successor is unsafe for types whose as_raw_fd changes; a BorrowedFd's does not"
        )]
        let events = AsyncFd::with_interest(descriptor, Interest::READABLE)?;
        events.readable().await.map(drop)
    }

    /// Reads what has changed and returns everything. Blocks, as reading files does.
    pub fn load(&mut self) -> Loaded {
        let mut problems = Vec::new();
        self.watch.drain(&self.path);
        self.lost |= self.watch.is_lost();
        if let Err(error) = self.watch.ensure(&self.path) {
            let message = format!(
                "cannot watch {} ({error}); it is looked for from time to time",
                self.path.display()
            );
            problems.push(Problem::new(Severity::Error, message));
        }
        let names = match self.names() {
            Ok(names) => names,
            Err(message) => {
                self.lost = true;
                problems.push(Problem::new(Severity::Error, message));
                return self.last_good(problems);
            }
        };
        self.lost = false;
        self.files.retain(|name, _| names.contains(name));
        let looks = self.look(names);
        let stores = self.merge(looks, &mut problems);
        Loaded { stores, problems }
    }

    /// The names of the files that are read, or why they cannot be known.
    fn names(&self) -> Result<BTreeSet<OsString>, String> {
        let path = self.path.display();
        let list = || -> io::Result<BTreeSet<OsString>> {
            let mut names = BTreeSet::new();
            for entry in fs::read_dir(&self.path)? {
                let name = entry?.file_name();
                if is_yaml(&name) {
                    names.insert(name);
                }
            }
            Ok(names)
        };
        let names =
            list().map_err(|error| format!("cannot read {path} ({error}); what was read last stays"))?;
        // The mount point of a volume that is not there (yet) is an empty directory.
        if names.is_empty() && (self.lost || !self.complete) {
            return Err(format!(
                "there is no *.yaml and no *.yml in {path}; is its volume mounted?"
            ));
        }
        Ok(names)
    }

    fn look(&mut self, names: BTreeSet<OsString>) -> Vec<(OsString, Look)> {
        let read: Vec<_> = names
            .into_iter()
            .map(|name| {
                let bytes = (!self.watch.is_being_written(&name)).then(|| fs::read(self.path.join(&name)));
                (name, bytes)
            })
            .collect();
        // What was changed while it was read may be half of the one and half of the other.
        let seen = self.watch.drain(&self.path);
        self.again |= seen.changed;
        let looks = read.into_iter().map(|(name, bytes)| {
            let look = match bytes {
                Some(bytes) if !seen.files.contains(&name) && !self.was_just_emptied(&name, &bytes) => {
                    self.judge(&name, bytes)
                }
                Some(_) | None => self.in_motion(&name),
            };
            (name, look)
        });
        looks.collect()
    }

    /// Who writes a file anew empties it first, and the kernel tells of that only when it is done: a reader may come
    /// in between. So it has to stay empty for a while.
    fn was_just_emptied(&mut self, name: &OsStr, bytes: &io::Result<Vec<u8>>) -> bool {
        let Some(file) = self.files.get_mut(name) else {
            return false;
        };
        let had_objects = file.good.as_ref().is_some_and(|good| !good.objects.is_empty());
        if !had_objects || !bytes.as_ref().is_ok_and(Vec::is_empty) {
            file.empty_since = None;
            return false;
        }
        let since = file.empty_since.get_or_insert_with(Instant::now);
        let just = since.elapsed() < EMPTYING;
        self.again |= just;
        just
    }

    fn judge(&self, name: &OsStr, bytes: io::Result<Vec<u8>>) -> Look {
        let path: Arc<Path> = self.path.join(name).into();
        let bytes = match bytes {
            Ok(bytes) => bytes,
            Err(error) => {
                let problem = Problem::new(Severity::Error, format!("cannot be read: {error}"));
                return Look::Broken(vec![problem.at(Origin::line(path, 0))]);
            }
        };
        let hash = self.hasher.hash_one(&bytes);
        if self.files.get(name).is_some_and(|file| file.hash == Some(hash)) {
            return Look::Unchanged;
        }
        let last = self.files.get(name).and_then(|file| file.good.as_deref());
        match Content::read(&path, &bytes, last, &self.hasher) {
            Ok(content) => Look::New { hash, content },
            Err(problems) => Look::Broken(problems),
        }
    }

    fn in_motion(&self, name: &OsStr) -> Look {
        if self.files.get(name).is_some_and(|file| file.good.is_some()) {
            return Look::Unchanged;
        }
        let problem = Problem::new(Severity::Info, "is being written; it is read when it is closed");
        Look::Broken(vec![problem.at(Origin::line(self.path.join(name).into(), 0))])
    }

    /// Puts the files together. An object may be in one place only: a file that brings one that is elsewhere
    /// already is broken, like one that cannot be read.
    fn merge(&mut self, looks: Vec<(OsString, Look)>, problems: &mut Vec<Problem>) -> Stores {
        let mut stores = Stores::default();
        let mut whole = true;
        let mut news = Vec::new();
        for (name, look) in looks {
            match look {
                Look::Unchanged => {}
                Look::New { hash, content } => {
                    news.push((name, hash, content));
                    continue;
                }
                Look::Broken(errors) => {
                    let file = self.files.entry(name.clone()).or_default();
                    whole &= file.good.is_some();
                    problems.extend(errors);
                }
            }
            if let Some(content) = self.files.get(&name).and_then(|file| file.good.as_ref()) {
                add_rest(&mut stores, content, problems);
            }
        }
        for (name, hash, content) in news {
            let file = self.files.entry(name).or_default();
            let clashes = clashes(&stores, &content);
            if clashes.is_empty() {
                let content = Arc::new(content);
                add_rest(&mut stores, &content, problems);
                *file = File {
                    hash: Some(hash),
                    good: Some(content),
                    empty_since: None,
                };
                continue;
            }
            problems.extend(clashes);
            match &file.good {
                Some(content) => add_rest(&mut stores, content, problems),
                None => whole = false,
            }
        }
        self.complete |= whole;
        stores.set_complete(self.complete);
        stores
    }

    fn last_good(&self, mut problems: Vec<Problem>) -> Loaded {
        let mut stores = Stores::default();
        for content in self.files.values().filter_map(|file| file.good.as_ref()) {
            add_rest(&mut stores, content, &mut problems);
        }
        stores.set_complete(self.complete);
        Loaded { stores, problems }
    }
}

fn is_yaml(name: &OsStr) -> bool {
    let hidden = name.as_encoded_bytes().starts_with(b".");
    let extension = Path::new(name).extension();
    !hidden && extension.is_some_and(|extension| extension == "yaml" || extension == "yml")
}

fn clashes(stores: &Stores, content: &Content) -> Vec<Problem> {
    let clash = |object: &AnyObject| {
        let first = stores.get(&object.reference())?;
        Some(duplicate(object, first.origin()))
    };
    content
        .objects
        .iter()
        .filter_map(clash)
        .take(MAX_ERRORS)
        .collect()
}

/// Adds what is not there yet, and tells of what is.
fn add_rest(stores: &mut Stores, content: &Content, problems: &mut Vec<Problem>) {
    for object in &content.objects {
        if let Err(first) = stores.insert(object.clone()) {
            problems.push(duplicate(object, &first));
        }
    }
    for (kind, count) in &content.ignored {
        *stores.ignored.entry(kind.clone()).or_default() += count;
    }
}
