//! A page for people who would rather look: how the agent is, who is held to what, what was refused just now.
//!
//! Made on the server, without a script or anything from elsewhere. It changes nothing: there are but questions. It is
//! served on a loopback address alone and answers nobody who came by another name, so that no website that somebody on the
//! node looks at can read it through his browser.

mod explain;
mod guard;
mod overview;
mod picture;
mod server;
mod traffic;

pub use self::{
    overview::Overview,
    server::{BindError, Server},
};
