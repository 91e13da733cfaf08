//! How full the maps are that the programs fill.

use std::{collections::BTreeMap, os::fd::AsFd as _};

use aya::{
    maps::{MapData, MapType},
    util::nr_cpus,
};

use super::{
    Error,
    maps::{Layout, filled_by_programs},
    pins::Pins,
};
use crate::sys::bpf::count_entries;

/// Handles of those maps, to count their entries by: a table of 262,144 flows takes some ten milliseconds, which is too
/// long for the agent's loop.
#[derive(Debug)]
pub struct Occupancy(Vec<(Layout, MapData)>);

impl Occupancy {
    pub(super) fn open(pins: &Pins) -> Result<Self, Error> {
        let open = |layout: Layout| {
            let data = MapData::from_pin(pins.map(layout.name));
            Ok((layout, data.map_err(|source| Error::map(layout.name, source))?))
        };
        filled_by_programs().map(open).collect::<Result<_, _>>().map(Self)
    }

    /// Counts the entries. It blocks, for as long as the tables are large.
    pub fn count(&self) -> Result<BTreeMap<&'static str, usize>, Error> {
        // A value is copied once for each.
        let processors = nr_cpus().map_err(|(_, source)| Error::Processors(source))?;
        let count = |(layout, data): &(Layout, MapData)| {
            let Layout {
                name,
                kind,
                key,
                value,
                ..
            } = *layout;
            let value = if kind == MapType::LruPerCpuHash {
                value.next_multiple_of(8) * processors
            } else {
                value
            };
            let counted = count_entries(data.fd().as_fd(), key, value);
            Ok((name, counted.map_err(|source| Error::Count { name, source })?))
        };
        self.0.iter().map(count).collect()
    }
}
