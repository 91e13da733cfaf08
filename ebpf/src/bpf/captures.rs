//! Who is captured, and what his pod says of ranges and ports.

use aya_ebpf::{
    macros::map,
    maps::{HashMap, LpmTrie, lpm_trie::Key},
};
use ebpf::{
    Addr,
    capture::{Capture, CaptureKey, Lookup, Owner, PortKey, RangeKey, Scope},
    rules::{DestinationKey, capacity},
};

use super::rules::{Generation, NO_PREALLOC};

#[map]
static CAPTURES: HashMap<CaptureKey, Capture> = HashMap::with_max_entries(capacity::CAPTURES, NO_PREALLOC);
#[map]
static OWNERS: HashMap<DestinationKey, Owner> = HashMap::with_max_entries(capacity::OWNERS, NO_PREALLOC);
#[map]
static RANGES: LpmTrie<RangeKey, Scope> = LpmTrie::with_max_entries(capacity::RANGES, NO_PREALLOC);
#[map]
static PORTS: HashMap<PortKey, Scope> = HashMap::with_max_entries(capacity::PORTS, NO_PREALLOC);

impl Generation {
    /// How the network namespace with this cookie is captured, if it is.
    #[inline(always)]
    pub(super) fn capture(&self, netns: u64) -> Option<&Capture> {
        // SAFETY: as in `Generation::endpoint`.
        unsafe { CAPTURES.get(CaptureKey::new(self.bank, netns)) }
    }

    /// How the network namespace that has this address is captured.
    #[inline(always)]
    pub(super) fn capture_at(&self, addr: Addr) -> Option<&Capture> {
        match self.owner(addr) {
            0 => None,
            netns => self.capture(netns),
        }
    }
}

impl Lookup for Generation {
    #[inline(always)]
    fn range(&self, netns: u64, addr: Addr) -> Scope {
        let key = Key::new(RangeKey::BITS, RangeKey::new(self.bank, netns, addr));
        match RANGES.get(key) {
            Some(scope) => *scope,
            None => Scope::NONE,
        }
    }

    #[inline(always)]
    fn port(&self, netns: u64, port: u16) -> Scope {
        // SAFETY: as in `Generation::endpoint`.
        match unsafe { PORTS.get(PortKey::new(self.bank, netns, port)) } {
            Some(scope) => *scope,
            None => Scope::NONE,
        }
    }

    #[inline(always)]
    fn owner(&self, addr: Addr) -> u64 {
        // SAFETY: as in `Generation::endpoint`.
        match unsafe { OWNERS.get(DestinationKey::new(self.bank, addr)) } {
            Some(owner) => owner.netns(),
            None => 0,
        }
    }
}
