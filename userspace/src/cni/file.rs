//! Files that somebody else may read at any moment.

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// Whether the file at `path` can be run and is the same as `program`.
pub(super) fn is_program(path: &Path, mut program: &File) -> io::Result<bool> {
    /// How much is compared at a time.
    const PIECE: usize = 1 << 16;
    let mut file = File::open(path)?;
    let found = file.metadata()?;
    if found.len() != program.metadata()?.len() || found.permissions().mode() & 0o111 == 0 {
        return Ok(false);
    }
    let (mut left, mut right) = (vec![0; PIECE], vec![0; PIECE]);
    loop {
        let read = program.read(&mut left)?;
        if read == 0 {
            return Ok(true);
        }
        file.read_exact(&mut right[..read])?;
        if left[..read] != right[..read] {
            return Ok(false);
        }
    }
}

/// Writes a file as a whole or not at all: by another name first, which no runtime reads.
pub(super) fn put(path: &Path, permissions: Permissions, content: &mut dyn Read) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".sluice-new");
    let new = PathBuf::from(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    io::copy(content, &mut file)?;
    file.set_permissions(permissions)?;
    file.flush()?;
    file.sync_all()?;
    drop(file);
    fs::rename(&new, path)
}
