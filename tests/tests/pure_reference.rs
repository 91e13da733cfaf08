//! `deploy/docs/reference.md` is made from the code. `SLUICE_UPDATE=1 cargo test --test pure_reference` writes it anew.

use std::{fmt::Write as _, fs, path::Path};

use clap::{Arg, ArgAction, Command};
use ebpf::{AllowReason, DropReason};
use sluice::{
    cli,
    metrics::{self, Kind},
    objects::words::WORDS,
};

const HEAD: &str = "# Reference

Made from the code: `SLUICE_UPDATE=1 cargo test --test pure_reference` writes it anew, and a test fails when it is stale.
";

fn reference() -> Result<String, std::fmt::Error> {
    let mut text = String::from(HEAD);
    reasons(&mut text)?;
    configuration(&mut text)?;
    words(&mut text)?;
    metrics_table(&mut text)?;
    Ok(text)
}

fn reasons(text: &mut String) -> std::fmt::Result {
    text.push_str("\n## Reasons\n\nThe word that `observe`, `explain`, events and metrics use.\n");
    text.push_str("\n| refused | because |\n| --- | --- |\n");
    for reason in DropReason::ALL {
        writeln!(text, "| `{reason}` | {} |", reason.explanation())?;
    }
    text.push_str("\n| let through | because |\n| --- | --- |\n");
    for reason in AllowReason::ALL {
        writeln!(text, "| `{reason}` | {} |", reason.explanation())?;
    }
    Ok(())
}

fn configuration(text: &mut String) -> std::fmt::Result {
    let mut command = cli::command();
    command.build();
    text.push_str("\n## Configuration of the agent\n\nEvery flag of `sluice agent`; where there is a variable, it does as well.\n");
    let agent = command.find_subcommand("agent");
    flags(text, agent.into_iter().flat_map(Command::get_arguments))?;
    text.push_str("\n## Commands\n");
    let shown = |verb: &&Command| verb.get_name() != "help" && !verb.is_hide_set();
    for verb in command.get_subcommands().filter(shown) {
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        writeln!(text, "\n### `sluice {}`\n\n{}", verb.get_name(), cell(&about))?;
        if verb.get_name() == "agent" {
            continue;
        }
        let own: Vec<&Arg> = verb
            .get_arguments()
            .filter(|flag| !flag.is_global_set())
            .collect();
        if own.iter().any(|flag| !is_everywhere(flag)) {
            flags(text, own)?;
        }
    }
    Ok(())
}

/// Of every command, and said by each.
fn is_everywhere(flag: &Arg) -> bool {
    matches!(flag.get_id().as_str(), "help" | "version")
}

fn flags<'a>(text: &mut String, flags: impl IntoIterator<Item = &'a Arg>) -> std::fmt::Result {
    text.push_str("\n| flag | variable | without it | what it does |\n| --- | --- | --- | --- |\n");
    for flag in flags
        .into_iter()
        .filter(|flag| !is_everywhere(flag) && !flag.is_hide_set())
    {
        let value = flag.get_value_names().unwrap_or_default().join(" ");
        let name = match (flag.get_long(), flag.get_action()) {
            (None, _) => value,
            (Some(long), ArgAction::SetTrue | ArgAction::Count) => format!("--{long}"),
            (Some(long), _) => format!("--{long} {value}"),
        };
        let variable = flag.get_env().map(|name| format!("`{}`", name.display()));
        let default: Vec<_> = flag
            .get_default_values()
            .iter()
            .map(|value| format!("`{}`", value.display()))
            .collect();
        let is_switch = matches!(flag.get_action(), ArgAction::SetTrue | ArgAction::Count);
        let default = if is_switch {
            String::new()
        } else {
            default.join(", ")
        };
        let help = flag
            .get_long_help()
            .or_else(|| flag.get_help())
            .map(ToString::to_string);
        writeln!(
            text,
            "| `{name}` | {} | {default} | {} |",
            variable.unwrap_or_default(),
            cell(&help.unwrap_or_default())
        )?;
    }
    Ok(())
}

fn words(text: &mut String) -> std::fmt::Result {
    text.push_str("\n## Labels and annotations\n\nNone of them exempts anybody from a policy: they say how calls are captured, and, in directory mode, who is where.\n");
    text.push_str("\n| word | where | what it says |\n| --- | --- | --- |\n");
    for word in WORDS {
        writeln!(text, "| `{}` | {} | {} |", word.name, word.place, word.help)?;
    }
    Ok(())
}

fn metrics_table(text: &mut String) -> std::fmt::Result {
    text.push_str("\n## Metrics\n\n| name | kind | labels | what it says |\n| --- | --- | --- | --- |\n");
    for metric in metrics::ALL {
        let (suffix, kind) = match metric.kind {
            Kind::Counter => ("_total", "counter"),
            Kind::Gauge => ("", "gauge"),
            Kind::Histogram => ("", "histogram"),
        };
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        writeln!(
            text,
            "| `{}{suffix}` | {kind} | {} | {}. |",
            metric.name,
            labels.join(", "),
            cell(metric.help)
        )?;
    }
    Ok(())
}

/// In one line of a table.
fn cell(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}

#[test]
fn the_reference_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/docs/reference.md");
    let wanted = reference().expect("writing to a string");
    if std::env::var_os("SLUICE_UPDATE").is_some() {
        fs::write(&path, wanted).expect("the reference can be written");
        return;
    }
    let found = fs::read_to_string(&path).expect("the reference");
    assert!(
        found == wanted,
        "{} is stale; SLUICE_UPDATE=1 cargo test --test pure_reference writes it anew",
        path.display()
    );
}
