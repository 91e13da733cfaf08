//! Policy routing: what carries a mark is delivered here, whatever its address.
//!
//! ```text
//! ip rule add fwmark 0x111/0xfff pref 32764 lookup 100
//! ip route add local default dev lo table 100
//! ```

use std::{collections::BTreeSet, fmt, io};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
};
use serde::{Deserialize, Serialize};

use super::Error;
use crate::netlink::Talk;

/// `lo` has this index in every network namespace (`LOOPBACK_IFINDEX`).
pub(super) const LOOPBACK: u32 = 1;

/// Says in a rule who made it (`ip rule` shows `proto 81`). The kernel removes the first rule that has all that is asked
/// for, and with it one that somebody made narrower than ours; this nobody else's has.
const OURS: RouteProtocol = RouteProtocol::Other(81);

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

    const fn family(self) -> AddressFamily {
        match self {
            Self::RouteV4 | Self::RuleV4 => AddressFamily::Inet,
            Self::RouteV6 | Self::RuleV6 => AddressFamily::Inet6,
        }
    }
}

impl Routing {
    /// Which pieces there are.
    pub(super) fn look(&self, talk: &Talk, ipv6: bool) -> Result<BTreeSet<Piece>, Error> {
        let mut there = BTreeSet::new();
        for &piece in Piece::all(ipv6) {
            let found = if piece.is_rule() {
                self.has_rule(talk, piece.family())
            } else {
                self.has_route(talk, piece.family())
            };
            if found.map_err(|source| self.error("show", piece, source))? {
                there.insert(piece);
            }
        }
        Ok(there)
    }

    /// Adds a piece that is not there. With `replace` a route that has taken its place gives way.
    pub(super) fn add(&self, talk: &Talk, piece: Piece, replace: bool) -> Result<(), Error> {
        let flags = NLM_F_ACK | NLM_F_CREATE;
        let add = |flags| {
            let message = if piece.is_rule() {
                RouteNetlinkMessage::NewRule(self.rule(piece.family()))
            } else {
                RouteNetlinkMessage::NewRoute(self.route(piece.family()))
            };
            talk.ask(message, flags)
        };
        let added = match add(flags | NLM_F_EXCL) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) && piece.is_rule() => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) && replace => add(flags | NLM_F_REPLACE),
            other => other,
        };
        added.map(drop).map_err(|source| self.error("add", piece, source))
    }

    /// Removes a piece, if it is there.
    pub(super) fn remove(&self, talk: &Talk, piece: Piece) -> Result<bool, Error> {
        let message = if piece.is_rule() {
            RouteNetlinkMessage::DelRule(self.rule(piece.family()))
        } else {
            RouteNetlinkMessage::DelRoute(self.route(piece.family()))
        };
        match talk.ask(message, NLM_F_ACK) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(false),
            Err(source) => Err(self.error("del", piece, source)),
        }
    }

    fn rule(&self, family: AddressFamily) -> RuleMessage {
        let mut rule = RuleMessage::default();
        rule.header.family = family;
        rule.header.action = RuleAction::ToTable;
        rule.header.table = small(self.table);
        rule.attributes = vec![
            RuleAttribute::Priority(self.priority),
            RuleAttribute::FwMark(self.mark),
            RuleAttribute::FwMask(self.mask),
            RuleAttribute::Table(self.table),
            RuleAttribute::Protocol(OURS),
        ];
        rule
    }

    fn has_rule(&self, talk: &Talk, family: AddressFamily) -> io::Result<bool> {
        let mut question = RuleMessage::default();
        question.header.family = family;
        let answers = talk.ask(RouteNetlinkMessage::GetRule(question), NLM_F_DUMP)?;
        Ok(answers.iter().any(|answer| {
            if let RouteNetlinkMessage::NewRule(rule) = answer {
                self.is_rule(rule)
            } else {
                false
            }
        }))
    }

    /// Whether it is the rule: with nothing that narrows it, whoever made it.
    fn is_rule(&self, rule: &RuleMessage) -> bool {
        let header = &rule.header;
        let plain = header.action == RuleAction::ToTable
            && (header.dst_len, header.src_len, header.tos) == (0, 0, 0)
            && !header.flags.contains(RuleFlags::Invert);
        let ours = [
            RuleAttribute::Priority(self.priority),
            RuleAttribute::FwMark(self.mark),
            RuleAttribute::FwMask(self.mask),
            RuleAttribute::Table(self.table),
        ];
        let narrows = |attribute: &RuleAttribute| {
            let harmless = matches!(
                attribute,
                RuleAttribute::Protocol(_) | RuleAttribute::SuppressPrefixLen(u32::MAX)
            );
            !harmless && !ours.contains(attribute)
        };
        plain
            && ours.iter().all(|attribute| rule.attributes.contains(attribute))
            && !rule.attributes.iter().any(narrows)
    }

    fn route(&self, family: AddressFamily) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.address_family = family;
        route.header.table = small(self.table);
        route.header.protocol = RouteProtocol::Boot;
        route.header.kind = RouteType::Local;
        if family == AddressFamily::Inet {
            route.header.scope = RouteScope::Host;
        }
        route.attributes = vec![RouteAttribute::Table(self.table), RouteAttribute::Oif(LOOPBACK)];
        route
    }

    fn has_route(&self, talk: &Talk, family: AddressFamily) -> io::Result<bool> {
        let mut question = RouteMessage::default();
        question.header.address_family = family;
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
        let command = Command {
            routing: self,
            verb,
            piece,
        };
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
            command: command.to_string(),
            source,
            hint,
        }
    }
}

/// The table's number where there is room for one octet; the attribute has it in full.
fn small(table: u32) -> u8 {
    u8::try_from(table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC)
}

/// What somebody would type.
struct Command<'a> {
    routing: &'a Routing,
    verb: &'a str,
    piece: Piece,
}

impl fmt::Display for Command<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            routing:
                Routing {
                    mark,
                    mask,
                    priority,
                    table,
                },
            verb,
            piece,
        } = self;
        let family = if piece.family() == AddressFamily::Inet {
            "-4"
        } else {
            "-6"
        };
        match (piece.is_rule(), *verb) {
            (true, "show") => write!(f, "ip {family} rule show pref {priority}"),
            (false, "show") => write!(f, "ip {family} route show table {table}"),
            (true, verb) => write!(
                f,
                "ip {family} rule {verb} fwmark {mark:#x}/{mask:#x} pref {priority} lookup {table} proto 81"
            ),
            (false, verb) => write!(f, "ip {family} route {verb} local default dev lo table {table}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_is_narrower_is_not_ours() {
        let ours = Routing::POD.rule(AddressFamily::Inet);
        assert!(Routing::POD.is_rule(&ours));
        assert!(!Routing::NODE.is_rule(&ours));
        let mut as_shown = ours.clone();
        as_shown
            .attributes
            .retain(|attribute| !matches!(attribute, RuleAttribute::Protocol(_)));
        as_shown.attributes.extend([
            RuleAttribute::SuppressPrefixLen(u32::MAX),
            RuleAttribute::Protocol(RouteProtocol::Boot),
        ]);
        assert!(Routing::POD.is_rule(&as_shown));
        let mut narrow = ours.clone();
        narrow.attributes.push(RuleAttribute::Iifname("eth0".into()));
        assert!(!Routing::POD.is_rule(&narrow));
        let mut inverted = ours;
        inverted.header.flags = RuleFlags::Invert;
        assert!(!Routing::POD.is_rule(&inverted));
    }

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
