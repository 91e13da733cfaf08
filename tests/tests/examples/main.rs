//! The examples of `deploy/examples` as their READMEs tell them: the real agent in directory mode, real proxies, an internet
//! with a name server and TLS, and packets that try to get out past all of it.
//!
//! `cargo xtask test` fetches the Envoy that they need and makes the certificates.

mod ambient_ingress;
mod classic;
mod egress_gateway;
mod one_api;
mod proxy;
mod sidecar;
mod stand;
