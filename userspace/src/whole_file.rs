//! What an agent leaves for the next one: JSON files that are there as a whole or not at all, for root alone.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};

/// Reads one. `None` if it is not there.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes one in the place of what was there.
pub(crate) fn write(path: &Path, content: &impl Serialize) -> io::Result<()> {
    let new = path.with_extension("new");
    let text = serde_json::to_vec_pretty(content)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(&text)?;
    file.sync_data()?;
    fs::rename(&new, path)
}
