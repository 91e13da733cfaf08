//! A writer for the "newc" cpio format, which is what the kernel unpacks as its first file system
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`).
//!
//! Written here because an archive made by the `cpio` command carries the owners of the files of whoever builds it,
//! and cannot hold a device node unless root makes one first.

use std::io::{self, Read, Write};

/// What an archive member is, beside its name and its permissions.
pub(crate) enum Member<'a> {
    /// A directory.
    Directory,
    /// A symbolic link to the target given.
    Symlink(&'a str),
    /// A character device with its major and minor number.
    CharDevice(u32, u32),
    /// A regular file: its length, and where its bytes come from.
    File(u64, &'a mut dyn Read),
}

/// Writes members one after the other; [`Archive::finish`] ends the archive.
pub(crate) struct Archive<W> {
    out: W,
    written: u64,
    inode: u32,
}

impl<W: Write> Archive<W> {
    /// An empty archive.
    pub(crate) const fn new(out: W) -> Self {
        Self {
            out,
            written: 0,
            inode: 0,
        }
    }

    /// Adds one member, owned by root. `name` has no leading slash; `permissions` are the lowest twelve bits of the
    /// mode.
    ///
    /// Parents have to come before their children: the kernel does not make missing directories.
    pub(crate) fn add(&mut self, name: &str, permissions: u32, member: Member<'_>) -> io::Result<()> {
        self.inode += 1;
        match member {
            Member::Directory => self.header(name, 0o040_000 | permissions, 0, (0, 0)),
            Member::CharDevice(major, minor) => self.header(name, 0o020_000 | permissions, 0, (major, minor)),
            Member::Symlink(target) => {
                self.header(name, 0o120_777, target.len() as u64, (0, 0))?;
                self.put(target.as_bytes())?;
                self.align()
            }
            Member::File(length, bytes) => {
                self.header(name, 0o100_000 | permissions, length, (0, 0))?;
                let copied = io::copy(&mut bytes.take(length), &mut self.out)?;
                if copied != length {
                    return Err(io::Error::other(format!(
                        "{name} became shorter while it was read"
                    )));
                }
                self.written += length;
                self.align()
            }
        }
    }

    /// Writes the end mark and hands the writer back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.header("TRAILER!!!", 0, 0, (0, 0))?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn header(&mut self, name: &str, mode: u32, length: u64, device: (u32, u32)) -> io::Result<()> {
        // Sizes are eight hexadecimal digits: four GiB is the format's limit.
        let length =
            u32::try_from(length).map_err(|_| io::Error::other(format!("{name} is larger than 4 GiB")))?;
        let name_size = name.len() + 1;
        let (inode, links) = (self.inode, 1);
        let (major, minor) = device;
        let header = format!(
            "070701{inode:08x}{mode:08x}{uid:08x}{gid:08x}{links:08x}{mtime:08x}{length:08x}{zero:08x}{zero:08x}\
             {major:08x}{minor:08x}{name_size:08x}{check:08x}",
            uid = 0,
            gid = 0,
            mtime = 0,
            zero = 0,
            check = 0,
        );
        self.put(header.as_bytes())?;
        self.put(name.as_bytes())?;
        self.put(&[0])?;
        self.align()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn align(&mut self) -> io::Result<()> {
        let padding = (4 - self.written % 4) % 4;
        self.written += padding;
        self.out
            .write_all(&[0; 3][..usize::try_from(padding).unwrap_or(0)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(build: impl FnOnce(&mut Archive<Vec<u8>>)) -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        build(&mut archive);
        archive.finish().expect("writing to memory")
    }

    fn field(bytes: &[u8], number: usize) -> u32 {
        let text = std::str::from_utf8(&bytes[6 + number * 8..14 + number * 8]).expect("ASCII");
        u32::from_str_radix(text, 16).expect("hexadecimal")
    }

    #[test]
    fn a_file_has_its_header_name_and_bytes_padded_to_four() {
        let bytes = archive(|archive| {
            archive
                .add("etc/a", 0o644, Member::File(5, &mut &b"hello"[..]))
                .expect("add");
        });
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(field(&bytes, 1), 0o100_644);
        assert_eq!(field(&bytes, 6), 5);
        assert_eq!(field(&bytes, 11), 6);
        // 110 bytes of header and 6 of name need no padding; five bytes of content need three.
        assert_eq!(&bytes[110..116], b"etc/a\0");
        assert_eq!(&bytes[116..124], b"hello\0\0\0");
        assert_eq!(&bytes[124..130], b"070701");
        assert_eq!(&bytes[124 + 110..124 + 120], b"TRAILER!!!");
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn a_device_has_its_numbers_and_a_link_its_target() {
        let bytes = archive(|archive| {
            archive
                .add("console", 0o600, Member::CharDevice(5, 1))
                .expect("add");
            archive.add("bin", 0, Member::Symlink("usr/bin")).expect("add");
        });
        assert_eq!(field(&bytes, 1), 0o020_600);
        assert_eq!((field(&bytes, 9), field(&bytes, 10)), (5, 1));
        let link = &bytes[120..];
        assert_eq!(field(link, 1), 0o120_777);
        assert_eq!(field(link, 6), 7);
        assert_eq!(&link[116..123], b"usr/bin");
    }

    #[test]
    fn a_file_that_shrinks_is_an_error() {
        let mut archive = Archive::new(Vec::new());
        assert!(
            archive
                .add("a", 0o644, Member::File(9, &mut &b"short"[..]))
                .is_err()
        );
    }
}
