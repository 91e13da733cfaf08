//! A packet in the kernel.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext,
    bindings::__sk_buff,
    helpers::{bpf_get_socket_uid, bpf_sk_fullsock, bpf_skb_ancestor_cgroup_id, bpf_skb_load_bytes},
    macros::map,
    maps::PerCpuArray,
    programs::TcContext,
};
use ebpf::{
    DropReason, Verdict,
    capture::Capture,
    event::{Outcome, replay},
    packet::{Bytes, Header, Link, Packet, Tuple, parse, settle},
    reason::Approval,
};

use super::originals;

/// Where a packet's parts are kept while it is judged; the stack of 512 octets is too small for them.
///
/// What is said of the packet lies here too and is read back: the verifier then takes it for any word, instead of
/// following each of them on its own through all that comes after.
pub(super) struct Desk {
    packet: Packet,
    parsed: u16,
    verdict: u16,
}

impl Desk {
    const READABLE: u16 = u16::MAX;

    #[inline(always)]
    pub(super) fn packet(&self) -> &Packet {
        &self.packet
    }

    /// Whether all of the packet could be read.
    #[inline(always)]
    pub(super) fn parsed(&self) -> Result<(), DropReason> {
        match DropReason::from_number(self.parsed as u8) {
            Some(reason) if self.parsed != Self::READABLE => Err(reason),
            Some(_) | None => Ok(()),
        }
    }

    /// Asks for a verdict; `judge` is a function of its own, so the answer is a word.
    #[inline(always)]
    pub(super) fn judge(&mut self, judge: impl FnOnce(&Packet, Result<(), DropReason>) -> u16) -> Verdict {
        let verdict = judge(&self.packet, self.parsed());
        settle(&mut self.verdict, verdict);
        verdict_of(self.verdict).unwrap_or(Verdict::Deny(DropReason::NoRules))
    }

    /// Asks what becomes of the packet in the end.
    #[inline(always)]
    pub(super) fn conclude(&mut self, conclude: impl FnOnce(&Self) -> u16) -> Outcome {
        let outcome = conclude(self);
        settle(&mut self.verdict, outcome);
        Outcome::from_word(self.verdict).unwrap_or(Outcome::Denied(DropReason::NoRules))
    }
}

/// The word for a verdict: functions of the kernel's machine return one register.
#[inline(always)]
pub(super) fn word(verdict: Verdict) -> u16 {
    Outcome::of(verdict, false).to_word()
}

/// Back from [`word`].
#[inline(always)]
pub(super) fn verdict_of(word: u16) -> Option<Verdict> {
    match Outcome::from_word(word)? {
        Outcome::Allowed(reason) => Some(Verdict::Allow(reason)),
        Outcome::Redirected(reason) => Some(Verdict::Redirect(reason)),
        Outcome::Denied(reason) | Outcome::Audited(reason) => Some(Verdict::Deny(reason)),
    }
}

/// One per CPU is enough: tc programs run with bottom halves disabled, and none of ours calls another.
#[map]
static DESK: PerCpuArray<Desk> = PerCpuArray::with_max_entries(1, 0);

/// Functions of their own, as are the others of these modules that are never inlined: what one keeps on the stack
/// of 512 octets is free again when the next is called.
#[inline(never)]
fn parse_frame(skb: &Skb, packet: &mut Packet) -> Result<(), DropReason> {
    parse(skb, Link::Ethernet, packet)
}

#[inline(never)]
fn parse_ip(skb: &Skb, ether_type: u16, packet: &mut Packet) -> Result<(), DropReason> {
    parse(skb, Link::Ip(ether_type), packet)
}

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
    #[expect(
        clippy::mut_from_ref,
        reason = "the desk is no part of the packet, and every program takes it once"
    )]
    pub(super) fn parse(&self, link: Link) -> Option<&mut Desk> {
        let desk = DESK.get_ptr_mut(0)?;
        // SAFETY: a valid pointer to this CPU's place, which nobody else uses meanwhile, see `DESK`; it is
        // written as a whole before it is read.
        let desk = unsafe {
            desk.write(Desk {
                packet: Packet::EMPTY,
                parsed: 0,
                verdict: 0,
            });
            &mut *desk
        };
        let parsed = match link {
            Link::Ethernet => parse_frame(self, &mut desk.packet),
            Link::Ip(ether_type) => parse_ip(self, ether_type, &mut desk.packet),
        };
        let parsed = match parsed {
            Ok(()) => Desk::READABLE,
            Err(reason) => u16::from(reason as u8),
        };
        settle(&mut desk.parsed, parsed);
        Some(desk)
    }

    /// Reads a header, without the call of a helper if it lies in the packet's first piece, as it does on `lo`.
    #[inline(always)]
    pub(super) fn peek<T: Header>(&self, offset: usize) -> Option<T> {
        // SAFETY: as in `device`; between `data` and `data_end` there are octets, and `Header` promises that any make one.
        unsafe {
            let (start, end) = ((*self.0).data as usize, (*self.0).data_end as usize);
            if start + offset + size_of::<T>() <= end {
                return Some(((start + offset) as *const T).read_unaligned());
            }
        }
        self.load(offset)
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

    /// Whether it belongs to a socket.
    #[inline(always)]
    pub(super) fn has_socket(&self) -> bool {
        // SAFETY: as in `device`; the pointer is compared only.
        unsafe { !(*self.0).__bindgen_anon_2.sk.is_null() }
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
        self.mark() == replay::MARK
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

    /// Writes these bits of the packet's mark.
    #[inline(always)]
    pub(super) fn set_mark(&self, mark: u32, bits: u32) {
        // SAFETY: as in `approve`.
        unsafe { (*self.0).mark = (self.mark() & !bits) | (mark & bits) }
    }

    /// What is asked, of a program that only answers.
    #[inline(always)]
    pub(super) fn words(&self) -> [u32; 2] {
        // SAFETY: as in `device`.
        unsafe { [(*self.0).cb[0], (*self.0).cb[1]] }
    }

    /// Answers a replay.
    #[inline(always)]
    pub(super) fn answer_replay(&self, outcome: Outcome, generation: u64) {
        let [word, low, high] = replay::answer(outcome, generation);
        // SAFETY: as in `device`; `cb` may be written by tc programs.
        unsafe {
            (*self.0).cb[0] = word;
            (*self.0).cb[1] = low;
            (*self.0).cb[2] = high;
        }
    }

    /// The cgroup of the socket that made the packet, or the ancestor of it at `level`; 0 if there is none.
    #[inline(always)]
    pub(super) fn cgroup_at(&self, level: u32) -> u64 {
        // SAFETY: as in `device`.
        unsafe { bpf_skb_ancestor_cgroup_id(self.0, level.cast_signed()) }
    }

    /// Whether the socket that made the packet is the proxy's.
    #[inline(always)]
    pub(super) fn is_of_proxy(&self, capture: &Capture) -> bool {
        // A packet that no socket made has the identity of user 65534, the overflow user.
        self.has_socket()
            && (capture.is_proxy(|level| self.cgroup_at(level))
                || (capture.has_proxy_user() && capture.is_proxy_user(self.socket_uid(), Capture::NOBODY)))
    }

    /// Whether the socket that made the packet was sent to where the packet goes by our own hooks.
    #[inline(always)]
    pub(super) fn is_redirected(&self, tuple: &Tuple) -> bool {
        // SAFETY: as in `device`; the helper tells whole sockets from others, and the pointer is not kept.
        let sk = unsafe {
            let sk = (*self.0).__bindgen_anon_2.sk;
            if sk.is_null() {
                return false;
            }
            bpf_sk_fullsock(sk)
        };
        originals::kept(sk).is_some_and(|original| original.was_sent_to(tuple.dst, tuple.dport))
    }

    #[inline(always)]
    fn socket_uid(&self) -> u32 {
        // SAFETY: as in `device`.
        unsafe { bpf_get_socket_uid(self.0) }
    }
}

impl Bytes for Skb {
    #[inline(always)]
    fn load<T: Header>(&self, offset: usize) -> Option<T> {
        // So that fields can be read as words.
        #[repr(C, align(8))]
        struct Aligned<T>(T);
        let mut value = MaybeUninit::<Aligned<T>>::uninit();
        // SAFETY: the helper checks the bounds of the packet and fills all of the `T` or fails; `Header` promises
        // that any octets make one.
        unsafe {
            let failed = bpf_skb_load_bytes(
                self.0.cast(),
                offset as u32,
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            );
            (failed == 0).then(|| value.assume_init().0)
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
