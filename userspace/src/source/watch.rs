//! Watching a directory: that something has changed in it, and which files somebody is writing.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fs,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor},
};

/// An inotify watch of one directory.
pub(super) struct Watch {
    inotify: Inotify,
    directory: Option<WatchDescriptor>,
    writing: BTreeSet<OsString>,
}

/// What has happened since the last look.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Files that are no longer what they were.
    pub(super) files: BTreeSet<OsString>,
    /// There is reason to look again.
    pub(super) changed: bool,
}

impl Watch {
    pub(super) fn new() -> nix::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        Ok(Self {
            inotify,
            directory: None,
            writing: BTreeSet::new(),
        })
    }

    /// Watches `path`, unless that is done already. Says whether the watch is a new one.
    pub(super) fn ensure(&mut self, path: &Path) -> nix::Result<bool> {
        if self.directory.is_some() {
            return Ok(false);
        }
        let flags = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_ATTRIB
            | AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        self.directory = Some(self.inotify.add_watch(path, flags)?);
        Ok(true)
    }

    pub(super) const fn is_lost(&self) -> bool {
        self.directory.is_none()
    }

    /// Whether somebody has begun to write this file and not closed it: what it holds now is not what it will
    /// hold, and half of a file may be valid YAML.
    pub(super) fn is_being_written(&self, file: &OsStr) -> bool {
        self.writing.contains(file)
    }

    /// Takes all events that are there, without waiting.
    pub(super) fn drain(&mut self, directory: &Path) -> Seen {
        let mut seen = Seen::default();
        loop {
            match self.inotify.read_events() {
                Ok(events) if events.is_empty() => return seen,
                Ok(events) => {
                    for event in events {
                        self.note(directory, event, &mut seen);
                    }
                }
                Err(Errno::EINTR) => {}
                // EAGAIN: no more. Whatever else it may be, a look at the directory is never wrong.
                Err(error) => {
                    seen.changed |= error != Errno::EAGAIN;
                    return seen;
                }
            }
        }
    }

    fn note(&mut self, directory: &Path, event: InotifyEvent, seen: &mut Seen) {
        let InotifyEvent {
            wd,
            mask,
            cookie: _,
            name,
        } = event;
        if mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
            self.writing.clear();
            seen.changed = true;
            return;
        }
        // Of a watch that is no more.
        if Some(wd) != self.directory {
            return;
        }
        let gone = AddWatchFlags::IN_DELETE_SELF | AddWatchFlags::IN_MOVE_SELF | AddWatchFlags::IN_IGNORED;
        if mask.intersects(gone | AddWatchFlags::IN_UNMOUNT) {
            if !mask.contains(AddWatchFlags::IN_IGNORED) {
                // Already gone, or else it would go on telling of a directory that has another name now.
                let _ = self.inotify.rm_watch(wd);
            }
            self.directory = None;
            self.writing.clear();
            seen.changed = true;
            return;
        }
        let Some(name) = name else { return };
        if mask.contains(AddWatchFlags::IN_MODIFY) {
            self.writing.insert(name.clone());
            seen.files.insert(name);
            return;
        }
        if mask.contains(AddWatchFlags::IN_CREATE) && !is_link(&directory.join(&name)) {
            // It will be closed, or modified before that.
            self.writing.insert(name.clone());
            seen.files.insert(name);
            return;
        }
        if !mask.contains(AddWatchFlags::IN_ATTRIB) {
            self.writing.remove(&name);
        }
        seen.files.insert(name);
        seen.changed = true;
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// Whether a new directory entry is a link, which nobody will close, or a file, which its writer will.
fn is_link(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_file() || metadata.nlink() > 1)
}
