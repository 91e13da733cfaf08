//! What an operator sees of the real agent.

mod metrics;
mod monitoring;
mod scrape;
