//! What only `unsafe` code can do: system calls that no library wraps. Every other module does without.

mod netns;

pub use netns::cookie;
