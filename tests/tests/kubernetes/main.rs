//! The cluster's API server as the source of objects.

mod common;
mod enforced;
mod source;
