//! Policy routing in the node's own namespace, for a proxy of the node.

use std::path::Path;

use super::{Error, Routing, ground::Home, record::Records, routing::Piece, sysctls, undo::undo};
use crate::{
    netlink::Talk,
    problem::{Problem, Severity},
};

/// Sees to it that [`Routing::NODE`] is in the calling thread's network namespace. Returns how many rules and routes had
/// to be added: after the first call, how many had been taken away.
pub fn put_node_routing(records: &Path) -> Result<usize, Error> {
    let records = Records::open(records)?;
    let home = Home::here()?;
    let talk = Talk::open().map_err(|source| Error::Netlink {
        what: "anything",
        source,
    })?;
    let ipv6 = sysctls::lo_has_ipv6();
    let known = records.find(home.cookie())?;
    let first = known.is_none();
    let mut record = known.unwrap_or_else(|| records.blank(home.cookie(), "the node", Routing::NODE));
    let there = record.routing.look(&talk, ipv6)?;
    let before = record.pieces.clone();
    for &piece in Piece::all(ipv6) {
        record
            .pieces
            .entry(piece)
            .or_insert_with(|| there.contains(&piece));
    }
    if first || record.pieces != before {
        records.save(&record)?;
    }
    let mut added = 0;
    for &piece in Piece::all(ipv6) {
        if !there.contains(&piece) {
            record.routing.add(&talk, piece, before.contains_key(&piece))?;
            added += 1;
        }
    }
    Ok(added)
}

/// What in the calling thread's namespace keeps it from working for pods behind these devices.
pub fn node_problems<'a>(devices: impl IntoIterator<Item = &'a str>) -> Vec<Problem> {
    let strict = devices
        .into_iter()
        .filter(|device| sysctls::src_valid_mark(device));
    strict
        .map(|device| {
            let message = format!(
                "the kernel drops what {device} sends to the proxy on the node: it asks for the way back with the packet's \
                 mark; set net.ipv4.conf.all.src_valid_mark and net.ipv4.conf.{device}.src_valid_mark to 0 (wg-quick sets \
                 them)"
            );
            Problem::new(Severity::Warning, message)
        })
        .collect()
}

/// Removes it again, but for what was there before.
pub fn take_node_routing(records: &Path) -> Vec<Error> {
    let take = || -> Result<Vec<Error>, Error> {
        let records = Records::open(records)?;
        let home = Home::here()?;
        let Some(record) = records.find(home.cookie())? else {
            return Ok(Vec::new());
        };
        Ok(undo(&home, &records, &record))
    };
    take().unwrap_or_else(|error| vec![error])
}
