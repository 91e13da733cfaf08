//! The node agent of sluice.
//!
//! Data goes one way:
//!
//! ```text
//! source (YAML) -> stores (typed objects) -> project() -> Desired -> diff -> dataplane (the kernel)
//! ```
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod agent;
pub mod api;
pub mod check;
pub mod cli;
pub mod cni;
pub mod dataplane;
pub mod desired;
pub mod enrolled;
pub mod facts;
pub mod health;
mod http;
pub mod inpod;
pub mod journal;
pub mod kubernetes;
pub mod metrics;
pub mod names;
mod netlink;
pub mod node;
pub mod object;
pub mod objects;
pub mod page;
pub mod privileges;
pub mod problem;
pub mod project;
pub mod rehearsal;
pub mod source;
pub mod suggestion;
mod sys;
mod whole_file;
pub mod zds;
