//! What an operator sees of the real agent.

mod events;
mod metrics;
mod monitoring;
mod page;
mod scrape;
mod verbs;
