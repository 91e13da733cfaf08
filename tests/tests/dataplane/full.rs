//! Maps without room: each is named, and the rules that were there stay.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use aya::maps::{HashMap, LpmTrie, MapData, lpm_trie::Key};
use ebpf::{
    Addr,
    capture::{Capture, CaptureKey, Mode, Owner, PortKey, RangeKey, Scope},
    packet::Protocol,
    rules::{DestinationKey, Endpoint, EndpointKey, GroupSet, Identity, PolicyId, RuleKey, capacity},
};
use sluice::{
    dataplane::{Dataplane, Error},
    desired::{Desired, Ports, Rule},
    facts::NetnsCookie,
};
use sluice_tests::{
    bench::addresses::{REGISTERED, UNREGISTERED},
    in_guest,
};

use crate::rig::{Rig, sync};

const SOMEBODY: NetnsCookie = NetnsCookie(7);

/// A map, how it is filled, and a rule that needs room in it.
struct Case {
    map: &'static str,
    capacity: u32,
    fill: fn(&Path, u32) -> Result<()>,
    more: fn(&mut Desired),
}

const CASES: [Case; 8] = [
    Case {
        map: "ENDPOINTS",
        capacity: capacity::ENDPOINTS,
        fill: fill_hash::<{ size_of::<EndpointKey>() }, { size_of::<Endpoint>() }>,
        more: |desired| {
            let endpoint = Endpoint::new(1, [0; 6], None, None);
            desired.endpoints.insert(Identity::Netns(SOMEBODY.0), endpoint);
        },
    },
    Case {
        map: "CAPTURES",
        capacity: capacity::CAPTURES,
        fill: fill_hash::<{ size_of::<CaptureKey>() }, { size_of::<Capture>() }>,
        more: |desired| {
            let capture = Capture::new(SOMEBODY.0, Mode::InPod);
            desired.captures.insert(SOMEBODY, capture);
        },
    },
    Case {
        map: "OWNERS",
        capacity: capacity::OWNERS,
        fill: fill_hash::<{ size_of::<DestinationKey>() }, { size_of::<Owner>() }>,
        more: |desired| {
            desired.owners.insert(Addr::v4([10, 244, 0, 7]), SOMEBODY);
        },
    },
    Case {
        map: "PORTS",
        capacity: capacity::PORTS,
        fill: fill_hash::<{ size_of::<PortKey>() }, { size_of::<Scope>() }>,
        more: |desired| {
            desired.ports.insert((SOMEBODY, 80), Scope::EXCLUDED);
        },
    },
    Case {
        map: "RANGES",
        capacity: capacity::RANGES,
        fill: fill_trie::<{ size_of::<RangeKey>() }, { size_of::<Scope>() }>,
        more: |desired| {
            let range = "192.0.2.0/24".parse().expect("a prefix");
            desired.ranges.insert((SOMEBODY, range), Scope::EXCLUDED);
        },
    },
    Case {
        map: "RULES",
        capacity: capacity::RULES,
        fill: fill_trie::<{ size_of::<RuleKey>() }, { size_of::<u32>() }>,
        more: |desired| {
            desired.rules.insert(Rule {
                policy: PolicyId(7),
                groups: GroupSet::numbered(7),
                ports: Ports::single(Protocol::TCP, 80),
            });
        },
    },
    Case {
        map: "HOSTS",
        capacity: capacity::HOSTS,
        fill: fill_hash::<{ size_of::<DestinationKey>() }, { size_of::<GroupSet>() }>,
        more: |desired| add_destination(desired, "198.51.100.77/32"),
    },
    Case {
        map: "NETWORKS",
        capacity: capacity::NETWORKS,
        fill: fill_trie::<{ size_of::<DestinationKey>() }, { size_of::<GroupSet>() }>,
        more: |desired| add_destination(desired, "198.51.100.0/24"),
    },
];

fn add_destination(desired: &mut Desired, prefix: &str) {
    let prefix = prefix.parse().expect("a prefix");
    desired.destinations.insert(prefix, GroupSet::numbered(7));
}

#[test]
fn a_full_map_is_named_and_the_rules_stay() -> Result<()> {
    for case in CASES {
        // An emulated machine has neither the time for the large ones nor the memory.
        if in_guest() && case.capacity > 100_000 {
            continue;
        }
        stays(&case)?;
    }
    Ok(())
}

fn stays(case: &Case) -> Result<()> {
    let rig = Rig::create()?;
    rig.on_node(|| {
        let mut dataplane = Dataplane::open(&rig.options())?;
        let devices = rig.devices()?;
        let good = rig.desired(&devices[0], None);
        dataplane.apply(&good)?;
        sync(&mut dataplane, &devices)?;
        // The other bank has what the next change leaves as it is.
        dataplane.settle()?;
        (case.fill)(&rig.pin("maps", case.map), case.capacity)?;
        let mut excess = good.clone();
        (case.more)(&mut excess);
        match dataplane.apply(&excess) {
            Err(Error::Full { map, capacity }) => {
                ensure!(
                    (map, capacity) == (case.map, case.capacity),
                    "{map} is said to be full"
                );
            }
            other => bail!("{}: {other:?}", case.map),
        }
        ensure!(dataplane.generation().0 == 1 && dataplane.lookup()?.generation().0 == 1);
        let holds = rig.arrives(REGISTERED[0], 53)? && !rig.arrives(UNREGISTERED[0], 53)?;
        ensure!(holds, "{}: other rules than those before", case.map);
        ensure!(
            dataplane.apply(&good)?.is_none(),
            "those are the active ones still"
        );
        Ok(())
    })
}

/// Puts entries of a bank that does not exist into the map until it takes no more.
fn fill_hash<const K: usize, const V: usize>(pin: &Path, capacity: u32) -> Result<()> {
    let map = aya::maps::Map::from_map_data(MapData::from_pin(pin)?)?;
    let mut map = HashMap::<_, [u8; K], [u8; V]>::try_from(map)?;
    is_full(capacity, |number| Ok(map.insert(filler(number), [0; V], 0)?))
}

fn fill_trie<const K: usize, const V: usize>(pin: &Path, capacity: u32) -> Result<()> {
    let map = aya::maps::Map::from_map_data(MapData::from_pin(pin)?)?;
    let mut map = LpmTrie::<_, [u8; K], [u8; V]>::try_from(map)?;
    let bits = u32::try_from(8 * K)?;
    is_full(capacity, |number| {
        Ok(map.insert(&Key::new(bits, filler(number)), [0; V], 0)?)
    })
}

fn filler<const K: usize>(number: u32) -> [u8; K] {
    let mut key = [0xff; K];
    key[K - 4..].copy_from_slice(&number.to_be_bytes());
    key
}

fn is_full(capacity: u32, mut add: impl FnMut(u32) -> Result<()>) -> Result<()> {
    let added = (0..=capacity).take_while(|&number| add(number).is_ok()).count();
    ensure!(
        added > 0 && added <= capacity as usize,
        "{added} entries were added, and it is not full"
    );
    Ok(())
}
