//! Shared structs as keys and values of maps.

use bytemuck::Pod;

/// A type of the shared library, as aya wants the keys and values of maps.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Shared<T>(pub(crate) T);

// SAFETY: aya asks that a value may be read as octets and made of any octets. `bytemuck::Pod` says just that of `T`
// (no padding, no invalid pattern, no pointer, `Copy`, `'static`), its derive proves it, and the wrapper is transparent.
unsafe impl<T: Pod> aya::Pod for Shared<T> {}
