//! How often something had to be mended.

use super::{programs::Program, routing::Piece, virtuals::VirtualRule};
use crate::facts::IfIndex;

/// How often something that had been put in place was missing there, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// Programs on devices.
    pub programs: u64,
    /// Rules of policy routing.
    pub rules: u64,
    /// Routes.
    pub routes: u64,
    /// Variables of `/proc/sys`.
    pub sysctls: u64,
}

impl Repairs {
    /// All kinds together.
    pub const fn total(&self) -> u64 {
        let Self {
            programs,
            rules,
            routes,
            sysctls,
        } = *self;
        programs + rules + routes + sysctls
    }

    pub(super) const fn add(&mut self, more: Self) {
        let Self {
            programs,
            rules,
            routes,
            sysctls,
        } = more;
        self.programs += programs;
        self.rules += rules;
        self.routes += routes;
        self.sysctls += sysctls;
    }

    pub(super) fn count(&mut self, item: &Item) {
        let counter = match item {
            Item::Program(..) => &mut self.programs,
            Item::Piece(piece) if piece.is_rule() => &mut self.rules,
            Item::VirtualRule(_) => &mut self.rules,
            Item::Piece(_) => &mut self.routes,
            Item::Sysctl(_) => &mut self.sysctls,
        };
        *counter += 1;
    }
}

/// Something that is in place in a namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    /// A program on a device.
    Program(IfIndex, Program),
    /// A rule or a route.
    Piece(Piece),
    /// The rule of a virtual interface.
    VirtualRule(VirtualRule),
    /// A variable that is on.
    Sysctl(&'static str),
}
