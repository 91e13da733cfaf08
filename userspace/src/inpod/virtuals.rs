//! How what comes out of a virtual machine gets to the proxy: by a rule for each of their interfaces.
//!
//! ```text
//! ip rule add iif vm0 fwmark 0x112/0xfff pref 32763 lookup 100
//! ```
//!
//! For what comes in there and nothing else: answers of a proxy whose sockets have no mark of their own inherit it, and
//! have to get out. And when the kernel asks for the way back to the machine, it asks as if from `lo`, so that the rule
//! does not lead it astray where it takes the mark into account (`src_valid_mark`).
//!
//! The proxy's listener has to be transparent (`IP_TRANSPARENT`; ztunnel's are, an Envoy's by `transparent: true`): it answers
//! from the address that the machine has called.

use std::{collections::BTreeSet, io};

use serde::{Deserialize, Serialize};

use super::{
    Error, Routing,
    devices::Device,
    programs::Program,
    routing::routing_error,
    rule::{self, Family, Rule},
};
use crate::netlink::Talk;

/// The rule of one interface, by its name: to the kernel it is for whatever device has that.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct VirtualRule {
    device: String,
    family: Family,
}

impl VirtualRule {
    /// Those of the devices that are virtual.
    pub(super) fn wanted(devices: &[(Device, Option<Program>)], ipv6: bool) -> BTreeSet<Self> {
        let virtuals = devices
            .iter()
            .filter(|(_, program)| program.is_some_and(Program::is_virtual));
        virtuals
            .flat_map(|(Device { name, .. }, _)| {
                Family::all(ipv6).iter().map(|&family| Self {
                    device: name.clone(),
                    family,
                })
            })
            .collect()
    }

    /// Those of `wanted` that are there, whoever made them.
    pub(super) fn look(talk: &Talk, wanted: &BTreeSet<Self>) -> Result<BTreeSet<Self>, Error> {
        let mut there = BTreeSet::new();
        for &family in Family::all(true) {
            let mut of_family = wanted.iter().filter(|rule| rule.family == family).peekable();
            if let Some(first) = of_family.peek() {
                let rules = rule::dump(talk, family).map_err(|source| first.error("show", source))?;
                there.extend(of_family.filter(|wanted| wanted.rule().is_among(&rules)).cloned());
            }
        }
        Ok(there)
    }

    /// Adds it, if it is not there.
    pub(super) fn add(&self, talk: &Talk) -> Result<(), Error> {
        self.rule().add(talk).map_err(|source| self.error("add", source))
    }

    /// Removes it, if it is there and ours.
    pub(super) fn remove(&self, talk: &Talk) -> Result<bool, Error> {
        self.rule()
            .remove(talk)
            .map_err(|source| self.error("del", source))
    }

    fn rule(&self) -> Rule<'_> {
        Rule {
            family: self.family,
            routing: Routing::VIRTUAL,
            device: Some(&self.device),
        }
    }

    fn error(&self, verb: &str, source: io::Error) -> Error {
        let rule = self.rule();
        routing_error(format!("ip {} rule {verb} {rule}", rule.family.option()), source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_the_command() {
        let rule = VirtualRule {
            device: "vm0".into(),
            family: Family::V6,
        };
        let text = rule
            .error("add", io::Error::from_raw_os_error(libc::EPERM))
            .to_string();
        assert!(
            text.starts_with("ip -6 rule add iif vm0 fwmark 0x112/0xfff pref 32763 lookup 100 proto 81: "),
            "{text}"
        );
    }
}
