//! Pods whose first act is a packet, without the CNI plugin: whatever the agent and the API server are doing, none gets out.

mod agent;
mod api_server;
mod pods;
mod soon;
