//! The node agent of sluice.

pub mod object;
