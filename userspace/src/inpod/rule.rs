//! A rule of policy routing: which packets are looked up in a table.

use std::{fmt, io};

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::RouteProtocol,
    rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage},
};
use serde::{Deserialize, Serialize};

use super::routing::{Routing, small};
use crate::netlink::Talk;

/// Says in a rule who made it (`ip rule` shows `proto 81`). The kernel removes the first rule that has all that is asked
/// for, and with it one that somebody made narrower than ours; this nobody else's has.
const OURS: RouteProtocol = RouteProtocol::Other(81);

/// Whose rules: the kernel has a list for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    /// Both, or IPv4 alone.
    pub(super) fn all(ipv6: bool) -> &'static [Self] {
        const ALL: [Family; 2] = [Family::V4, Family::V6];
        if ipv6 { &ALL } else { &ALL[..1] }
    }

    pub(super) const fn to_netlink(self) -> AddressFamily {
        match self {
            Self::V4 => AddressFamily::Inet,
            Self::V6 => AddressFamily::Inet6,
        }
    }

    /// The option of `ip`.
    pub(super) const fn option(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }
}

/// One of them. `Display` is what follows `ip rule add`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rule<'a> {
    pub(super) family: Family,
    pub(super) routing: Routing,
    /// Where a packet has to come in for it, if that matters.
    pub(super) device: Option<&'a str>,
}

/// All rules of a family.
pub(super) fn dump(talk: &Talk, family: Family) -> io::Result<Vec<RuleMessage>> {
    let mut question = RuleMessage::default();
    question.header.family = family.to_netlink();
    let answers = talk.ask(RouteNetlinkMessage::GetRule(question), NLM_F_DUMP)?;
    let rule = |answer| {
        if let RouteNetlinkMessage::NewRule(rule) = answer {
            Some(rule)
        } else {
            None
        }
    };
    Ok(answers.into_iter().filter_map(rule).collect())
}

impl Rule<'_> {
    /// Adds it, if it is not there.
    pub(super) fn add(&self, talk: &Talk) -> io::Result<()> {
        let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        match talk.ask(RouteNetlinkMessage::NewRule(self.message()), flags) {
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Removes ours, if it is there.
    pub(super) fn remove(&self, talk: &Talk) -> io::Result<bool> {
        match talk.ask(RouteNetlinkMessage::DelRule(self.message()), NLM_F_ACK) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Ok(false),
            Err(source) => Err(source),
        }
    }

    /// Whether it is among these: with nothing that narrows it, whoever made it.
    pub(super) fn is_among(&self, rules: &[RuleMessage]) -> bool {
        rules.iter().any(|rule| self.is(rule))
    }

    fn is(&self, rule: &RuleMessage) -> bool {
        let header = &rule.header;
        let plain = header.action == RuleAction::ToTable
            && (header.dst_len, header.src_len, header.tos) == (0, 0, 0)
            && !header.flags.contains(RuleFlags::Invert);
        let ours = self.selector();
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

    fn message(&self) -> RuleMessage {
        let mut rule = RuleMessage::default();
        rule.header.family = self.family.to_netlink();
        rule.header.action = RuleAction::ToTable;
        rule.header.table = small(self.routing.table);
        rule.attributes = self.selector();
        rule.attributes.push(RuleAttribute::Protocol(OURS));
        rule
    }

    fn selector(&self) -> Vec<RuleAttribute> {
        let Routing {
            mark,
            mask,
            priority,
            table,
        } = self.routing;
        let device = self.device.map(|device| RuleAttribute::Iifname(device.into()));
        let numbers = [
            RuleAttribute::Priority(priority),
            RuleAttribute::FwMark(mark),
            RuleAttribute::FwMask(mask),
            RuleAttribute::Table(table),
        ];
        numbers.into_iter().chain(device).collect()
    }
}

impl fmt::Display for Rule<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Routing {
            mark,
            mask,
            priority,
            table,
        } = self.routing;
        if let Some(device) = self.device {
            write!(f, "iif {device} ")?;
        }
        write!(
            f,
            "fwmark {mark:#x}/{mask:#x} pref {priority} lookup {table} proto 81"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Rule<'_> = Rule {
        family: Family::V4,
        routing: Routing::POD,
        device: None,
    };

    #[test]
    fn a_rule_that_is_narrower_is_not_ours() {
        let ours = PLAIN.message();
        assert!(PLAIN.is(&ours));
        let node = Rule {
            routing: Routing::NODE,
            ..PLAIN
        };
        assert!(!node.is(&ours));
        let mut as_shown = ours.clone();
        as_shown
            .attributes
            .retain(|attribute| !matches!(attribute, RuleAttribute::Protocol(_)));
        as_shown.attributes.extend([
            RuleAttribute::SuppressPrefixLen(u32::MAX),
            RuleAttribute::Protocol(RouteProtocol::Boot),
        ]);
        assert!(PLAIN.is(&as_shown));
        let mut narrow = ours.clone();
        narrow.attributes.push(RuleAttribute::Iifname("eth0".into()));
        assert!(!PLAIN.is(&narrow));
        let mut inverted = ours;
        inverted.header.flags = RuleFlags::Invert;
        assert!(!PLAIN.is(&inverted));
    }

    #[test]
    fn a_rule_of_a_device_is_no_other_s() {
        let of = |device| Rule {
            device: Some(device),
            ..PLAIN
        };
        assert!(of("vm0").is_among(&[PLAIN.message(), of("vm0").message()]));
        assert!(!of("vm0").is_among(&[PLAIN.message(), of("vm1").message()]));
    }
}
