//! `sluice list`

use std::process::ExitCode;

use clap::Args;

use super::{
    Common, Format,
    output::{self, Table},
};
use crate::api::{Request, What, client};

/// List what the agent knows: endpoints, captures, gateways, the registry, the rules in the kernel, programs, maps.
#[derive(Debug, Args)]
pub(super) struct List {
    /// Of what.
    #[arg(value_enum)]
    what: What,
}

impl List {
    pub(super) fn run(&self, common: &Common) -> anyhow::Result<ExitCode> {
        let answer: serde_json::Value = client::ask_one(&common.run_dir, &Request::List(self.what))?;
        match common.output {
            Format::Json => output::json(&answer)?,
            Format::Table => table(self.what, &answer)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[expect(clippy::too_many_lines, reason = "each kind of row has its columns")]
fn table(what: What, answer: &serde_json::Value) -> anyhow::Result<()> {
    let rows = answer.as_array().map(Vec::as_slice).unwrap_or_default();
    let cell =
        |row: &serde_json::Value, field: &str| text(row.get(field).unwrap_or(&serde_json::Value::Null));
    let table = match what {
        What::Endpoints => {
            let mut table = Table::new([
                "POD",
                "ROLE",
                "MODE",
                "ON DENY",
                "POLICIES",
                "ADDRESSES",
                "DEVICE",
                "CAPTURE",
                "PENDING",
            ]);
            for row in rows {
                let capture = match cell(row, "capture") {
                    mode if mode.is_empty() => format!("none ({})", cell(row, "not_captured")),
                    mode => mode,
                };
                let [pod, role, mode, on_deny, policies, addresses, devices, pending] = [
                    "pod",
                    "role",
                    "mode",
                    "on_deny",
                    "policies",
                    "addresses",
                    "devices",
                    "pending",
                ]
                .map(|field| cell(row, field));
                table.row([
                    pod, role, mode, on_deny, policies, addresses, devices, capture, pending,
                ]);
            }
            table
        }
        What::Captures => {
            let mut table = Table::new([
                "NAME",
                "MODE",
                "INBOUND",
                "ENROLMENT",
                "PROXY CGROUPS",
                "NAMESPACE",
            ]);
            for row in rows {
                table.row(
                    ["name", "mode", "inbound", "enrolment", "proxy_cgroups", "netns"]
                        .map(|field| cell(row, field)),
                );
            }
            table
        }
        What::Gateways => {
            let mut table = Table::new(["POLICY", "MODE", "GATEWAY", "DESTINATIONS", "PODS"]);
            for policy in rows {
                let gateways = policy.get("gateways").and_then(serde_json::Value::as_array);
                for gateway in gateways.into_iter().flatten() {
                    let gateway_name = gateway.get("gateway").and_then(serde_json::Value::as_str);
                    let name = format!(
                        "{}/{}",
                        cell(gateway, "namespace"),
                        gateway_name.unwrap_or("(by labels)")
                    );
                    table.row([
                        cell(policy, "name"),
                        cell(policy, "mode"),
                        name,
                        cell(policy, "gateway_destinations"),
                        cell(gateway, "pods"),
                    ]);
                }
            }
            table
        }
        What::Registry => {
            let mut table = Table::new(["HOSTS", "PORTS", "ADDRESSES", "SERVICEENTRY", "STATE"]);
            for row in rows {
                table.row(
                    ["hosts", "ports", "addresses", "service_entry", "state"].map(|field| cell(row, field)),
                );
            }
            table
        }
        What::Programs => {
            let mut table = Table::new(["PROGRAM", "ID", "VERIFIED", "RUNS", "DEVICES", "CGROUP"]);
            for row in rows {
                table.row(
                    ["name", "id", "verified_instructions", "runs", "devices", "cgroup"]
                        .map(|field| cell(row, field)),
                );
            }
            table
        }
        What::Maps => {
            let mut table = Table::new(["MAP", "ENTRIES", "CAPACITY"]);
            for row in rows {
                table.row(["name", "entries", "capacity"].map(|field| cell(row, field)));
            }
            table
        }
        What::Rules => {
            let mut table = Table::new(["POLICY", "DESTINATION", "PORTS", "PODS"]);
            for row in rows {
                table.row(["policy", "destinations", "ports", "pods"].map(|field| cell(row, field)));
            }
            table
        }
    };
    table.print()?;
    Ok(())
}

/// A value for a cell: lists with commas, pods as namespace/name.
fn text(value: &serde_json::Value) -> String {
    use serde_json::Value;
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        Value::Object(fields) => {
            let name = ["name", "pod", "policy"]
                .iter()
                .find_map(|field| fields.get(*field))
                .map(text)
                .unwrap_or_default();
            match fields.get("namespace") {
                Some(namespace) => format!("{}/{name}", text(namespace)),
                None => name,
            }
        }
    }
}
