//! What is wrong with a cluster's objects, or with how they come here; and how old they are.

use std::{collections::BTreeSet, time::Duration};

use super::{
    super::status::{KindStatus, SourceKind, SourceStatus, WatchState},
    Kubernetes,
    api::Error,
    watch::{Health, Known, Watch},
};
use crate::{
    objects::{Kind, ObjectRef},
    problem::{Problem, Severity},
};

/// How many objects of one kind are named that cannot be read: whoever may write them must not be able to fill the log.
const NAMED: usize = 20;

impl Kubernetes {
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut naming_places = BTreeSet::new();
        for watch in self.all() {
            let known = watch.known();
            problems.extend(self.of_health(watch, &known));
            of_objects(watch, &known, &mut problems);
            naming_places.extend(known.table.naming_places().iter().cloned());
        }
        problems.extend(of_places(&naming_places));
        if !self.complete {
            let missing = self.all().filter(|watch| !self.is_whole(watch));
            let names: Vec<_> = missing.map(|watch| watch.target.to_string()).collect();
            let message = format!(
                "not all of the cluster is known yet, so that rules in the kernel stay as they are; missing: {}",
                names.join(", ")
            );
            problems.push(Problem::new(Severity::Info, message));
        }
        problems
    }

    fn of_health(&self, watch: &Watch, known: &Known) -> Option<Problem> {
        match &known.health {
            Health::Starting | Health::Well => None,
            Health::Failing { since, error } => {
                // What is known goes on being enforced, and what is new on this node is dropped; but without any rules, or
                // with rights that somebody has to grant, it does not get better by itself.
                let waits = self.complete && !matches!(error, Error::Forbidden { .. });
                let severity = if waits { Severity::Warning } else { Severity::Error };
                let message = format!(
                    "{}: cannot be watched since {since:.0}: {error}; what was last known stays",
                    watch.target
                );
                Some(Problem::new(severity, message))
            }
            Health::Absent { since: _ } => {
                let severity = watch.target.if_absent.unwrap_or(Severity::Error);
                let message = if watch.target.kind == Kind::EgressPolicy {
                    self.without_policies(known)
                } else {
                    let resource = watch.target.resource();
                    format!("the server has no {resource}; it is looked for again")
                };
                Some(Problem::new(severity, message))
            }
        }
    }

    fn without_policies(&self, known: &Known) -> String {
        let effect = if !known.table.objects().is_empty() {
            "the policies that were last known stay in force"
        } else if !self.complete && self.enforced {
            "the rules in the kernel, which enforce policies, stay; `sluice detach` takes them away"
        } else {
            "nothing is enforced"
        };
        format!(
            "the server has no egresspolicies.sluice.dev: install the CustomResourceDefinition (deploy/base/crds.yaml); \
             {effect}"
        )
    }

    /// How long ago the server last said anything on that of which it has said nothing for longest.
    pub fn age(&self) -> Option<Duration> {
        let heard: Option<Vec<_>> = self.all().map(|watch| watch.known().heard).collect();
        heard?.into_iter().min().map(|heard| heard.elapsed())
    }

    /// How every watch is.
    pub fn status(&self) -> SourceStatus {
        let mut status = SourceStatus::of(SourceKind::Kubernetes);
        for watch in self.all() {
            let known = watch.known();
            let state = match known.health {
                Health::Starting => WatchState::Listing,
                Health::Well => WatchState::Watching,
                Health::Absent { .. } => WatchState::Absent,
                Health::Failing { .. } => WatchState::Failing,
            };
            let kind = KindStatus {
                state,
                api_version: known.version.map(|version| watch.target.api_version(version)),
                age_seconds: known.heard.map(|heard| heard.elapsed().as_secs()),
                objects: known.table.objects().len(),
            };
            status.kinds.insert(watch.target.to_string(), kind);
        }
        status.age_seconds = self.age().map(|age| age.as_secs());
        status
    }
}

fn of_objects(watch: &Watch, known: &Known, problems: &mut Vec<Problem>) {
    let mut unreadable = known.table.unreadable();
    for (name, reason, has_older) in unreadable.by_ref().take(NAMED) {
        let effect = match (has_older, watch.target.kind) {
            (true, _) => "its last version that could be read stays",
            (false, Kind::EgressPolicy) => "it is not in force",
            (false, _) => "it counts as not there",
        };
        let message = format!("cannot be read: {reason}; {effect}");
        problems.push(Problem::new(Severity::Error, message).about(name.clone()));
    }
    let more = unreadable.count();
    if more > 0 {
        let message = format!("{}: {more} more cannot be read", watch.target);
        problems.push(Problem::new(Severity::Error, message));
    }
}

fn of_places(pods: &BTreeSet<ObjectRef>) -> Option<Problem> {
    let first = pods.first()?;
    let others = match pods.len() {
        1 => String::new(),
        count => format!(" and {} other pods", count - 1),
    };
    let message = format!(
        "the annotations sluice.dev/netns, sluice.dev/cgroup and sluice.dev/proxy-cgroup are not believed in a cluster, as \
         whoever may create a pod may write them; they are on this one{others}"
    );
    Some(Problem::new(Severity::Warning, message).about(first.clone()))
}
