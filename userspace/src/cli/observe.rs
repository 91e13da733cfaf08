//! `sluice observe`

use std::{fmt::Write as _, io::Write as _, net::IpAddr, process::ExitCode, time::Duration};

use clap::Args;
use ebpf::{AllowReason, DropReason, RedirectReason};
use ipnet::IpNet;
use jiff::Timestamp;

use super::{Common, Format, explain::pod_name, output, status::duration};
use crate::{
    api::{Filter, Kind, Request, VerdictEvent, client},
    facts::PodName,
};

/// Show verdicts: the last ones, and with --follow those that come.
///
/// Refusals are always recorded. What is allowed is reported only while somebody follows it, as
/// that costs time per packet: `sluice observe --follow --verdict allow`. The first packet of a
/// flow is shown at once, and what follows within a second together, with how many they were.
///
/// Examples:
///
///     sluice observe --verdict deny,audit --namespace shop --since 10m
///     sluice observe --follow --to 203.0.113.0/24 --port 443 -o json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Observe {
    /// Only verdicts of these kinds.
    #[arg(long = "verdict", value_enum, value_delimiter = ',')]
    verdicts: Vec<Kind>,
    /// Only for these reasons, as `not-gateway`.
    #[arg(long = "reason", value_parser = reason, value_delimiter = ',', value_name = "REASON")]
    reasons: Vec<String>,
    /// Only this pod's, as NAMESPACE/NAME.
    #[arg(long, value_parser = pod_name, value_name = "NS/POD")]
    pod: Option<PodName>,
    /// Only of pods in this namespace.
    #[arg(short, long)]
    namespace: Option<String>,
    /// Only to this address, or to addresses in this range.
    #[arg(long = "to", value_parser = range, value_name = "IP[/LENGTH]")]
    destination: Option<IpNet>,
    /// Only to this port.
    #[arg(long)]
    port: Option<u16>,
    /// Only of the last time: 30s, 10m, 2h.
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    since: Option<Duration>,
    /// Go on with those that are still to come.
    #[arg(short, long)]
    follow: bool,
}

impl Observe {
    pub(super) fn run(&self, common: &Common) -> anyhow::Result<ExitCode> {
        let filter = Filter {
            verdicts: self.verdicts.clone(),
            reasons: self.reasons.clone(),
            pod: self.pod.clone(),
            namespace: self.namespace.clone(),
            destination: self.destination,
            port: self.port,
            since: self.since.map(|age| (Timestamp::now() - age).to_string()),
            follow: self.follow,
        };
        for value in client::ask(&common.run_dir, &Request::Observe(filter))? {
            match value {
                Ok(value) => {
                    let event: VerdictEvent = serde_json::from_value(value)?;
                    match common.output {
                        Format::Json => output::json_line(&event)?,
                        Format::Table => print(&event)?,
                    }
                }
                // The stream goes on behind a gap.
                Err(client::Error::Failed(gap)) => eprintln!("warning: {gap}"),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Reads a word of one of the lists of reasons.
fn reason(text: &str) -> Result<String, String> {
    let refused = DropReason::ALL.iter().map(|reason| reason.word());
    let allowed = AllowReason::ALL.iter().map(|reason| reason.word());
    let redirected = RedirectReason::ALL.iter().map(|reason| reason.word());
    let mut words = refused.chain(allowed).chain(redirected);
    if words.any(|word| word == text) {
        Ok(text.to_owned())
    } else {
        Err(format!("there is no reason `{text}`; the README lists them"))
    }
}

/// Reads a range, or an address as the range of itself.
fn range(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<IpAddr>().map(IpNet::from);
    address
        .or_else(|_| text.parse::<IpNet>())
        .map_err(|_| format!("`{text}` is neither an address nor a range"))
}

fn print(event: &VerdictEvent) -> anyhow::Result<()> {
    let mut who = match (&event.pod, &event.device) {
        (Some(pod), _) => pod.to_string(),
        (None, Some(device)) => format!("device {device}"),
        (None, None) => "?".to_owned(),
    };
    if let Some(process) = &event.process {
        write!(who, " ({process})")?;
    }
    let place = |address: IpAddr, port: u16| match port {
        0 => address.to_string(),
        port => std::net::SocketAddr::new(address, port).to_string(),
    };
    let mut whereto = place(event.dst, event.dport);
    if let Some(destination) = &event.destination {
        write!(whereto, " ({destination})")?;
    }
    let mut rest = format!("generation {}", event.generation);
    if !event.policies.is_empty() {
        write!(rest, ", {}", event.policies.join(", "))?;
    }
    let times = if event.count > 1 {
        format!(" x{}", event.count)
    } else {
        String::new()
    };
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{} {:5} {:22} {:9} {who}: {} -> {whereto} {}{times} ({rest})",
        event.time,
        event.verdict.to_string(),
        event.reason,
        event.hook,
        place(event.src, event.sport),
        event.protocol,
    )?;
    Ok(out.flush()?)
}
