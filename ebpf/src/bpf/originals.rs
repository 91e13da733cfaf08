//! Where redirected calls wanted to go.
//!
//! The caller's socket keeps it from `connect()` on. While the connection is being made it is published by its addresses
//! and ports, the only thing that both sides know; when the proxy's side is there, that socket keeps it. So nothing is
//! pushed out by load, and what is published is what is being made and no more.

use core::ptr::{addr_of, from_ref, null_mut, read_volatile};

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sock_ops},
    btf_maps::SkStorage,
    helpers::{
        bpf_get_netns_cookie,
        generated::{bpf_sk_storage_get, bpf_sock_ops_cb_flags_set},
    },
    macros::{btf_map, cgroup_sock_addr, map, sock_ops},
    maps::HashMap,
    programs::{SockAddrContext, SockOpsContext},
};
use ebpf::{
    Addr,
    capture::{HandshakeKey, Lookup as _, Original, port},
    rules::capacity,
};

use super::{
    call::{Call, Family, PROCEED},
    report,
    rules::{Generation, NO_PREALLOC},
};

#[btf_map]
static ORIGINALS: SkStorage<Original> = SkStorage::new();
#[map]
static HANDSHAKES: HashMap<HandshakeKey, Original> =
    HashMap::with_max_entries(capacity::HANDSHAKES, NO_PREALLOC);

/// `BPF_ANY`.
const ANY: u64 = 0;
/// `BPF_SOCK_OPS_TCP_CONNECT_CB`: the port is chosen, the first segment has not left.
const CONNECTING: u32 = 3;
/// `BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB`: the proxy's side is there, and nobody has accepted it yet.
const ACCEPTED: u32 = 5;
/// `BPF_SOCK_OPS_STATE_CB`.
const STATE_CHANGED: u32 = 10;
/// `BPF_SOCK_OPS_STATE_CB_FLAG`.
const TELL_STATE: i32 = 1 << 2;
/// `BPF_TCP_CLOSE`.
const CLOSED: u32 = 7;
/// `AF_INET`.
const INET: u32 = 2;

/// Keeps it in the socket. Whether there was memory for it.
#[inline(always)]
pub(super) fn keep(sk: *mut bpf_sock, original: &Original) -> bool {
    if sk.is_null() {
        return false;
    }
    let value = from_ref(original).cast_mut().cast();
    // SAFETY: the map's own address, a socket that is there, and a value of the map's type, which is copied.
    let kept = unsafe {
        bpf_sk_storage_get(
            addr_of!(ORIGINALS).cast_mut().cast(),
            sk.cast(),
            value,
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
    };
    if kept.is_null() {
        return false;
    }
    // A socket may call again: what it kept before is then still there.
    // SAFETY: the socket's own copy, which lives for as long as the program runs.
    unsafe { kept.cast::<Original>().write(*original) };
    true
}

/// What the socket keeps.
#[inline(always)]
pub(super) fn kept<'a>(sk: *mut bpf_sock) -> Option<&'a Original> {
    if sk.is_null() {
        return None;
    }
    // SAFETY: the map's own address and a socket that is there; its copy lives for as long as the program runs.
    unsafe {
        bpf_sk_storage_get(addr_of!(ORIGINALS).cast_mut().cast(), sk.cast(), null_mut(), 0)
            .cast::<Original>()
            .as_ref()
    }
}

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    restore(&Call::new(&ctx, Family::V4))
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    restore(&Call::new(&ctx, Family::V6))
}

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    restore(&Call::new(&ctx, Family::V4))
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    restore(&Call::new(&ctx, Family::V6))
}

/// Tells an application of the one it called, not of the proxy.
#[inline(always)]
fn restore(call: &Call) -> i32 {
    if let Some(original) = kept(call.sk())
        && original.was_sent_to(call.addr(), call.port())
    {
        call.rewrite(original.addr(), original.port());
    }
    PROCEED
}

/// A connection on its way: published, taken over by the proxy's side, or given up.
#[sock_ops]
pub fn sock_ops(ctx: SockOpsContext) -> u32 {
    let op = ctx.op();
    let closed = op == STATE_CHANGED && ctx.arg(1) == CLOSED;
    if op == CONNECTING || op == ACCEPTED || closed {
        let connection = Connection::of(ctx.as_ptr().cast());
        match op {
            CONNECTING => connection.publish(),
            ACCEPTED => connection.take_over(),
            _ => connection.give_up(),
        }
    }
    1
}

/// What the context says, read once: the verifier refuses addresses inside it that are kept for later.
struct Connection {
    ctx: *mut bpf_sock_ops,
    sk: *mut bpf_sock,
    local: (Addr, u16),
    remote: (Addr, u16),
}

impl Connection {
    #[inline(always)]
    fn of(ctx: *mut bpf_sock_ops) -> Self {
        // SAFETY: the kernel hands a valid context to the program for as long as it runs. Volatile, because the verifier
        // wants loads of the fields' own width.
        unsafe {
            let is_v4 = read_volatile(addr_of!((*ctx).family)) == INET;
            let local_v4 = read_volatile(addr_of!((*ctx).local_ip4));
            let remote_v4 = read_volatile(addr_of!((*ctx).remote_ip4));
            let local_v6 = [
                read_volatile(addr_of!((*ctx).local_ip6[0])),
                read_volatile(addr_of!((*ctx).local_ip6[1])),
                read_volatile(addr_of!((*ctx).local_ip6[2])),
                read_volatile(addr_of!((*ctx).local_ip6[3])),
            ];
            let remote_v6 = [
                read_volatile(addr_of!((*ctx).remote_ip6[0])),
                read_volatile(addr_of!((*ctx).remote_ip6[1])),
                read_volatile(addr_of!((*ctx).remote_ip6[2])),
                read_volatile(addr_of!((*ctx).remote_ip6[3])),
            ];
            let addr = |v4: u32, v6| {
                if is_v4 {
                    Addr::v4(v4.to_ne_bytes())
                } else {
                    Addr::from_words(v6)
                }
            };
            let (local, remote) = (addr(local_v4, local_v6), addr(remote_v4, remote_v6));
            let local_port = read_volatile(addr_of!((*ctx).local_port)) as u16;
            // In network order, in the upper half of a word on little-endian machines.
            let remote_port = u32::from_be(read_volatile(addr_of!((*ctx).remote_port))) as u16;
            Self {
                ctx,
                sk: (*ctx).__bindgen_anon_2.sk,
                local: (local, local_port),
                remote: (remote, remote_port),
            }
        }
    }

    #[inline(always)]
    fn publish(&self) {
        let Some(original) = kept(self.sk) else {
            return;
        };
        let (remote, remote_port) = self.remote;
        if !original.was_sent_to(remote, remote_port) || !self.may_publish(original) {
            return;
        }
        if HANDSHAKES.insert(self.made(original), *original, ANY).is_err() {
            // Without it the proxy does not know whereto, and refuses.
            report::count_lost_flow();
            return;
        }
        // SAFETY: as in `of`. Nobody else of this agent asks for more, and others are asked for themselves.
        unsafe { bpf_sock_ops_cb_flags_set(self.ctx, TELL_STATE) };
    }

    /// Who calls the proxy on the node from an address that is not his own would speak for another pod there.
    #[inline(always)]
    fn may_publish(&self, original: &Original) -> bool {
        if !original.crosses() {
            return is_captured_port(self.remote.1);
        }
        Generation::active().is_some_and(|rules| rules.owner(self.local.0) == self.netns())
    }

    #[inline(always)]
    fn take_over(&self) {
        let ((local, local_port), (remote, remote_port)) = (self.local, self.remote);
        let key = |netns| HandshakeKey::new(netns, remote, remote_port, local, local_port);
        if is_captured_port(local_port) && self.take(key(self.netns())) {
            return;
        }
        if Generation::active().is_some_and(|rules| rules.header.node_port() == local_port) {
            self.take(key(HandshakeKey::CROSSING));
        }
    }

    /// Whether it was there.
    #[inline(always)]
    fn take(&self, key: HandshakeKey) -> bool {
        // SAFETY: entries are written once and taken out once.
        let Some(original) = (unsafe { HANDSHAKES.get(key) }).copied() else {
            return false;
        };
        keep(self.sk, &original);
        // Its maker takes it out when he gives up; whoever is first.
        let _ = HANDSHAKES.remove(key);
        true
    }

    #[inline(always)]
    fn give_up(&self) {
        if let Some(original) = kept(self.sk) {
            // As a rule the proxy's side has taken it.
            let _ = HANDSHAKES.remove(self.made(original));
        }
    }

    /// The key of a connection that this side makes.
    #[inline(always)]
    fn made(&self, original: &Original) -> HandshakeKey {
        let ((local, local_port), (remote, remote_port)) = (self.local, self.remote);
        let netns = if original.crosses() {
            HandshakeKey::CROSSING
        } else {
            self.netns()
        };
        HandshakeKey::new(netns, local, local_port, remote, remote_port)
    }

    #[inline(always)]
    fn netns(&self) -> u64 {
        // SAFETY: as in `of`.
        unsafe { bpf_get_netns_cookie(self.ctx.cast()) }
    }
}

/// Whether the proxy asks for originals there; of a question to its resolver it does not.
#[inline(always)]
const fn is_captured_port(port: u16) -> bool {
    matches!(port, port::OUTBOUND | port::INBOUND)
}
