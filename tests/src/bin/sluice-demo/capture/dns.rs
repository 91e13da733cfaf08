//! DNS of a captured pod: whomever it asks, the proxy's resolver answers, in the name of the one that was asked.

use std::{net::IpAddr, time::Duration};

use anyhow::Result;

use super::{
    line::Line,
    stage::{ALLOCATED, Stage},
};
use crate::{
    dns::{self, By},
    stage::{REGISTERED_HOST, WORLD_DNS, at, ip},
    table::Table,
};

const PATIENCE: Duration = Duration::from_secs(10);

/// With a resolver inside the enrolled pod.
pub(super) fn play(stage: &Stage, table: &mut Table) -> Result<()> {
    Table::chapter("DNS of the same pod: a resolver inside, on ztunnel's port; it answers whomever is asked");
    let _resolver = stage.pod_resolver()?;
    for (server, expected) in WORLD_DNS.into_iter().zip(ALLOCATED) {
        for (by, name) in [
            (By::Udp, "UDP"),
            (By::ConnectedUdp, "connected UDP"),
            (By::Tcp, "TCP"),
        ] {
            let to = at(server, 53);
            stage.events.clear();
            let mut line = Line::new("ambient", format!("{name} to {server}"));
            let asked = stage
                .ambient
                .run(|| dns::ask(to, REGISTERED_HOST, by, PATIENCE))?;
            line.verdict(stage, "redirect", "dns", to);
            let seen = match asked {
                Ok(answer) => {
                    line.require(
                        answer.from == to,
                        format!("the answer to come from {to}, not from {}", answer.from),
                    );
                    line.require(
                        answer.addresses == [ip(expected)],
                        format!("{expected}, which only the resolver inside says"),
                    );
                    line.by("dnsmasq");
                    format!("{}, from {}", words(&answer.addresses), answer.from.ip())
                }
                Err(error) => {
                    line.require(false, "an answer");
                    format!("{error:#}")
                }
            };
            line.show(table, seen);
        }
    }
    Ok(())
}

fn words(addresses: &[IpAddr]) -> String {
    let words: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    words.join(" ")
}
