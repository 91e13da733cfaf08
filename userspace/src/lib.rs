//! The node agent of sluice.
