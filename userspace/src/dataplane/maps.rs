//! The maps by their meaning, and their layout by the shared types.

use aya::{
    Ebpf,
    maps::{Array, HashMap, LpmTrie, Map, MapData, MapInfo, MapType, PerCpuArray, lpm_trie::Key},
};
use ebpf::{
    capture::{Capture, CaptureKey, HandshakeKey, Original, Owner, PortKey, ProbeKey, RangeKey, Scope},
    event::{About, Budget, Told, counter},
    flow::{Flow, FlowKey, FragmentKey},
    rules::{Bank, DestinationKey, Endpoint, EndpointKey, GroupSet, Header, RuleKey, capacity, device_slot},
};

use super::{Error, pins::Pins};
use crate::sys::Shared;

/// How a map is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) name: &'static str,
    pub(super) kind: MapType,
    pub(super) key: usize,
    pub(super) value: usize,
    pub(super) capacity: u32,
    pub(super) flags: u32,
}

/// `BPF_F_NO_PREALLOC`.
const SPARSE: u32 = 1;

impl Layout {
    const fn of<K, V>(name: &'static str, kind: MapType, capacity: u32, flags: u32) -> Self {
        Self {
            name,
            kind,
            key: size_of::<K>(),
            value: size_of::<V>(),
            capacity,
            flags,
        }
    }

    /// Compares it with the map that is pinned.
    pub(super) fn check(&self, pins: &Pins) -> Result<(), Error> {
        let info = MapInfo::from_pin(pins.map(self.name)).map_err(|source| Error::map(self.name, source))?;
        let kind = info.map_type().map_err(|source| Error::map(self.name, source))?;
        let fields = [
            ("the type", format!("{kind:?}"), format!("{:?}", self.kind)),
            (
                "the size of a key",
                info.key_size().to_string(),
                self.key.to_string(),
            ),
            (
                "the size of a value",
                info.value_size().to_string(),
                self.value.to_string(),
            ),
            (
                "the number of entries",
                info.max_entries().to_string(),
                self.capacity.to_string(),
            ),
            (
                "the set of flags",
                info.map_flags().to_string(),
                self.flags.to_string(),
            ),
        ];
        for (field, found, wanted) in fields {
            if found != wanted {
                return Err(Error::Layout {
                    path: pins.map(self.name),
                    field,
                    found,
                    wanted,
                });
            }
        }
        Ok(())
    }
}

/// Every map that is pinned. The rooms in which a program works (`DESK`, `SCRATCH`) are not: they hold nothing.
pub(super) const PINNED: [Layout; 23] = [
    Layout::of::<u32, Bank>("ACTIVE", MapType::Array, 1, 0),
    Layout::of::<u32, Header>("HEADERS", MapType::Array, 2, 0),
    Layout::of::<u32, Endpoint>("DEVICES", MapType::Array, device_slot::COUNT, 0),
    Layout::of::<EndpointKey, Endpoint>("ENDPOINTS", MapType::Hash, capacity::ENDPOINTS, SPARSE),
    Layout::of::<DestinationKey, GroupSet>("HOSTS", MapType::Hash, capacity::HOSTS, SPARSE),
    Layout::of::<Key<DestinationKey>, GroupSet>("NETWORKS", MapType::LpmTrie, capacity::NETWORKS, SPARSE),
    Layout::of::<Key<RuleKey>, u32>("RULES", MapType::LpmTrie, capacity::RULES, SPARSE),
    Layout::of::<FlowKey, Flow>("HALF_OPEN", MapType::LruHash, capacity::HALF_OPEN, 0),
    Layout::of::<FlowKey, Flow>("ESTABLISHED", MapType::LruHash, capacity::ESTABLISHED, 0),
    Layout::of::<FlowKey, Flow>("OURS", MapType::LruHash, capacity::OURS, 0),
    Layout::of::<FragmentKey, u64>("FRAGMENTS", MapType::LruHash, capacity::FRAGMENTS, 0),
    Layout::of::<u32, u64>("COUNTERS", MapType::PerCpuArray, counter::COUNT, 0),
    Layout {
        name: EVENTS,
        kind: MapType::RingBuf,
        key: 0,
        value: 0,
        capacity: capacity::EVENT_BYTES,
        flags: 0,
    },
    Layout::of::<About, Told>(TOLD, MapType::LruPerCpuHash, capacity::TOLD, 0),
    Layout::of::<u32, Budget>("BUDGETS", MapType::PerCpuArray, Budget::COUNT, 0),
    Layout::of::<u32, u32>("OBSERVE", MapType::Array, 1, 0),
    Layout::of::<CaptureKey, Capture>("CAPTURES", MapType::Hash, capacity::CAPTURES, SPARSE),
    Layout::of::<DestinationKey, Owner>("OWNERS", MapType::Hash, capacity::OWNERS, SPARSE),
    Layout::of::<Key<RangeKey>, Scope>("RANGES", MapType::LpmTrie, capacity::RANGES, SPARSE),
    Layout::of::<PortKey, Scope>("PORTS", MapType::Hash, capacity::PORTS, SPARSE),
    Layout::of::<HandshakeKey, Original>("HANDSHAKES", MapType::Hash, capacity::HANDSHAKES, SPARSE),
    Layout::of::<ProbeKey, u64>("PROBES", MapType::LruHash, capacity::PROBES, 0),
    Layout::of::<u32, Original>("ORIGINALS", MapType::SkStorage, 0, SPARSE),
];

/// The maps whose entries the programs make. Those of the agent's it knows without counting; of the others there is always
/// as much as there is room for, or as there are sockets.
const FILLED_BY_PROGRAMS: [&str; 7] = [
    "HALF_OPEN",
    "ESTABLISHED",
    "OURS",
    "FRAGMENTS",
    "HANDSHAKES",
    "PROBES",
    TOLD,
];

/// The maps whose entries have to be counted.
pub(super) fn filled_by_programs() -> impl Iterator<Item = Layout> {
    let is_one = |layout: &Layout| FILLED_BY_PROGRAMS.contains(&layout.name);
    PINNED.into_iter().filter(is_one)
}

/// The name of the ring of events.
pub(super) const EVENTS: &str = "EVENTS";
/// The name of the flows that somebody was told of.
pub(super) const TOLD: &str = "TOLD";

pub(super) type Hash<K, V> = HashMap<MapData, Shared<K>, Shared<V>>;
pub(super) type Trie<K, V> = LpmTrie<MapData, Shared<K>, V>;

/// The rules, in both banks.
pub(super) struct RuleMaps {
    pub(super) active: Array<MapData, Shared<Bank>>,
    pub(super) headers: Array<MapData, Shared<Header>>,
    pub(super) devices: Array<MapData, Shared<Endpoint>>,
    pub(super) endpoints: Hash<EndpointKey, Endpoint>,
    pub(super) hosts: Hash<DestinationKey, GroupSet>,
    pub(super) networks: Trie<DestinationKey, Shared<GroupSet>>,
    pub(super) rules: Trie<RuleKey, u32>,
    pub(super) captures: Hash<CaptureKey, Capture>,
    pub(super) owners: Hash<DestinationKey, Owner>,
    pub(super) ranges: Trie<RangeKey, Shared<Scope>>,
    pub(super) ports: Hash<PortKey, Scope>,
}

impl RuleMaps {
    /// The bank that the programs read, and what is true for all of it.
    pub(super) fn active(&self) -> Result<(Bank, Header), Error> {
        read_header(&self.active, &self.headers)
    }
}

pub(super) fn read_header(
    active: &Array<MapData, Shared<Bank>>,
    headers: &Array<MapData, Shared<Header>>,
) -> Result<(Bank, Header), Error> {
    let active = active.get(&0, 0);
    let Shared(bank) = active.map_err(|source| Error::map("ACTIVE", source))?;
    let header = headers.get(&bank.index(), 0);
    let Shared(header) = header.map_err(|source| Error::map("HEADERS", source))?;
    Ok((bank, header))
}

/// What the programs remember.
pub(super) struct FlowMaps {
    pub(super) half_open: Hash<FlowKey, Flow>,
    pub(super) established: Hash<FlowKey, Flow>,
    pub(super) fragments: HashMap<MapData, Shared<FragmentKey>, u64>,
}

/// What the programs tell, but for events.
pub(super) struct ReportMaps {
    pub(super) counters: PerCpuArray<MapData, u64>,
    pub(super) observe: Array<MapData, u32>,
}

/// All of them.
pub(super) struct Maps {
    pub(super) rules: RuleMaps,
    pub(super) flows: FlowMaps,
    pub(super) reports: ReportMaps,
}

impl Maps {
    /// Takes them out of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            rules: RuleMaps {
                active: take(ebpf, "ACTIVE")?,
                headers: take(ebpf, "HEADERS")?,
                devices: take(ebpf, "DEVICES")?,
                endpoints: take(ebpf, "ENDPOINTS")?,
                hosts: take(ebpf, "HOSTS")?,
                networks: take(ebpf, "NETWORKS")?,
                rules: take(ebpf, "RULES")?,
                captures: take(ebpf, "CAPTURES")?,
                owners: take(ebpf, "OWNERS")?,
                ranges: take(ebpf, "RANGES")?,
                ports: take(ebpf, "PORTS")?,
            },
            flows: FlowMaps {
                half_open: take(ebpf, "HALF_OPEN")?,
                established: take(ebpf, "ESTABLISHED")?,
                fragments: take(ebpf, "FRAGMENTS")?,
            },
            reports: ReportMaps {
                counters: take(ebpf, "COUNTERS")?,
                observe: take(ebpf, "OBSERVE")?,
            },
        })
    }
}

fn take<M: TryFrom<Map, Error = aya::maps::MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<M, Error> {
    let map = ebpf.take_map(name).ok_or(Error::Missing { kind: "map", name })?;
    M::try_from(map).map_err(|source| Error::map(name, source))
}
