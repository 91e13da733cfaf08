//! A file that is put aside when it is large.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// The file cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot write verdicts to {path}: {source} (does its directory exist, and is it writable?)", path = path.display())]
pub struct OpenError {
    path: PathBuf,
    source: io::Error,
}

/// A file of a bounded size, and those before it.
#[derive(Debug)]
pub struct Rotated {
    path: PathBuf,
    file: File,
    size: u64,
    largest: u64,
    kept: u32,
}

impl Rotated {
    /// Goes on with the file at `path`, up to `largest` octets; keeps as many before it.
    pub fn open(path: &Path, largest: u64, kept: u32) -> Result<Self, OpenError> {
        let open = || {
            let file = append(path)?;
            let size = file.metadata()?.len();
            Ok((file, size))
        };
        let (file, size) = open().map_err(|source| OpenError {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            path: path.to_owned(),
            file,
            size,
            largest,
            kept,
        })
    }

    /// Writes a line. A file holds whole lines.
    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if self.size > 0 && self.size.saturating_add(length) > self.largest {
            self.rotate()?;
        }
        self.file.write_all(line)?;
        self.size += length;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..=self.kept).rev() {
            let from = if number == 1 {
                self.path.clone()
            } else {
                self.aside(number - 1)
            };
            match fs::rename(&from, self.aside(number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        if self.kept == 0 {
            fs::remove_file(&self.path)?;
        }
        self.file = append(&self.path)?;
        self.size = self.file.metadata()?.len();
        Ok(())
    }

    fn aside(&self, number: u32) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(format!(".{number}"));
        name.into()
    }
}

/// For root alone: it says who talks to whom.
fn append(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_file_is_put_aside_and_the_oldest_forgotten() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("events.json");
        let mut file = Rotated::open(&path, 10, 2).expect("a file");
        for number in 0..7 {
            file.write(format!("line{number}\n").as_bytes()).expect("room");
        }
        // A line has 6 octets: one fits, two do not.
        let read = |name: &str| fs::read_to_string(directory.path().join(name)).ok();
        assert_eq!(read("events.json").as_deref(), Some("line6\n"));
        assert_eq!(read("events.json.1").as_deref(), Some("line5\n"));
        assert_eq!(read("events.json.2").as_deref(), Some("line4\n"));
        assert_eq!(read("events.json.3"), None);

        let mut again = Rotated::open(&path, 20, 2).expect("the same file");
        again.write(b"more\n").expect("room");
        assert_eq!(read("events.json").as_deref(), Some("line6\nmore\n"));
    }

    #[test]
    fn without_room_for_others_there_is_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("events.json");
        let mut file = Rotated::open(&path, 10, 0).expect("a file");
        for _ in 0..3 {
            file.write(b"a long line\n").expect("room");
        }
        assert_eq!(fs::read_to_string(&path).ok().as_deref(), Some("a long line\n"));
        assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 1);
    }

    #[test]
    fn a_directory_that_is_not_there_is_named() {
        let error = Rotated::open(Path::new("/nowhere/events.json"), 10, 1).expect_err("no directory");
        assert!(error.to_string().contains("/nowhere/events.json"), "{error}");
    }
}
