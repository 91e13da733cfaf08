//! Lists of ranges as a longest-prefix table has them: what is said of a range is all that is said of those around it.

use std::collections::{BTreeMap, BTreeSet};

use ebpf::capture::Scope;
use ipnet::{IpNet, Ipv4Net};

use super::wish::Outbound;
use crate::facts::Route;

/// Makes one table of what is excluded and included, and of routes that go out by excluded devices. Empty if nothing is
/// said of any range.
///
/// Otherwise it has an entry for all of IPv4: the programs' table has IPv4 inside `::ffff:0:0/96`, where what is said
/// of `::/0` must not reach it.
pub(super) fn flatten(
    outbound: &Outbound,
    routes: &[Route],
    devices: &BTreeSet<String>,
) -> BTreeMap<IpNet, Scope> {
    let mut said: BTreeMap<IpNet, Said> = BTreeMap::new();
    let lists = [
        (&outbound.excluded_ranges, Scope::EXCLUDED),
        (&outbound.included_ranges, Scope::INCLUDED),
    ];
    for (list, scope) in lists {
        for range in list {
            let known = said.entry(*range).or_default();
            known.scope = known.scope.and(scope);
        }
    }
    let excluded =
        |route: &Route| !route.devices.is_empty() && route.devices.iter().all(|name| devices.contains(name));
    if routes.iter().any(excluded) {
        for route in routes {
            said.entry(route.range).or_default().away = Some(excluded(route));
        }
    }
    if said.is_empty() {
        return BTreeMap::new();
    }
    said.entry(IpNet::V4(Ipv4Net::default())).or_default();
    inherit(said)
}

/// What is said of one range.
#[derive(Clone, Copy, Default)]
struct Said {
    scope: Scope,
    /// Whether its route goes out by an excluded device; unlike what lists say, a longer route overrules it.
    away: Option<bool>,
}

/// A range is behind those around it in the order of the map.
fn inherit(said: BTreeMap<IpNet, Said>) -> BTreeMap<IpNet, Scope> {
    let mut around: Vec<(IpNet, Said)> = Vec::new();
    let mut flat = BTreeMap::new();
    for (range, own) in said {
        while around.last().is_some_and(|(outer, _)| !outer.contains(&range)) {
            around.pop();
        }
        let outer = around.last().map(|(_, said)| *said).unwrap_or_default();
        let all = Said {
            scope: outer.scope.and(own.scope),
            away: own.away.or(outer.away),
        };
        let scope = if all.away == Some(true) {
            all.scope.and(Scope::EXCLUDED)
        } else {
            all.scope
        };
        flat.insert(range, scope);
        around.push((range, all));
    }
    flat
}
