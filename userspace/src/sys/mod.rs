//! What only `unsafe` code can do: system calls that no library wraps. Every other module does without.

pub(crate) mod bpf;
mod netns;
mod rcu;
mod readable;
mod shared;

pub(crate) use netns::cookie;
pub(crate) use rcu::wait_for_readers;
pub(crate) use readable::readable;
pub(crate) use shared::Shared;
