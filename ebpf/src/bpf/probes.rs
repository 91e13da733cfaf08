//! The kubelet's probes: noted where its cgroup can be seen, let through where the pod gets them.

use aya_ebpf::{helpers::bpf_ktime_get_ns, macros::map, maps::LruHashMap};
use ebpf::{
    capture::ProbeKey,
    packet::{Kind, Packet},
    rules::capacity,
};

/// Only the kubelet's calls get in here, so nobody else can push them out.
#[map]
static PROBES: LruHashMap<ProbeKey, u64> = LruHashMap::with_max_entries(capacity::PROBES, 0);

/// `BPF_ANY`.
const ANY: u64 = 0;

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: the helper has no requirements.
    unsafe { bpf_ktime_get_ns() }
}

/// Notes a call that the kubelet makes.
#[inline(never)]
pub(super) fn note(packet: &Packet) {
    if matches!(packet.kind, Kind::Tcp(flags) if flags.opens()) {
        // If it cannot be noted, the probe goes to the proxy as any other call.
        let _ = PROBES.insert(ProbeKey::of(packet), now_ns(), ANY);
    }
}

/// Whether the kubelet makes this call.
#[inline(never)]
pub(super) fn is_one(packet: &Packet) -> u32 {
    // SAFETY: one aligned word.
    match unsafe { PROBES.get(ProbeKey::of(packet)) } {
        Some(since) => u32::from(now_ns().wrapping_sub(*since) < ProbeKey::LIFETIME_NS),
        None => 0,
    }
}
