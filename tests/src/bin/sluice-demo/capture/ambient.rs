//! In-pod mode: a proxy inside the pod's network namespace, on ztunnel's ports, told by `sluice enroll`.

use std::net::SocketAddr;

use anyhow::Result;
use sluice_tests::bench::addresses::REGISTERED;

use super::{
    access_log::AccessLog,
    caller::{self, Answer, Outcome},
    line::{self, Line},
    stage::{Proxy, Stage},
};
use crate::{stage::REGISTERED_HOST, table::Table};

/// Enrols the pod and shows what comes of it. The proxy goes on.
pub(super) fn play(stage: &Stage, table: &mut Table) -> Result<Proxy> {
    Table::chapter("Capture, in-pod mode: an Envoy inside the pod, on ztunnel's ports");
    let proxy = stage.pod_envoy("envoy-ambient", &stage.ambient, &stage.ambient_cgroup)?;
    is_let_alone(stage, table, "not enrolled")?;
    enroll(stage, table)?;
    calls_out(stage, table, &proxy.log)?;
    is_called(stage, table, &proxy.log)?;
    calls_itself(stage, table)?;
    is_held_to_policy(stage, table, &proxy.log)?;
    Ok(proxy)
}

/// Un-enrols the pod: it is as it was.
pub(super) fn end(stage: &Stage, table: &mut Table) -> Result<()> {
    let netns = stage.ambient.netns().path().display().to_string();
    Table::chapter("And back: sluice unenroll");
    stage.sluice(&["unenroll", "--netns", &netns])?;
    is_let_alone(stage, table, "un-enrolled")?;
    for to in Stage::served(&stage.ambient) {
        let mut line = Line::new("neighbour", format!("http://{to}"));
        let outcome = caller::get(&stage.neighbour, to, "ambient")?;
        direct(&mut line, &outcome, to);
        line.by("ambient");
        line.show(table, outcome.seen());
    }
    Ok(())
}

fn enroll(stage: &Stage, table: &mut Table) -> Result<()> {
    let pod = &stage.ambient;
    let (netns, cgroup) = (
        pod.netns().path().display().to_string(),
        stage.ambient_cgroup.path().display().to_string(),
    );
    let name = format!("{}/{}", pod.namespace(), pod.name());
    stage.sluice(&[
        "enroll",
        "--netns",
        &netns,
        "--name",
        &name,
        "--proxy-cgroup",
        &cgroup,
    ])?;
    Line::new("ambient", "sluice enroll --netns …").show(table, "enrolled");
    Ok(())
}

/// Nobody stands between the pod and its neighbour.
fn is_let_alone(stage: &Stage, table: &mut Table, when: &str) -> Result<()> {
    for to in Stage::served(&stage.neighbour) {
        let mut line = Line::new("ambient", format!("http://{to}, {when}"));
        let outcome = caller::get(&stage.ambient, to, "neighbour")?;
        direct(&mut line, &outcome, to);
        line.by("neighbour");
        line.show(table, outcome.seen());
    }
    Ok(())
}

/// The server has to see the caller's own connection.
pub(super) fn direct(line: &mut Line, outcome: &Outcome, to: SocketAddr) {
    if let Some(served) = line.served(outcome, to)
        && let Outcome::Made(call) = outcome
    {
        line.require(
            served.from == call.own && served.to == to,
            format!("the server to be called by {} itself", call.own),
        );
    }
}

/// The server has to see another connection, from the same address.
pub(super) fn by_proxy_inside(line: &mut Line, outcome: &Outcome, to: SocketAddr) {
    if let Some(served) = line.served(outcome, to)
        && let Outcome::Made(call) = outcome
    {
        line.require(
            served.from.ip() == call.own.ip() && served.from.port() != call.own.port() && served.to == to,
            format!("the server to be called by the proxy from {}", call.own.ip()),
        );
    }
}

fn calls_out(stage: &Stage, table: &mut Table, log: &AccessLog) -> Result<()> {
    for to in Stage::served(&stage.neighbour) {
        stage.events.clear();
        let mut line = Line::new("ambient", format!("http://{to}"));
        let outcome = caller::get(&stage.ambient, to, "neighbour")?;
        line.verdict(stage, "redirect", "outbound", to);
        if let Outcome::Made(call) = &outcome {
            line.logged(log, "envoy", "outbound", call, to)?;
        }
        by_proxy_inside(&mut line, &outcome, to);
        line.by("neighbour");
        line.explained(stage, &stage.ambient, to, "redirect", "outbound")?;
        line.show(table, outcome.seen());
    }
    Ok(())
}

/// The application sees its caller's address, although the proxy calls it.
fn is_called(stage: &Stage, table: &mut Table, log: &AccessLog) -> Result<()> {
    let callers = stage.neighbour.addresses();
    for (to, caller) in Stage::served(&stage.ambient).into_iter().zip(callers) {
        stage.events.clear();
        let mut line = Line::new("neighbour", format!("http://{to}"));
        let outcome = caller::get(&stage.neighbour, to, "ambient")?;
        line.verdict(stage, "redirect", "inbound", to);
        if let Outcome::Made(call) = &outcome {
            line.logged(log, "envoy", "inbound", call, to)?;
        }
        if let (Some(served), Outcome::Made(call)) = (line.served(&outcome, to), &outcome) {
            line.require(
                served.from.ip() == caller && served.from != call.own && served.to == to,
                format!("the application to be called by the proxy in the name of {caller}"),
            );
            line.by("ambient");
        }
        line.show(table, outcome.seen());
    }
    Ok(())
}

fn calls_itself(stage: &Stage, table: &mut Table) -> Result<()> {
    for to in Stage::served(&stage.ambient) {
        let mut line = Line::new("ambient", format!("http://{to}, the pod's own"));
        let outcome = caller::get(&stage.ambient, to, "ambient")?;
        direct(&mut line, &outcome, to);
        line.show(table, outcome.seen());
    }
    Ok(())
}

/// What the proxy sends leaves the pod as what the pod sends.
fn is_held_to_policy(stage: &Stage, table: &mut Table, log: &AccessLog) -> Result<()> {
    for to in Stage::web(REGISTERED) {
        stage.events.clear();
        let mut line = Line::new("ambient", format!("http://{to}"));
        let outcome = caller::get(&stage.ambient, to, REGISTERED_HOST)?;
        line.verdict(stage, "redirect", "outbound", to);
        if let Outcome::Made(call) = &outcome {
            line.logged(log, "envoy", "outbound", call, to)?;
            line.require(matches!(call.answer, Answer::Closed), "the proxy to hang up");
        } else {
            line.require(false, "the proxy to take it");
        }
        line.verdict(stage, "deny", "not-gateway", to);
        line.show(table, outcome.seen());
    }
    Ok(())
}

/// Without its proxy.
pub(super) fn is_refused(stage: &Stage, table: &mut Table) -> Result<()> {
    let (ambient, neighbour) = (&stage.ambient, &stage.neighbour);
    // Its own calls find nobody at the proxy's port; calls to it are refused on its device.
    for (who, whom, verdict) in [
        (ambient, neighbour, ("redirect", "outbound")),
        (neighbour, ambient, ("deny", "no-proxy")),
    ] {
        for to in Stage::served(whom) {
            line::refused(stage, table, who, to, verdict)?;
        }
    }
    Ok(())
}
