//! Whatever goes wrong on the node, nothing gets out for it.

mod common;
mod devices;
mod programs;
mod resources;
