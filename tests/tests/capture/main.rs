//! Connections of pods on their way to the node proxy: the real agent, real sockets, and a stand-in for the proxy that
//! tells what it gets.
//!
//! A call that shall not get past the proxy has somebody to get to: what it would reach listens, and hears nothing.

mod ambient;
mod annotations;
mod common;
mod composed;
mod dns;
mod evasion;
mod held;
mod inbound;
mod lifecycle;
mod node;
mod outbound;
mod sidecar;
mod translated;
mod virtual_interfaces;
