//! Policy routing: what carries a mark is delivered here, whatever its address.
//!
//! ```text
//! ip rule add fwmark 0x111/0xfff pref 32764 lookup 100
//! ip route add local default dev lo table 100
//! ```

use std::{collections::BTreeSet, io};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use serde::{Deserialize, Serialize};

use super::{
    Error,
    rule::{self, Family, Rule},
};
use crate::netlink::Talk;

/// `lo` has this index in every network namespace (`LOOPBACK_IFINDEX`).
pub(super) const LOOPBACK: u32 = 1;

/// The numbers of a rule and of the table that it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Routing {
    /// The mark of a packet.
    pub mark: u32,
    /// The bits of it that count.
    pub mask: u32,
    /// The rule's priority.
    pub priority: u32,
    /// The routes' table.
    pub table: u32,
}

impl Routing {
    /// Inside a pod: the numbers that istio-cni and ztunnel use.
    pub const POD: Self = Self {
        mark: 0x111,
        mask: 0xfff,
        priority: 32764,
        table: 100,
    };
    /// Inside a pod, for what comes in by a virtual interface: the rule next to the other, and the same table.
    pub const VIRTUAL: Self = Self {
        mark: 0x112,
        priority: 32763,
        ..Self::POD
    };
    /// On the node, for a proxy of the node.
    pub const NODE: Self = Self {
        mark: 0x1111,
        mask: u32::MAX,
        priority: 100,
        table: 5120,
    };
}

/// A part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Piece {
    /// Before the rule, so that it never leads to an empty table.
    RouteV4,
    RuleV4,
    RouteV6,
    RuleV6,
}

impl Piece {
    /// All of them, or those without IPv6.
    pub(super) fn all(ipv6: bool) -> &'static [Self] {
        const ALL: [Piece; 4] = [Piece::RouteV4, Piece::RuleV4, Piece::RouteV6, Piece::RuleV6];
        if ipv6 { &ALL } else { &ALL[..2] }
    }

    pub(super) const fn is_rule(self) -> bool {
        matches!(self, Self::RuleV4 | Self::RuleV6)
    }

    const fn family(self) -> Family {
        match self {
            Self::RouteV4 | Self::RuleV4 => Family::V4,
            Self::RouteV6 | Self::RuleV6 => Family::V6,
        }
    }
}

impl Routing {
    /// Which pieces there are.
    pub(super) fn look(&self, talk: &Talk, ipv6: bool) -> Result<BTreeSet<Piece>, Error> {
        let mut there = BTreeSet::new();
        for &piece in Piece::all(ipv6) {
            let family = piece.family();
            let found = if piece.is_rule() {
                rule::dump(talk, family).map(|rules| self.rule(family).is_among(&rules))
            } else {
                self.has_route(talk, family)
            };
            if found.map_err(|source| self.error("show", piece, source))? {
                there.insert(piece);
            }
        }
        Ok(there)
    }

    /// Adds a piece that is not there. With `replace` a route that has taken its place gives way.
    pub(super) fn add(&self, talk: &Talk, piece: Piece, replace: bool) -> Result<(), Error> {
        let family = piece.family();
        let added = if piece.is_rule() {
            self.rule(family).add(talk)
        } else {
            self.add_route(talk, family, replace)
        };
        added.map_err(|source| self.error("add", piece, source))
    }

    fn add_route(&self, talk: &Talk, family: Family, replace: bool) -> io::Result<()> {
        let add = |flag| {
            let message = RouteNetlinkMessage::NewRoute(self.route(family));
            talk.ask(message, NLM_F_ACK | NLM_F_CREATE | flag).map(drop)
        };
        match add(NLM_F_EXCL) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) && replace => add(NLM_F_REPLACE),
            other => other,
        }
    }

    /// Removes a piece, if it is there.
    pub(super) fn remove(&self, talk: &Talk, piece: Piece) -> Result<bool, Error> {
        let family = piece.family();
        let removed = if piece.is_rule() {
            self.rule(family).remove(talk)
        } else {
            self.remove_route(talk, family)
        };
        removed.map_err(|source| self.error("del", piece, source))
    }

    fn remove_route(&self, talk: &Talk, family: Family) -> io::Result<bool> {
        match talk.ask(RouteNetlinkMessage::DelRoute(self.route(family)), NLM_F_ACK) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(false),
            Err(source) => Err(source),
        }
    }

    /// Its rule in a family's list.
    const fn rule(&self, family: Family) -> Rule<'static> {
        Rule {
            family,
            routing: *self,
            device: None,
        }
    }

    fn route(&self, family: Family) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.address_family = family.to_netlink();
        route.header.table = small(self.table);
        route.header.protocol = RouteProtocol::Boot;
        route.header.kind = RouteType::Local;
        if family == Family::V4 {
            route.header.scope = RouteScope::Host;
        }
        route.attributes = vec![RouteAttribute::Table(self.table), RouteAttribute::Oif(LOOPBACK)];
        route
    }

    fn has_route(&self, talk: &Talk, family: Family) -> io::Result<bool> {
        let mut question = RouteMessage::default();
        question.header.address_family = family.to_netlink();
        question.attributes = vec![RouteAttribute::Table(self.table)];
        let answers = match talk.ask(RouteNetlinkMessage::GetRoute(question), NLM_F_DUMP) {
            // There is no such table.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(false),
            answers => answers?,
        };
        Ok(answers.iter().any(|answer| {
            if let RouteNetlinkMessage::NewRoute(route) = answer {
                self.is_route(route)
            } else {
                false
            }
        }))
    }

    fn is_route(&self, route: &RouteMessage) -> bool {
        let RouteMessage {
            header, attributes, ..
        } = route;
        let plain =
            header.destination_prefix_length == 0 && header.source_prefix_length == 0 && header.tos == 0;
        plain
            && header.kind == RouteType::Local
            && attributes.contains(&RouteAttribute::Table(self.table))
            && attributes.contains(&RouteAttribute::Oif(LOOPBACK))
    }

    fn error(&self, verb: &str, piece: Piece, source: io::Error) -> Error {
        let Self { table, .. } = self;
        let (family, rule) = (piece.family().option(), self.rule(piece.family()));
        let command = match (piece.is_rule(), verb) {
            (true, verb) => format!("ip {family} rule {verb} {rule}"),
            (false, "show") => format!("ip {family} route show table {table}"),
            (false, verb) => format!("ip {family} route {verb} local default dev lo table {table}"),
        };
        routing_error(command, source)
    }
}

/// The table's number where there is room for one octet; the attribute has it in full.
pub(super) fn small(table: u32) -> u8 {
    u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC)
}

/// What it means that a command of `ip` cannot be done.
pub(super) fn routing_error(command: String, source: io::Error) -> Error {
    let hint = match source.raw_os_error() {
        Some(libc::EPERM) => "it needs CAP_NET_ADMIN in the pod's user namespace",
        Some(libc::ENETDOWN | libc::ENODEV | libc::EINVAL) => "is lo up in this namespace?",
        Some(libc::EEXIST) => "does something else in this namespace use this table?",
        Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => {
            "does this kernel have CONFIG_IP_MULTIPLE_TABLES and CONFIG_IPV6_MULTIPLE_TABLES?"
        }
        _ => "is another agent at work here?",
    };
    Error::Routing {
        command,
        source,
        hint,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_the_command() {
        let error = Routing::NODE.error("add", Piece::RuleV6, io::Error::from_raw_os_error(libc::EPERM));
        let text = error.to_string();
        assert!(
            text.starts_with("ip -6 rule add fwmark 0x1111/0xffffffff pref 100 lookup 5120 proto 81: "),
            "{text}"
        );
    }
}
