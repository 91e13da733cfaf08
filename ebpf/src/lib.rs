//! The decision of sluice, and the types that its programs share with its agent.
//!
//! Everything here is compiled twice: for the kernel, where the hooks in `main.rs` call it, and for the
//! host, where the agent, `sluice explain`, the property tests and the fuzzers call *the same functions*.
//! Nothing in here knows of maps or of sockets: [`packet::parse`] reads bytes through [`packet::Bytes`], and
//! [`decide`] asks for rules through [`decide::Lookup`].
#![no_std]
#![forbid(unsafe_op_in_unsafe_fn)]
#![expect(
    clippy::inline_always,
    reason = "the verifier follows calls between functions at a cost, and returns one register"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "what is cut off is zero or in another word, and a program in the kernel could do nothing about a failure"
)]

#[cfg(test)]
extern crate std;

pub mod addr;
pub mod capture;
pub mod decide;
pub mod event;
pub mod flow;
pub mod packet;
pub mod reason;
pub mod rules;

pub use addr::Addr;
pub use decide::{Verdict, pod_out};
pub use reason::{AllowReason, DropReason, Hook, LeaveReason, RedirectReason};
