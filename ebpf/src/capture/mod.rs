//! Which connections belong to the node proxy: what the agent writes, what the programs read, and the decision.
//!
//! Who calls is told by the network namespace of his socket; who is called, by an address of his own. The proxy itself is
//! told by its cgroup: nothing that can be chosen inside a pod exempts from capture.

mod judge;
mod keys;
pub mod port;
mod record;

pub use judge::{
    Call, Fate, Lookup, call, inbound, inbound_of_unknown, overrule, redirects_at_call, sent, unreadable,
};
pub use keys::{CaptureKey, HandshakeKey, Original, Owner, PortKey, ProbeKey, RangeKey, Scope};
pub use record::{Capture, CgroupRef, Mode, PROXIES};

#[cfg(test)]
mod tests;

#[inline(always)]
const fn split(word: u64) -> [u32; 2] {
    [word as u32, (word >> 32) as u32]
}

#[inline(always)]
const fn join([low, high]: [u32; 2]) -> u64 {
    low as u64 | (high as u64) << 32
}
