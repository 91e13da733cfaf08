//! Label and field selectors.

use serde_json::Value;

use super::{kinds::Resource, meta, refusal::Refusal};

/// Fields that objects can be selected by beside their name and namespace.
const FIELDS: &[(&str, &[&str])] = &[
    (
        "pods",
        &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
    ),
    ("nodes", &["spec.unschedulable"]),
    ("namespaces", &["status.phase"]),
    ("services", &["spec.clusterIP", "spec.type"]),
    ("secrets", &["type"]),
    (
        "events",
        &[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "reason",
            "type",
            "reportingComponent",
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "reportingController",
        ],
    ),
];

/// What a list or a watch is narrowed to.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    NotIn(Vec<String>),
}

impl Test {
    fn accepts(&self, value: Option<&str>) -> bool {
        let is_one = |values: &[String]| value.is_some_and(|value| values.iter().any(|one| one == value));
        match self {
            Self::Exists => value.is_some(),
            Self::Absent => value.is_none(),
            Self::In(values) => is_one(values),
            Self::NotIn(values) => !is_one(values),
        }
    }
}

impl Selector {
    pub(super) fn parse(labels: &str, fields: &str) -> Result<Self, Refusal> {
        let labels = terms(labels).map(label).collect::<Result<_, _>>()?;
        let fields = terms(fields).map(field).collect::<Result<_, _>>()?;
        Ok(Self { labels, fields })
    }

    pub(super) fn is_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(super) fn accepts(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        self.labels
            .iter()
            .all(|wanted| wanted.test.accepts(labels[&wanted.key].as_str()))
            && self
                .fields
                .iter()
                .all(|wanted| wanted.test.accepts(Some(meta::text(object, &wanted.key))))
    }
}

/// Splits at the commas that are not within parentheses.
fn terms(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    text.split(move |character| {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        character == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|term| !term.is_empty())
}

fn label(term: &str) -> Result<Requirement, Refusal> {
    let requirement = |key: &str, test| {
        let key = key.trim();
        let plain = |character: char| character.is_ascii_alphanumeric() || "-_./".contains(character);
        if key.is_empty() || !key.chars().all(plain) {
            let message = format!("unable to parse requirement: invalid label key in {term:?}");
            return Err(Refusal::bad_request(message));
        }
        Ok(Requirement {
            key: key.to_owned(),
            test,
        })
    };
    if let Some((key, value)) = term.split_once("!=") {
        return requirement(key, Test::NotIn(vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return requirement(key, Test::In(vec![value.trim().to_owned()]));
    }
    if let Some((head, values)) = term.strip_suffix(')').and_then(|rest| rest.split_once('(')) {
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        let head = head.trim();
        return match head.split_once(char::is_whitespace) {
            Some((key, "in")) => requirement(key, Test::In(values)),
            Some((key, operator)) if operator.trim() == "notin" => requirement(key, Test::NotIn(values)),
            _ => Err(Refusal::bad_request(format!(
                "unable to parse requirement: found {term:?}, expected: in, notin, =, ==, !="
            ))),
        };
    }
    match term.strip_prefix('!') {
        Some(key) => requirement(key, Test::Absent),
        None => requirement(term, Test::Exists),
    }
}

fn field(term: &str) -> Result<Requirement, Refusal> {
    let (key, test) = if let Some((key, value)) = term.split_once("!=") {
        (key, Test::NotIn(vec![value.to_owned()]))
    } else if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        (key, Test::In(vec![value.to_owned()]))
    } else {
        let message = format!("invalid selector: {term:?}; can't understand {term:?}");
        return Err(Refusal::bad_request(message));
    };
    Ok(Requirement {
        key: key.to_owned(),
        test,
    })
}

impl Selector {
    /// Refuses fields that the real server cannot select this resource by.
    pub(super) fn check(&self, resource: &Resource) -> Result<(), Refusal> {
        let more = FIELDS.iter().filter(|(plural, _)| *plural == resource.plural);
        let known: Vec<_> = more
            .flat_map(|(_, fields)| fields.iter().copied())
            .chain(["metadata.name", "metadata.namespace"])
            .collect();
        match self
            .fields
            .iter()
            .find(|wanted| !known.contains(&wanted.key.as_str()))
        {
            Some(wanted) => Err(Refusal::bad_request(format!(
                "field label not supported: {}",
                wanted.key
            ))),
            None => Ok(()),
        }
    }
}
