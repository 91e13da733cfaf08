//! Label selectors, with the meaning that Kubernetes gives them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Labels of an object.
pub type Labels = BTreeMap<String, String>;

/// The label that every namespace has: its own name.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Operator {
    /// The label is there with one of the values.
    In,
    /// The label is not there, or with another value.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
}

/// One condition of a selector.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// With what; empty for `Exists` and `DoesNotExist`.
    pub values: BTreeSet<String>,
}

impl Requirement {
    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            Operator::In => value.is_some_and(|value| self.values.contains(value)),
            Operator::NotIn => value.is_none_or(|value| !self.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

/// Selects objects by their labels; all requirements must be met, so that the empty one selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

impl Selector {
    /// Everything that meets all of these.
    pub fn new(requirements: impl IntoIterator<Item = Requirement>) -> Self {
        Self {
            requirements: requirements.into_iter().collect(),
        }
    }

    /// Everything that has all of these labels.
    pub fn labels(labels: &Labels) -> Self {
        Self::new(labels.iter().map(|(key, value)| Requirement {
            key: key.clone(),
            operator: Operator::In,
            values: BTreeSet::from([value.clone()]),
        }))
    }

    /// Whether something with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.matches(labels))
    }

    /// Whether it asks for no more than a namespace's name, which is known without the Namespace object.
    pub fn asks_only_for(&self, key: &str) -> bool {
        self.requirements.iter().all(|requirement| requirement.key == key)
    }
}

/// As label selectors are written in queries.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            let Requirement {
                key,
                operator,
                values,
            } = requirement;
            let comma = if index == 0 { "" } else { "," };
            let values = || values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
            match operator {
                Operator::In => write!(f, "{comma}{key} in ({})", values())?,
                Operator::NotIn => write!(f, "{comma}{key} notin ({})", values())?,
                Operator::Exists => write!(f, "{comma}{key}")?,
                Operator::DoesNotExist => write!(f, "{comma}!{key}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case(Operator::In, &["a"], true, false, false)]
    #[case(Operator::NotIn, &["a"], false, true, true)]
    #[case(Operator::Exists, &[], true, true, false)]
    #[case(Operator::DoesNotExist, &[], false, false, true)]
    fn operators_mean_what_they_mean_in_kubernetes(
        #[case] operator: Operator,
        #[case] values: &[&str],
        #[case] same: bool,
        #[case] other: bool,
        #[case] absent: bool,
    ) {
        let values = values.iter().map(ToString::to_string).collect();
        let selector = Selector::new([Requirement {
            key: "app".into(),
            operator,
            values,
        }]);
        let labels = |value: &str| Labels::from([("app".into(), value.into())]);
        assert_eq!(selector.matches(&labels("a")), same);
        assert_eq!(selector.matches(&labels("b")), other);
        assert_eq!(selector.matches(&Labels::new()), absent);
        assert!(Selector::default().matches(&Labels::new()));
    }
}
