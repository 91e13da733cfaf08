//! The text that Prometheus gets, read again.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{Agent, Bench, bench::addresses::NODE_V4, http};

/// One line: a name, labels, a value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// An answer to a scrape.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scrape {
    pub(crate) samples: Vec<Sample>,
    /// What each metric is, by the name that it is announced under.
    pub(crate) kinds: BTreeMap<String, String>,
    pub(crate) helps: BTreeMap<String, String>,
}

/// Where the agent serves them.
pub(crate) const PORT: u16 = 9464;

/// An agent on this bench that serves metrics, and where.
pub(crate) fn agent(bench: &Bench) -> Result<(Agent, SocketAddr)> {
    let address: SocketAddr = format!("{NODE_V4}:{PORT}").parse()?;
    let mut agent = Agent::prepare(bench)?.with_arguments(&["--metrics-address", &address.to_string()]);
    agent.restart()?;
    Ok((agent, address))
}

impl Scrape {
    /// Scrapes, from the node.
    pub(crate) fn make(bench: &Bench, address: SocketAddr) -> Result<Self> {
        let answer = bench
            .node()
            .run(|| http::get(address, &address.to_string(), "/metrics"))??;
        ensure!(answer.status == 200, "the agent has no metrics: {answer:?}");
        let kind = answer.header("content-type").unwrap_or_default();
        ensure!(
            kind.starts_with("application/openmetrics-text"),
            "the answer is {kind}"
        );
        ensure!(answer.body.ends_with("# EOF\n"), "the answer is cut off");
        Self::read(&answer.body)
    }

    fn read(text: &str) -> Result<Self> {
        let mut scrape = Self::default();
        for line in text.lines() {
            let words: Vec<&str> = line.splitn(4, ' ').collect();
            match words.as_slice() {
                ["#", "EOF"] => {}
                ["#", "TYPE", name, kind] => {
                    drop(scrape.kinds.insert((*name).to_owned(), (*kind).to_owned()));
                }
                ["#", "HELP", name, help] => {
                    drop(scrape.helps.insert((*name).to_owned(), (*help).to_owned()));
                }
                _ => scrape
                    .samples
                    .push(sample(line).with_context(|| format!("no sample: {line}"))?),
            }
        }
        Ok(scrape)
    }

    /// All samples of this name.
    pub(crate) fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.name == name)
    }

    /// The value of the one sample with this name and these labels.
    pub(crate) fn value(&self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        let has = |sample: &&Sample| {
            let mut labels = labels.iter();
            labels.all(|(label, value)| sample.labels.get(*label).is_some_and(|found| found == value))
        };
        let found: Vec<&Sample> = self.named(name).filter(has).collect();
        match found.as_slice() {
            [sample] => Ok(sample.value),
            others => anyhow::bail!("{} samples of {name} with {labels:?}", others.len()),
        }
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (name, value) = line.rsplit_once(' ')?;
    let (name, labels) = match name.split_once('{') {
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
        None => (name, ""),
    };
    let pairs = labels.split(',').filter(|pair| !pair.is_empty()).map(|pair| {
        let (label, value) = pair.split_once('=')?;
        Some((
            label.to_owned(),
            value.strip_prefix('"')?.strip_suffix('"')?.to_owned(),
        ))
    });
    Some(Sample {
        name: name.to_owned(),
        labels: pairs.collect::<Option<_>>()?,
        value: value.parse().ok()?,
    })
}
