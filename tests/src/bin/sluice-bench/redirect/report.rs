//! What the rounds come to: medians, ratios, goals. Serialized as `redirect.json`.

use std::thread;

use anyhow::{Context as _, Result};
use nix::sys::utsname::uname;
use serde::Serialize;

use crate::redirect::{
    contender::{CONTENDERS, Contender, Place, Way},
    cost::Cost,
    load::Sample,
};

/// A captured stream is at least so fast as one that is not.
const THROUGHPUT: f64 = 0.97;
/// And as the iptables REDIRECT that it replaces.
const OVER_REDIRECT: f64 = 1.5;
/// `connect()` takes at most so long as without capture.
const CONNECT: f64 = 1.05;

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) kernel: String,
    pub(crate) cpus: usize,
    pub(crate) rounds: usize,
    pub(crate) groups: Vec<Group>,
    pub(crate) goals: Vec<Goal>,
    pub(crate) costs: Vec<Cost>,
}

/// Contenders with the proxy in the same place.
#[derive(Debug, Serialize)]
pub(crate) struct Group {
    pub(crate) proxy: Place,
    /// How much faster the uncaptured stream was in its best round than in its worst: what the machine does besides.
    pub(crate) unrest: f64,
    /// The first is the uncaptured one.
    pub(crate) contenders: Vec<Line>,
}

/// One contender.
#[derive(Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) name: &'static str,
    pub(crate) throughput_gbit_per_s: Figure,
    pub(crate) connections_per_s: Figure,
    pub(crate) connect_p50_us: Figure,
    pub(crate) connect_p99_us: Figure,
}

impl Line {
    /// Its figures in the order of [`FIGURES`].
    pub(crate) fn figures(&self) -> [&Figure; 4] {
        let Self {
            name: _,
            throughput_gbit_per_s,
            connections_per_s,
            connect_p50_us,
            connect_p99_us,
        } = self;
        [
            throughput_gbit_per_s,
            connections_per_s,
            connect_p50_us,
            connect_p99_us,
        ]
    }
}

/// What people call the figures, and how many decimals mean something.
pub(crate) const FIGURES: [(&str, usize); 4] = [
    ("stream Gbit/s", 1),
    ("connections/s", 0),
    ("connect p50 us", 2),
    ("connect p99 us", 2),
];

/// One figure of one contender.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) rounds: Vec<f64>,
    pub(crate) median: f64,
    /// To the uncaptured one of the group: the median of the rounds' ratios.
    pub(crate) ratio: f64,
}

/// What was promised of a way of capture, and what came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Goal {
    pub(crate) contender: &'static str,
    pub(crate) what: String,
    pub(crate) figure: &'static str,
    pub(crate) bound: Bound,
    pub(crate) limit: f64,
    pub(crate) reached: f64,
    pub(crate) met: bool,
    /// The limit as a ratio to the uncaptured one, for the picture.
    #[serde(skip)]
    pub(crate) line: f64,
}

/// Which side of its limit is the good one.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Bound {
    AtLeast,
    AtMost,
}

impl Bound {
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::AtLeast => "at least",
            Self::AtMost => "at most",
        }
    }

    fn holds(self, value: f64, limit: f64) -> bool {
        match self {
            Self::AtLeast => value >= limit,
            Self::AtMost => value <= limit,
        }
    }
}

/// A contender with its samples.
type Measured<'a> = (&'a Contender, &'a [Sample]);

impl Report {
    /// Of samples in the order of [`CONTENDERS`].
    pub(crate) fn new(samples: &[Vec<Sample>], costs: Vec<Cost>) -> Result<Self> {
        let measured: Vec<Measured> = CONTENDERS.iter().zip(samples.iter().map(Vec::as_slice)).collect();
        let (mut groups, mut goals) = (Vec::new(), Vec::new());
        for proxy in [Place::Pod, Place::Node] {
            let members: Vec<Measured> = measured
                .iter()
                .copied()
                .filter(|(contender, _)| contender.place == proxy)
                .collect();
            let &(_, uncaptured) = members
                .iter()
                .find(|(contender, _)| contender.way == Way::Uncaptured)
                .context("a group with nothing to be measured against")?;
            goals.extend(judge(&members, uncaptured)?);
            groups.push(Group {
                proxy,
                unrest: spread(uncaptured, throughput),
                contenders: members
                    .iter()
                    .map(|(contender, own)| line(contender.name, own, uncaptured))
                    .collect::<Result<_>>()?,
            });
        }
        Ok(Self {
            kernel: uname().context("uname")?.release().to_string_lossy().into_owned(),
            cpus: thread::available_parallelism()?.get(),
            rounds: samples.first().map_or(0, Vec::len),
            groups,
            goals,
            costs,
        })
    }
}

fn line(name: &'static str, own: &[Sample], uncaptured: &[Sample]) -> Result<Line> {
    let figure = |of: fn(&Sample) -> f64| -> Result<Figure> {
        let rounds: Vec<f64> = own.iter().map(of).collect();
        Ok(Figure {
            median: median(rounds.clone())?,
            ratio: ratio(own, uncaptured, of)?,
            rounds,
        })
    };
    Ok(Line {
        name,
        throughput_gbit_per_s: figure(throughput)?,
        connections_per_s: figure(|sample| sample.connections)?,
        connect_p50_us: figure(|sample| sample.connect_p50)?,
        connect_p99_us: figure(|sample| sample.connect_p99)?,
    })
}

/// The goals of the group's captured ones.
fn judge(members: &[Measured], uncaptured: &[Sample]) -> Result<Vec<Goal>> {
    let mut goals = Vec::new();
    for (contender, own) in members {
        if !matches!(contender.way, Way::Enrolled | Way::Sidecar) {
            continue;
        }
        let mut goal = |what: String, figure: usize, bound: Bound, limit: f64, reached: f64, line: f64| {
            goals.push(Goal {
                contender: contender.name,
                what,
                figure: FIGURES[figure].0,
                bound,
                limit,
                reached,
                met: bound.holds(reached, limit),
                line,
            });
        };
        let reached = ratio(own, uncaptured, throughput)?;
        let what = "stream / uncaptured".to_owned();
        goal(what, 0, Bound::AtLeast, THROUGHPUT, reached, THROUGHPUT);
        for (other, theirs) in members {
            if let Way::Redirect(_) = other.way {
                let reached = ratio(own, theirs, throughput)?;
                let line = OVER_REDIRECT * ratio(theirs, uncaptured, throughput)?;
                let what = format!("stream / {}", other.name);
                goal(what, 0, Bound::AtLeast, OVER_REDIRECT, reached, line);
            }
        }
        let reached = ratio(own, uncaptured, |sample| sample.connect_p50)?;
        let what = "connect p50 / uncaptured".to_owned();
        goal(what, 2, Bound::AtMost, CONNECT, reached, CONNECT);
    }
    Ok(goals)
}

fn throughput(sample: &Sample) -> f64 {
    sample.throughput
}

fn spread(samples: &[Sample], of: fn(&Sample) -> f64) -> f64 {
    let values = || samples.iter().map(of);
    values().fold(f64::MIN, f64::max) / values().fold(f64::MAX, f64::min)
}

/// Round by round, so that what slows a round as a whole cancels out.
fn ratio(own: &[Sample], other: &[Sample], of: impl Fn(&Sample) -> f64) -> Result<f64> {
    median(
        own.iter()
            .zip(other)
            .map(|(own, other)| of(own) / of(other))
            .collect(),
    )
}

fn median(mut values: Vec<f64>) -> Result<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle).context("no round was measured")?;
    Ok(if values.len() % 2 == 1 {
        upper
    } else {
        f64::midpoint(values[middle - 1], upper)
    })
}
