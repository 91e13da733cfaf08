//! The cluster's API server as the source of objects, against a server in the test's process.

mod common;
mod source;
