//! `sluice`: the command.
fn main() {}
