//! Real packets between network namespaces, through the real agent: what arrives where, and for which reason.
//!
//! A refusal is asserted by its verdict *and* by the packet's absence outside once a packet sent after it has arrived.

mod audit;
mod changes;
mod common;
mod destinations;
mod forged;
mod fragments;
mod gso;
mod headers;
mod host;
mod icmp;
mod lifecycle;
mod neighbours;
mod newcomers;
mod protocols;
mod replies;
mod services;
mod sockets;
mod tunnels;
mod uplinks;
