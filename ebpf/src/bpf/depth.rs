//! A question of the agent's: at which level a cgroup is. In a cgroup namespace nobody else can tell.

use aya_ebpf::{macros::classifier, programs::TcContext};
use ebpf::rules::cgroup_depth;

use super::skb::Skb;

/// Is run by `BPF_PROG_TEST_RUN` alone, whose packet is of a socket of the caller's. The answer is the level at which the
/// cgroup that is asked for is an ancestor of the caller's, or the caller's own.
#[classifier]
pub fn cgroup_level(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let cgroup = cgroup_depth::read(skb.words());
    for level in 0..cgroup_depth::LEVELS {
        if skb.cgroup_at(level) == cgroup {
            return level.cast_signed();
        }
    }
    cgroup_depth::NONE
}
