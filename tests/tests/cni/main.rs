//! The CNI plugin, run as a container runtime runs it, behind Debian's plugins.

mod cluster;
mod common;
mod first_packet;
mod install;
mod verbs;
