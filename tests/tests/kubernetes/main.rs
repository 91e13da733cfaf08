//! The agent, with a cluster's API server for its source.

mod common;
mod detached;
mod enforced;
mod installed;
mod told;
