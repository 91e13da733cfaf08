//! The agent, with a cluster's API server for its source.

mod enforced;
mod told;
