//! The little of ELF that the harness reads: one section by its name.

use anyhow::{Context as _, Result, bail, ensure};

/// The bytes of one section of a little-endian 64-bit ELF file.
pub(crate) fn section<'a>(elf: &'a [u8], wanted: &[u8]) -> Result<&'a [u8]> {
    ensure!(
        elf.starts_with(b"\x7fELF\x02\x01"),
        "not a little-endian 64-bit ELF file"
    );
    let number = |at: usize, size: usize| -> Result<usize> {
        let bytes = elf.get(at..at + size).context("the ELF file is cut off")?;
        let value = bytes
            .iter()
            .rev()
            .fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
        usize::try_from(value).context("an offset beyond this machine's memory")
    };
    // Offsets from the ELF specification: e_shoff, e_shentsize, e_shnum, e_shstrndx; sh_name, sh_offset, sh_size.
    let (table, entry, count, names) = (
        number(0x28, 8)?,
        number(0x3a, 2)?,
        number(0x3c, 2)?,
        number(0x3e, 2)?,
    );
    let body = |index: usize| -> Result<&'a [u8]> {
        let header = table + index * entry;
        let (offset, size) = (number(header + 0x18, 8)?, number(header + 0x20, 8)?);
        elf.get(offset..offset + size)
            .context("a section beyond the end of the file")
    };
    let strings = body(names)?;
    for index in 1..count {
        let name = strings
            .get(number(table + index * entry, 4)?..)
            .unwrap_or_default();
        if name
            .strip_prefix(wanted)
            .is_some_and(|rest| rest.first() == Some(&0))
        {
            return body(index);
        }
    }
    bail!("no section {}", String::from_utf8_lossy(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_found_by_its_name() {
        let mut elf = vec![0_u8; 0x40];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        let strings = b"\0.modinfo\0";
        let body = b"depends=a";
        elf.extend_from_slice(strings);
        elf.extend_from_slice(body);
        let table = elf.len();
        for (name, offset, size) in [
            (0_u32, 0, 0),
            (0, 0x40, strings.len()),
            (1, 0x40 + strings.len(), body.len()),
        ] {
            let mut header = [0_u8; 0x40];
            header[..4].copy_from_slice(&name.to_le_bytes());
            header[0x18..0x20].copy_from_slice(&(offset as u64).to_le_bytes());
            header[0x20..0x28].copy_from_slice(&(size as u64).to_le_bytes());
            elf.extend_from_slice(&header);
        }
        elf[0x28..0x30].copy_from_slice(&(table as u64).to_le_bytes());
        elf[0x3a] = 0x40;
        elf[0x3c] = 3;
        elf[0x3e] = 1;
        assert_eq!(section(&elf, b".modinfo").expect("a section"), body);
        assert!(section(&elf, b".interp").is_err());
        assert!(section(b"#!/bin/sh", b".interp").is_err());
    }
}
