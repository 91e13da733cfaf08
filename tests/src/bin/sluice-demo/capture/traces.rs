//! What capture leaves in a network namespace: no rule that translates addresses, no entry of connection tracking.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result};
use sluice_tests::{Pod, command, netns::Netns};

use super::{line::Line, stage::Stage};
use crate::table::Table;

/// How many connections the kernel tracks in the namespace of the thread that reads it.
const TRACKED: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
const PATIENCE: Duration = Duration::from_secs(10);

/// While captured connections are open; and the same connection with a rule that translates, or it would prove nothing.
pub(super) fn play(stage: &Stage, table: &mut Table) -> Result<()> {
    Table::chapter("What is left of it, while captured connections are open: no nat rule, nothing tracked");
    let (client, ambient, hammer) = (&stage.client, &stage.ambient, &stage.hammer);
    let mut open = Vec::new();
    for to in Stage::served(&stage.neighbour) {
        for pod in [client, ambient, hammer] {
            open.push(held(pod, to)?);
        }
    }
    for to in Stage::served(ambient) {
        open.push(held(&stage.neighbour, to)?);
    }
    let places: [(&str, &Netns); 4] = [
        ("the node", stage.bench.node()),
        ("client, node mode", client.netns()),
        ("ambient, in-pod mode", ambient.netns()),
        ("hammer, sidecar mode", hammer.netns()),
    ];
    for (name, netns) in places {
        rules(table, name, netns)?;
        tracked(table, name, netns)?;
    }
    drop(open);
    control(stage, table)
}

/// A connection on which an answer has begun to be waited for: it is open on both sides of the proxy.
fn held(pod: &Pod, to: SocketAddr) -> Result<TcpStream> {
    pod.run(|| -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: held\r\n")?;
        Ok(stream)
    })?
    .with_context(|| format!("{}: calling {to}", pod.name()))
}

fn rules(table: &mut Table, name: &str, netns: &Netns) -> Result<()> {
    let (ruleset, legacy) = netns.run(|| {
        (
            command::run("nft", &["list", "ruleset"], ""),
            // Absent without the module.
            fs::read_to_string("/proc/thread-self/net/ip_tables_names").unwrap_or_default(),
        )
    })?;
    let ruleset = ruleset?;
    let mut line = Line::new(name, format!("nat rules: {name}"));
    line.require(
        !ruleset.contains("nat"),
        format!("no nat in `nft list ruleset`:\n{ruleset}"),
    );
    line.require(!legacy.contains("nat"), "no table nat of iptables-legacy");
    let count = ruleset.lines().count();
    line.show(
        table,
        if count == 0 {
            "no rules at all".to_owned()
        } else {
            format!("none, in {count} lines of rules")
        },
    );
    Ok(())
}

fn tracked(table: &mut Table, name: &str, netns: &Netns) -> Result<()> {
    let mut line = Line::new(name, format!("connections tracked: {name}"));
    let seen = match count(netns)? {
        Some(count) => {
            line.require(count == 0, "none");
            count.to_string()
        }
        None => "this kernel tracks none at all".to_owned(),
    };
    line.show(table, seen);
    Ok(())
}

/// `None` if the kernel has no connection tracking.
fn count(netns: &Netns) -> Result<Option<u32>> {
    match netns.run(|| fs::read_to_string(TRACKED))? {
        Ok(text) => text
            .trim()
            .parse()
            .map(Some)
            .with_context(|| format!("{TRACKED} says {text}")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {TRACKED}")),
    }
}

/// The way of iptables and nftables, in a pod that is not captured.
fn control(stage: &Stage, table: &mut Table) -> Result<()> {
    const REDIRECT: &str = "table inet translation {
  chain output {
    type nat hook output priority -100
    meta nfproto ipv4 tcp dport 80 redirect to :8080
  }
}
";
    let pod = &stage.neighbour;
    let [to, _] = Stage::served(&stage.ambient);
    pod.netns().run(|| command::nft(REDIRECT))??;
    let answered = pod.run(|| -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(to.ip(), 80), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: held\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    })?;
    let mut line = Line::new("neighbour", "connections tracked, with one nft redirect");
    line.require(
        answered.is_ok_and(|answer| !answer.is_empty()),
        "the redirect to work",
    );
    let seen = count(pod.netns())?;
    line.require(seen.is_some_and(|count| count > 0), "at least one");
    line.show(
        table,
        seen.map_or_else(|| "none".to_owned(), |count| count.to_string()),
    );
    pod.netns()
        .run(|| command::nft("delete table inet translation"))??;
    Ok(())
}
