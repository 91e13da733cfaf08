//! Pods of which only the cluster's objects are known, found on the node: by their processes and cgroups, which are real.

mod cgroups;
mod common;
mod forged;
mod kubernetes;
mod processes;
mod walk;
