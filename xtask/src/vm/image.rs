//! The tree of files that becomes the guest's root: collected first, written in one go.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::cpio::{Archive, Member};

/// Where old and new distributions differ: in the guest these four are always links into `/usr`.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

enum Entry {
    Directory(u32),
    Symlink(String),
    CharDevice(u32, u32),
    Bytes(Vec<u8>, u32),
    Host(PathBuf),
}

/// The guest's files, by path. A later entry of the same path replaces an earlier one.
pub(crate) struct Image {
    entries: BTreeMap<PathBuf, Entry>,
}

impl Image {
    /// The directories and device nodes that the kernel and the first process expect.
    pub(crate) fn new() -> Self {
        let mut image = Self {
            entries: BTreeMap::new(),
        };
        for name in MERGED {
            image
                .entries
                .insert(PathBuf::from(name), Entry::Symlink(format!("usr/{name}")));
            image.directory(&format!("/usr/{name}"), 0o755);
        }
        for name in ["/dev", "/etc", "/out", "/proc", "/root", "/run", "/sys", "/var"] {
            image.directory(name, 0o755);
        }
        image.directory("/tmp", 0o1777);
        image
            .entries
            .insert(PathBuf::from("var/run"), Entry::Symlink("/run".into()));
        // The kernel opens the console for the first process before anything can be mounted.
        image
            .entries
            .insert(PathBuf::from("dev/console"), Entry::CharDevice(5, 1));
        image
            .entries
            .insert(PathBuf::from("dev/null"), Entry::CharDevice(1, 3));
        image
    }

    /// A directory, and its parents.
    pub(crate) fn directory(&mut self, guest: &str, mode: u32) {
        let path = guest_path(Path::new(guest));
        self.parents(&path);
        self.entries.insert(path, Entry::Directory(mode));
    }

    /// A symbolic link.
    pub(crate) fn symlink(&mut self, guest: &str, target: &str) {
        let path = guest_path(Path::new(guest));
        self.parents(&path);
        self.entries.insert(path, Entry::Symlink(target.to_owned()));
    }

    /// A file with the content given.
    pub(crate) fn bytes(&mut self, guest: &str, bytes: impl Into<Vec<u8>>, mode: u32) {
        let path = guest_path(Path::new(guest));
        self.parents(&path);
        self.entries.insert(path, Entry::Bytes(bytes.into(), mode));
    }

    /// A file or a whole directory of the host. Symbolic links inside a directory stay links, except those whose
    /// target the guest would not have; the path itself is followed.
    pub(crate) fn host(&mut self, host: &Path, guest: &Path) -> Result<()> {
        let found = fs::metadata(host)
            .with_context(|| format!("{}: cannot be copied into the VM", host.display()))?;
        let path = guest_path(guest);
        self.parents(&path);
        if found.is_file() {
            self.entries.insert(path, Entry::Host(host.to_owned()));
            return Ok(());
        }
        if !found.is_dir() {
            bail!(
                "{}: only files and directories are copied into the VM",
                host.display()
            );
        }
        self.entries
            .entry(path.clone())
            .or_insert(Entry::Directory(found.permissions().mode() & 0o7777));
        for child in fs::read_dir(host).with_context(|| host.display().to_string())? {
            let child = child.with_context(|| host.display().to_string())?;
            let target = path.join(child.file_name());
            match fs::read_link(child.path()) {
                Ok(link) if link.is_relative() && !link.starts_with("..") => {
                    self.entries
                        .insert(target, Entry::Symlink(link.display().to_string()));
                }
                // A dangling link or a socket is of no use to anybody in the guest.
                Ok(_) if fs::metadata(child.path()).is_err() => {}
                Ok(_) | Err(_) => self.host(&child.path(), &target)?,
            }
        }
        Ok(())
    }

    /// Writes the archive to `path` and returns its size in bytes.
    pub(crate) fn write(&self, path: &Path) -> Result<u64> {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        let mut archive = Archive::new(BufWriter::with_capacity(1 << 20, file));
        for (name, entry) in &self.entries {
            let text = name
                .to_str()
                .with_context(|| format!("{}: not a UTF-8 path", name.display()))?;
            add(&mut archive, text, entry).with_context(|| format!("{text}, into {}", path.display()))?;
        }
        archive.finish().with_context(|| path.display().to_string())?;
        Ok(fs::metadata(path)
            .with_context(|| path.display().to_string())?
            .len())
    }

    fn parents(&mut self, path: &Path) {
        for parent in path
            .ancestors()
            .skip(1)
            .filter(|parent| !parent.as_os_str().is_empty())
        {
            self.entries
                .entry(parent.to_owned())
                .or_insert(Entry::Directory(0o755));
        }
    }
}

fn add(archive: &mut Archive<BufWriter<File>>, name: &str, entry: &Entry) -> Result<()> {
    match entry {
        Entry::Directory(mode) => archive.add(name, *mode, Member::Directory)?,
        Entry::Symlink(target) => archive.add(name, 0, Member::Symlink(target))?,
        Entry::CharDevice(major, minor) => archive.add(name, 0o600, Member::CharDevice(*major, *minor))?,
        Entry::Bytes(bytes, mode) => {
            archive.add(
                name,
                *mode,
                Member::File(bytes.len() as u64, &mut bytes.as_slice()),
            )?;
        }
        Entry::Host(host) => {
            let mut file = File::open(host).with_context(|| host.display().to_string())?;
            let found = file.metadata().with_context(|| host.display().to_string())?;
            archive.add(
                name,
                found.permissions().mode() & 0o7777,
                Member::File(found.len(), &mut file),
            )?;
        }
    }
    Ok(())
}

/// The archive's name of a path in the guest: no leading slash, no dots, and `/lib` and its like where they really
/// are.
fn guest_path(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => clean.push(part),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    let merged = MERGED.iter().any(|name| clean.starts_with(name));
    if merged {
        Path::new("usr").join(clean)
    } else {
        clean
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lose_their_slash_and_their_dots() {
        assert_eq!(guest_path(Path::new("/a/./b/../c")), Path::new("a/c"));
        assert_eq!(guest_path(Path::new("/usr/lib/x")), Path::new("usr/lib/x"));
    }

    #[test]
    fn libraries_land_where_the_links_lead() {
        assert_eq!(
            guest_path(Path::new("/lib64/ld.so")),
            Path::new("usr/lib64/ld.so")
        );
        assert_eq!(guest_path(Path::new("/library/x")), Path::new("library/x"));
    }

    #[test]
    fn parents_come_before_children() {
        let mut image = Image::new();
        image.bytes("/a/b/c", "x", 0o644);
        let names: Vec<_> = image
            .entries
            .keys()
            .filter(|path| path.starts_with("a"))
            .collect();
        assert_eq!(names, [Path::new("a"), Path::new("a/b"), Path::new("a/b/c")]);
    }
}
