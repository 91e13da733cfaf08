//! A namespace as the keeper knows it: wanted, and open if it is there.

use tracing::{info, warn};

use super::{
    Error, Repairs, Wanted,
    namespace::{Depth, Look, Namespace, Tools},
};
use crate::{
    facts::NetnsCookie,
    problem::{Problem, Severity},
};

/// One of those wanted.
#[derive(Debug)]
pub(super) struct Slot {
    cookie: NetnsCookie,
    wanted: Wanted,
    namespace: Option<Namespace>,
    /// What the last attempt said, if it failed.
    failures: Vec<String>,
}

impl Slot {
    pub(super) const fn new(cookie: NetnsCookie, wanted: Wanted) -> Self {
        Self {
            cookie,
            wanted,
            namespace: None,
            failures: Vec::new(),
        }
    }

    /// Brings the namespace to what is wanted; to what was wanted before nothing is done if all is well.
    pub(super) fn want(&mut self, tools: &Tools, wanted: Wanted, repairs: &mut Repairs) -> Result<(), Error> {
        let settled = self.namespace.is_some() && self.failures.is_empty();
        if settled && self.wanted == wanted {
            return Ok(());
        }
        if self.wanted.netns != wanted.netns {
            self.namespace = None;
        }
        self.wanted = wanted;
        self.bring(tools, repairs)
    }

    /// A look, and what it takes. Leaves the thread anywhere: somebody has to go home afterwards.
    pub(super) fn check(&mut self, tools: &Tools, depth: Depth, repairs: &mut Repairs) {
        // What is not there, or not as it should be, is tried again and again, but not at every opportunity.
        let retry = depth >= Depth::Unheard && !self.failures.is_empty();
        let look = match &self.namespace {
            Some(namespace) => namespace.look(tools, depth),
            None => Look::Fine,
        };
        match look {
            Look::Fine if !retry => {}
            Look::Fine | Look::Changed => {
                // What fails is kept as a failure, for `problems`.
                let _ = self.bring(tools, repairs);
            }
            Look::Gone => {
                // What is open keeps the namespace alive.
                self.namespace = None;
                let error = Error::Gone {
                    path: self.wanted.netns.clone(),
                };
                self.fail(&[error]);
            }
        }
    }

    fn bring(&mut self, tools: &Tools, repairs: &mut Repairs) -> Result<(), Error> {
        // Whoever opens a namespace is at home.
        let mut errors = match self.open(tools) {
            Ok((namespace, wanted)) => namespace.bring(tools, wanted, repairs),
            Err(error) => vec![error],
        };
        self.fail(&errors);
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors.swap_remove(0))
        }
    }

    fn open(&mut self, tools: &Tools) -> Result<(&mut Namespace, &Wanted), Error> {
        if self.namespace.is_none() {
            tools.home.go()?;
            self.namespace = Some(Namespace::open(tools, self.cookie, &self.wanted)?);
        }
        match &mut self.namespace {
            Some(namespace) => Ok((namespace, &self.wanted)),
            None => Err(Error::Gone {
                path: self.wanted.netns.clone(),
            }),
        }
    }

    fn fail(&mut self, errors: &[Error]) {
        let failures: Vec<String> = errors.iter().map(ToString::to_string).collect();
        // Once for each, and not at every attempt.
        for failure in failures.iter().filter(|failure| !self.failures.contains(failure)) {
            warn!(
                pod = self.wanted.name,
                error = failure,
                "not everything is in place in a pod"
            );
        }
        if failures.is_empty() && !self.failures.is_empty() {
            info!(pod = self.wanted.name, "everything is in place");
        }
        self.failures = failures;
    }

    /// What an operator should know.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let failures = self.failures.iter();
        failures
            .map(|failure| Problem::new(Severity::Error, format!("{}: {failure}", self.wanted.name)))
            .collect()
    }
}
