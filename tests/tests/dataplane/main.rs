//! The agent's half that touches the kernel, without the agent: each test on a bench and a bpffs of its own.

mod full;
mod lifecycle;
mod rig;
mod rules;
