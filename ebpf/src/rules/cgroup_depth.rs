//! At which level a cgroup is: a question to the program `cgroup_level`, in words of `__sk_buff::cb`.

/// How many levels are looked at: a node in a container, and the agent's pod in that.
pub const LEVELS: u32 = 32;
/// The answer for what the caller is not in.
pub const NONE: i32 = -1;

/// The question.
#[inline(always)]
pub const fn ask(cgroup: u64) -> [u32; 2] {
    [cgroup as u32, (cgroup >> 32) as u32]
}

/// Back from [`ask`].
#[inline(always)]
pub const fn read([low, high]: [u32; 2]) -> u64 {
    low as u64 | (high as u64) << 32
}
