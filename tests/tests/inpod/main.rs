//! What the agent keeps inside pods: in real namespaces, with programs that do nothing.

mod cost;
mod keeping;
mod leaving;
mod rig;
mod way_back;
