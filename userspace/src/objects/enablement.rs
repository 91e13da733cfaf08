//! Which pods are to be captured, as Istio's chart has it (`AMBIENT_ENABLEMENT_SELECTOR`): a list of pairs of selectors.

use std::{collections::BTreeSet, sync::Arc};

use serde::Deserialize;

use super::{
    Labels, NAMESPACE_NAME_LABEL, Operator, Requirement, Selector,
    egress_policy::{
        crd::LabelSelector,
        placed::{FieldError, FieldPath},
        validate,
    },
};

/// Pods with these labels in namespaces with those.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Enablement {
    /// The pods.
    pub pods: Selector,
    /// The namespaces.
    pub namespaces: Selector,
}

/// Why such a list cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnablementError {
    /// It has another form.
    #[error(
        "{0} (expected a YAML list, as `- podSelector: {{matchLabels: {{istio.io/dataplane-mode: ambient}}}}`)"
    )]
    Yaml(Arc<str>),
    /// One of its fields is wrong.
    #[error(transparent)]
    Field(#[from] FieldError),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Manifest {
    #[serde(default)]
    pod_selector: LabelSelector,
    #[serde(default)]
    namespace_selector: LabelSelector,
}

impl Enablement {
    /// Reads a list; a selector that is left out selects everything.
    pub fn read(text: &str) -> Result<Vec<Self>, EnablementError> {
        let manifests: Vec<Manifest> =
            serde_saphyr::from_str(text).map_err(|error| EnablementError::Yaml(error.to_string().into()))?;
        let read = |(index, manifest): (usize, Manifest)| {
            let Manifest {
                pod_selector,
                namespace_selector,
            } = manifest;
            let at = FieldPath::new("").index(index);
            Ok(Self {
                pods: validate::selector(&at.field("podSelector"), pod_selector)?,
                namespaces: validate::selector(&at.field("namespaceSelector"), namespace_selector)?,
            })
        };
        manifests.into_iter().enumerate().map(read).collect()
    }

    /// Pods with the label `key` of this value, and those of namespaces with it that do not say `none` themselves: the shape
    /// of the chart's own list.
    pub fn by_label(key: &str, value: &str) -> Vec<Self> {
        let requirement = |operator, value: &str| {
            Selector::new([Requirement {
                key: key.to_owned(),
                operator,
                values: BTreeSet::from([value.to_owned()]),
            }])
        };
        vec![
            Self {
                pods: requirement(Operator::In, value),
                namespaces: Selector::default(),
            },
            Self {
                pods: requirement(Operator::NotIn, "none"),
                namespaces: requirement(Operator::In, value),
            },
        ]
    }

    /// Whether it selects a pod; `None` if that depends on its namespace, which is not known.
    pub fn selects(&self, pod: &Labels, namespace: &str, labels: Option<&Labels>) -> Option<bool> {
        if !self.pods.matches(pod) {
            return Some(false);
        }
        let named = |labels: &Labels| {
            let mut labels = labels.clone();
            labels.insert(NAMESPACE_NAME_LABEL.to_owned(), namespace.to_owned());
            self.namespaces.matches(&labels)
        };
        match labels {
            Some(labels) => Some(named(labels)),
            None if self.namespaces.asks_only_for(NAMESPACE_NAME_LABEL) => Some(named(&Labels::new())),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(key: &str, value: &str) -> Labels {
        Labels::from([(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn lists_are_read_as_the_chart_writes_them() {
        let text = "
- podSelector:
    matchLabels:
      istio.io/dataplane-mode: ambient
- namespaceSelector:
    matchLabels:
      istio.io/dataplane-mode: ambient
  podSelector:
    matchExpressions:
    - key: istio.io/dataplane-mode
      operator: NotIn
      values: [none]
";
        let read = Enablement::read(text).expect("a list");
        assert_eq!(read, Enablement::by_label("istio.io/dataplane-mode", "ambient"));
        assert_eq!(
            read[0].selects(&labels("istio.io/dataplane-mode", "ambient"), "x", None),
            Some(true)
        );
        assert_eq!(read[1].selects(&Labels::new(), "x", None), None);
        let wrong = "- podSelector: {matchExpressions: [{key: a, operator: In}]}";
        assert!(
            Enablement::read(wrong)
                .expect_err("no values")
                .to_string()
                .contains("podSelector")
        );
        assert!(
            Enablement::read("a: b")
                .expect_err("no list")
                .to_string()
                .contains("YAML list")
        );
    }
}
