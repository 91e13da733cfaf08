//! A packet in the kernel.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext,
    bindings::__sk_buff,
    helpers::{bpf_skb_ancestor_cgroup_id, bpf_skb_load_bytes},
    macros::map,
    maps::PerCpuArray,
    programs::TcContext,
};
use ebpf::{
    DropReason,
    event::Outcome,
    packet::{Bytes, Header, Link, Packet, parse},
    reason::Approval,
};

/// Where a packet's parts are kept while it is judged; the stack of 512 octets is too small for them.
///
/// One per CPU is enough: tc programs run with bottom halves disabled, and none of ours calls another.
#[map]
static PACKET: PerCpuArray<Packet> = PerCpuArray::with_max_entries(1, 0);

/// The mark of a packet that is not real: `BPF_PROG_TEST_RUN` sets it to ask for a verdict without counters,
/// events and flows. No packet of a pod can have it, as a change of network namespace clears the mark.
const REPLAY_MARK: u32 = 0x51_1c_e0_00;

/// A packet at a tc hook.
pub(super) struct Skb(*mut __sk_buff);

impl Skb {
    #[inline(always)]
    pub(super) fn new(ctx: &TcContext) -> Self {
        Self(ctx.as_ptr().cast())
    }

    #[inline(always)]
    pub(super) fn as_ptr(&self) -> *mut __sk_buff {
        self.0
    }

    /// Reads the packet. `None` if there is no room to, which never happens: the map has an entry.
    #[inline(always)]
    pub(super) fn parse(&self, link: Link) -> Option<(&Packet, Result<(), DropReason>)> {
        let packet = PACKET.get_ptr_mut(0)?;
        // SAFETY: a valid pointer to this CPU's place, which nobody else uses meanwhile, see `PACKET`; it is
        // written as a whole before it is read.
        let packet = unsafe {
            packet.write(Packet::EMPTY);
            &mut *packet
        };
        let parsed = parse(self, link, packet);
        Some((packet, parsed))
    }

    /// Index of the device whose hook this is.
    #[inline(always)]
    pub(super) fn device(&self) -> u32 {
        // SAFETY: the kernel hands a valid context to the program for as long as it runs.
        unsafe { (*self.0).ifindex }
    }

    /// Index of the device that the packet came in by; 0 if the node made it.
    #[inline(always)]
    pub(super) fn came_in_by(&self) -> u32 {
        // SAFETY: as in `device`.
        unsafe { (*self.0).ingress_ifindex }
    }

    /// The ethertype that the kernel has for it, in host order.
    #[inline(always)]
    pub(super) fn ether_type(&self) -> u16 {
        // SAFETY: as in `device`.
        u16::from_be(unsafe { (*self.0).protocol } as u16)
    }

    /// Whether this is a question about a packet, not a packet.
    #[inline(always)]
    pub(super) fn is_replay(&self) -> bool {
        self.mark() == REPLAY_MARK
    }

    #[inline(always)]
    pub(super) fn mark(&self) -> u32 {
        // SAFETY: as in `device`.
        unsafe { (*self.0).mark }
    }

    #[inline(always)]
    pub(super) fn approve(&self, approval: Approval) {
        // SAFETY: as in `device`; `mark` may be written by tc programs.
        unsafe { (*self.0).mark = approval.write(self.mark()) }
    }

    /// Answers a replay.
    #[inline(always)]
    pub(super) fn answer_replay(&self, outcome: Outcome, generation: u64) {
        // SAFETY: as in `device`; `cb` may be written by tc programs.
        unsafe {
            (*self.0).cb[0] = u32::from(outcome.to_word());
            (*self.0).cb[1] = generation as u32;
            (*self.0).cb[2] = (generation >> 32) as u32;
        }
    }

    /// The cgroup of the socket that made the packet, or the ancestor of it at `level`; 0 if there is none.
    #[inline(always)]
    pub(super) fn cgroup_at(&self, level: u32) -> u64 {
        // SAFETY: as in `device`.
        unsafe { bpf_skb_ancestor_cgroup_id(self.0, level as i32) }
    }
}

impl Bytes for Skb {
    #[inline(always)]
    fn load<T: Header>(&self, offset: usize) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper checks the bounds of the packet and fills all of `value` or fails; `Header` promises
        // that any octets make a `T`.
        unsafe {
            let failed =
                bpf_skb_load_bytes(self.0.cast(), offset as u32, value.as_mut_ptr().cast(), size_of::<T>() as u32);
            (failed == 0).then(|| value.assume_init())
        }
    }

    #[inline(always)]
    fn len(&self) -> usize {
        // SAFETY: as in `device`.
        unsafe { (*self.0).len as usize }
    }

    #[inline(always)]
    fn has_vlan_tag(&self) -> bool {
        // SAFETY: as in `device`.
        unsafe { (*self.0).vlan_present != 0 }
    }
}
