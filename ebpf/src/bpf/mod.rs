//! The hooks. Each fits on a screen: a context, a verdict, one exhaustive `match` from verdict to what the
//! kernel shall do.

#![expect(
    unreachable_pub,
    reason = "the macros that make entry points want public functions"
)]
#![expect(
    clippy::inline_always,
    reason = "the verifier follows calls between functions at a cost, and returns one register"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the macros that make entry points pass the context by value"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "the kernel keeps lengths, ports and protocols in wider words than they need, and wants some narrower"
)]

mod call;
mod captures;
mod depth;
mod flows;
mod guard;
mod in_pod;
mod inward;
mod node_out;
mod originals;
mod pod_out;
mod probes;
mod reject;
mod report;
mod rules;
mod skb;
mod sock;
mod sockets;
mod sockopt;
