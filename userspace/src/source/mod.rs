//! Where objects come from, and the stores that hold them.
//!
//! Every source fills the same [`Stores`], so that whatever works with one works with the others.

mod directory;
mod document;
mod file;
mod stores;
mod watch;

pub use self::{
    directory::{Directory, Loaded, OpenError},
    stores::{AnyObject, Stores, UnknownKind},
};

#[cfg(test)]
mod tests;
