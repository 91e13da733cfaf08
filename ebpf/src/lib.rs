//! The decision of sluice, and the types that its programs share with its agent.
#![no_std]
