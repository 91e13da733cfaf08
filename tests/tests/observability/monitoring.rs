//! The dashboard and the alerts ask for what the agent exports, by the labels that it has.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sluice_tests::{Bench, manifest::Policy};

use crate::scrape::{self, Scrape};

/// Labels that Prometheus adds to what it scrapes.
const OF_THE_SCRAPE: [&str; 2] = ["instance", "job"];

fn monitoring(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy/monitoring")
        .join(file)
}

/// Every query of the dashboard and of the alerts, with a name for messages.
fn queries() -> Result<Vec<(String, String)>> {
    let text = fs::read_to_string(monitoring("dashboard.json")).context("the dashboard")?;
    let dashboard: Value = serde_json::from_str(&text).context("the dashboard")?;
    let text = fs::read_to_string(monitoring("alerts.yaml")).context("the alerts")?;
    let alerts: Value = serde_saphyr::from_str(&text).context("the alerts")?;
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().context("no panels")? {
        for target in panel["targets"].as_array().context("a panel without a query")? {
            queries.push((text_of(&panel["title"])?, text_of(&target["expr"])?));
        }
    }
    for group in alerts["spec"]["groups"].as_array().context("no groups")? {
        for rule in group["rules"].as_array().context("a group without rules")? {
            for wanted in ["summary", "description"] {
                text_of(&rule["annotations"][wanted])?;
            }
            queries.push((text_of(&rule["alert"])?, text_of(&rule["expr"])?));
        }
    }
    Ok(queries)
}

fn text_of(value: &Value) -> Result<String> {
    Ok(value
        .as_str()
        .with_context(|| format!("no text: {value}"))?
        .to_owned())
}

/// The words of a query, each with what stands behind it.
fn words(query: &str) -> Vec<(&str, &str)> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut words = Vec::new();
    let mut rest = query;
    while let Some(start) = rest.find(is_part) {
        rest = &rest[start..];
        let (word, behind) = rest.split_at(rest.find(|c| !is_part(c)).unwrap_or(rest.len()));
        words.push((word, behind));
        rest = behind;
    }
    words
}

/// The labels between the brackets that `text` begins with, if it begins with that bracket.
fn labels(text: &str, brackets: [char; 2]) -> Option<Vec<&str>> {
    let inner = text
        .trim_start()
        .strip_prefix(brackets[0])?
        .split_once(brackets[1])?
        .0;
    let labels = inner
        .split(',')
        .map(|pair| pair.split(['=', '!']).next().unwrap_or_default().trim());
    Some(labels.collect())
}

#[test]
fn queries_ask_for_what_is_exported() -> Result<()> {
    let bench = Bench::create()?;
    bench.state().policy(&Policy::default())?;
    let (_agent, address) = scrape::agent(&bench)?;
    let scrape = Scrape::make(&bench, address)?;
    let mut exported: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for sample in &scrape.samples {
        let labels = exported.entry(&sample.name).or_default();
        labels.extend(sample.labels.keys().map(String::as_str));
        labels.extend(OF_THE_SCRAPE);
    }
    let queries = queries()?;
    ensure!(queries.len() > 20, "only {} queries were found", queries.len());
    let mut used = BTreeSet::new();
    for (name, query) in &queries {
        let count = |bracket: char| query.matches(bracket).count();
        ensure!(
            count('(') == count(')') && count('{') == count('}'),
            "{name}: {query}"
        );
        let mut known = BTreeSet::from(OF_THE_SCRAPE);
        for (metric, behind) in words(query)
            .into_iter()
            .filter(|(word, _)| word.starts_with("sluice_"))
        {
            let of_metric = exported
                .get(metric)
                .with_context(|| format!("{name}: the agent exports no {metric}"))?;
            for label in labels(behind, ['{', '}']).unwrap_or_default() {
                ensure!(of_metric.contains(label), "{name}: {metric} has no label {label}");
            }
            known.extend(of_metric);
            used.insert(metric);
        }
        for (_, behind) in words(query)
            .into_iter()
            .filter(|(word, _)| matches!(*word, "by" | "on"))
        {
            for label in labels(behind, ['(', ')']).with_context(|| format!("{name}: by what?"))? {
                ensure!(known.contains(label), "{name}: nothing in it has a label {label}");
            }
        }
    }
    ensure!(used.len() > 15, "only {used:?} are shown");
    Ok(())
}

#[test]
fn reasons_and_states_in_queries_exist() -> Result<()> {
    let bench = Bench::create()?;
    let (_agent, address) = scrape::agent(&bench)?;
    let scrape = Scrape::make(&bench, address)?;
    let values: BTreeSet<&str> = scrape
        .samples
        .iter()
        .flat_map(|sample| sample.labels.values().map(String::as_str))
        .collect();
    for (name, query) in queries()? {
        // Between quotes are values, some of them alternatives, and variables of the dashboard.
        for value in query
            .split('"')
            .skip(1)
            .step_by(2)
            .flat_map(|value| value.split('|'))
        {
            ensure!(
                value.starts_with('$') || values.contains(value),
                "{name}: no sample has a label with the value {value}"
            );
        }
    }
    Ok(())
}
