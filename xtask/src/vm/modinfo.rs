//! What a kernel module says of itself: the `.modinfo` section of its ELF file, a list of `key=value` strings.
//!
//! Debian's packages come without `modules.dep`; `depmod` would write it at installation. Reading the modules
//! themselves needs neither root nor `kmod`.

use anyhow::Result;

use super::elf;

/// The parts of `.modinfo` that loading needs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ModInfo {
    /// Modules that have to be there before, by name.
    pub(crate) depends: Vec<String>,
    /// Modules that should be there before, by name; the kernel works without them, but perhaps not this feature.
    pub(crate) soft: Vec<String>,
    /// Names under which the kernel asks for this module.
    pub(crate) aliases: Vec<String>,
}

impl ModInfo {
    /// Reads a module file, already decompressed.
    pub(crate) fn read(module: &[u8]) -> Result<Self> {
        elf::section(module, b".modinfo").map(Self::parse)
    }

    fn parse(section: &[u8]) -> Self {
        let mut info = Self::default();
        for entry in section.split(|byte| *byte == 0) {
            match String::from_utf8_lossy(entry).split_once('=') {
                Some(("depends", names)) => {
                    info.depends
                        .extend(names.split(',').filter(|name| !name.is_empty()).map(canonical));
                }
                Some(("softdep", text)) => {
                    let before = text.split_whitespace().skip_while(|word| *word != "pre:").skip(1);
                    info.soft
                        .extend(before.take_while(|word| !word.ends_with(':')).map(canonical));
                }
                Some(("alias", name)) => info.aliases.push(name.to_owned()),
                Some(_) | None => {}
            }
        }
        info
    }
}

/// The kernel takes `-` and `_` in module names for the same letter; here it is always `_`.
pub(crate) fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_and_aliases_are_read() {
        let info = ModInfo::parse(
            b"license=GPL\0alias=rtnl-link-vxlan\0depends=udp_tunnel,ip6-udp_tunnel\0\
              softdep=pre: crc32c post: other\0name=vxlan\0",
        );
        assert_eq!(info.depends, ["udp_tunnel", "ip6_udp_tunnel"]);
        assert_eq!(info.soft, ["crc32c"]);
        assert_eq!(info.aliases, ["rtnl-link-vxlan"]);
    }

    #[test]
    fn no_dependencies_are_none() {
        assert_eq!(ModInfo::parse(b"depends=\0"), ModInfo::default());
    }
}
