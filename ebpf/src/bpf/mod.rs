//! The hooks. Each fits on a screen: a context, a verdict, one exhaustive `match` from verdict to what the
//! kernel shall do.

#![expect(
    unreachable_pub,
    reason = "the macros that make entry points want public functions"
)]

mod flows;
mod inward;
mod node_out;
mod pod_out;
mod reject;
mod report;
mod rules;
mod skb;
mod sock;
