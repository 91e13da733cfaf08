//! The second part: every connection of a captured pod goes to its proxy, and nothing is translated on the way.

mod access_log;
mod ambient;
mod caller;
mod dns;
mod line;
mod node;
mod sidecar;
mod stage;
mod traces;
mod web;

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};

use self::stage::Stage;
use crate::{stage::Ingredients, standing::Standing, table::Table};

/// Builds a node of its own, plays, and takes it down.
pub(crate) fn play(
    ingredients: &Ingredients,
    standing: &mut Standing,
    table: &mut Table,
    interrupted: &AtomicBool,
) -> Result<()> {
    let stage = Stage::build(ingredients)?;
    standing.remember(stage.folders())?;
    let going = || -> Result<()> {
        ensure!(!interrupted.load(Ordering::Relaxed), "interrupted");
        Ok(())
    };

    let envoy = node::by_envoy(&stage, table)?;
    going()?;
    let on_node = node::by_haproxy(&stage, table, envoy)?;
    going()?;
    let ambient = ambient::play(&stage, table)?;
    going()?;
    dns::play(&stage, table)?;
    going()?;
    let sidecar = sidecar::play(&stage, table)?;
    going()?;
    traces::play(&stage, table)?;
    going()?;

    drop((on_node, ambient, sidecar));
    Table::chapter("The proxies stopped: refused at once, not let past");
    node::is_refused(&stage, table)?;
    ambient::is_refused(&stage, table)?;
    ambient::end(&stage, table)
}
