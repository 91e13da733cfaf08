//! `sluice observe`

use std::{io::Write as _, process::ExitCode};

use clap::Args;

use super::{Common, Format, explain::pod_name, output};
use crate::{
    api::{Filter, Kind, Request, VerdictEvent, client},
    facts::PodName,
};

/// Show verdicts: the last ones, and with --follow those that come.
///
/// Refusals are always recorded. What is allowed is reported only while somebody follows it, as that costs time per
/// packet: `sluice observe --follow --verdict allow`.
#[derive(Debug, Args)]
pub(super) struct Observe {
    /// Only verdicts of this kind.
    #[arg(long, value_enum)]
    verdict: Option<Kind>,
    /// Only this pod's, as NAMESPACE/NAME.
    #[arg(long, value_parser = pod_name, value_name = "NS/POD")]
    pod: Option<PodName>,
    /// Go on with those that are still to come.
    #[arg(short, long)]
    follow: bool,
}

impl Observe {
    pub(super) fn run(&self, common: &Common) -> anyhow::Result<ExitCode> {
        let filter = Filter {
            verdict: self.verdict,
            pod: self.pod.clone(),
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

fn print(event: &VerdictEvent) -> std::io::Result<()> {
    let who = match (&event.pod, &event.device) {
        (Some(pod), _) => pod.to_string(),
        (None, Some(device)) => format!("device {device}"),
        (None, None) => "?".to_owned(),
    };
    let place = |address: std::net::IpAddr, port: u16| match port {
        0 => address.to_string(),
        port => std::net::SocketAddr::new(address, port).to_string(),
    };
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{} {:5} {:22} {:9} {who}: {} -> {} {} (generation {})",
        event.time,
        event.verdict.to_string(),
        event.reason,
        event.hook,
        place(event.src, event.sport),
        place(event.dst, event.dport),
        event.protocol,
        event.generation,
    )?;
    out.flush()
}
