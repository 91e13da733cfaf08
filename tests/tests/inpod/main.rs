//! What the agent keeps inside pods: in real namespaces, most of it with programs that do nothing.

mod cost;
mod keeping;
mod leaving;
mod machine;
mod rig;
mod virtuals;
mod way_back;
