//! What is served: the kinds that are built in, and those of CustomResourceDefinitions.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use super::builtin;

/// Names a resource whatever its version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) group: String,
    pub(super) plural: String,
}

impl Id {
    pub(super) fn new(group: &str, plural: &str) -> Self {
        Self {
            group: group.to_owned(),
            plural: plural.to_owned(),
        }
    }
}

/// A resource: a kind at a place in the server's tree.
#[derive(Clone, Debug)]
pub(super) struct Resource {
    pub(super) group: String,
    pub(super) plural: String,
    pub(super) kind: String,
    pub(super) short: Vec<String>,
    pub(super) categories: Vec<String>,
    pub(super) namespaced: bool,
    /// It came with a CustomResourceDefinition.
    pub(super) custom: bool,
    /// The served versions, the preferred one first.
    pub(super) versions: Vec<Version>,
}

/// One version of a resource.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) name: String,
    /// Its structural schema. Of kinds that are built in, only what server-side apply has to know.
    pub(super) schema: Value,
    /// It has a subresource `status`.
    pub(super) status: bool,
    /// What a table shows of it.
    pub(super) columns: Vec<Value>,
}

impl Resource {
    pub(super) fn id(&self) -> Id {
        Id::new(&self.group, &self.plural)
    }

    /// `pods`, `egresspolicies.sluice.dev`.
    pub(super) fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    pub(super) fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|version| version.name == name)
    }

    pub(super) fn api_version(&self, version: &str) -> String {
        if self.group.is_empty() {
            version.to_owned()
        } else {
            format!("{}/{version}", self.group)
        }
    }

    /// As a CustomResourceDefinition describes it.
    pub(super) fn custom(definition: &Value) -> Option<Self> {
        let spec = &definition["spec"];
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let texts = |value: &Value| -> Vec<String> {
            value.as_array().into_iter().flatten().filter_map(text).collect()
        };
        let mut versions: Vec<Version> = spec["versions"]
            .as_array()?
            .iter()
            .filter(|version| version["served"] == true)
            .map(|version| {
                Some(Version {
                    name: text(&version["name"])?,
                    schema: version["schema"]["openAPIV3Schema"].clone(),
                    status: version["subresources"]["status"].is_object(),
                    columns: version["additionalPrinterColumns"]
                        .as_array()
                        .cloned()
                        .unwrap_or_default(),
                })
            })
            .collect::<Option<_>>()?;
        versions.sort_by_key(|version| std::cmp::Reverse(priority(&version.name)));
        Some(Self {
            group: text(&spec["group"])?,
            plural: text(&spec["names"]["plural"])?,
            kind: text(&spec["names"]["kind"])?,
            short: texts(&spec["names"]["shortNames"]),
            categories: texts(&spec["names"]["categories"]),
            namespaced: spec["scope"] == "Namespaced",
            custom: true,
            versions,
        })
    }
}

/// Orders `v1alpha3`, `v1beta1`, `v1` as Kubernetes does.
fn priority(version: &str) -> (u8, u32, u32) {
    let Some(rest) = version.strip_prefix('v') else {
        return (0, 0, 0);
    };
    let number = |text: &str| text.parse().unwrap_or(0);
    if let Some((major, minor)) = rest.split_once("alpha") {
        (1, number(major), number(minor))
    } else if let Some((major, minor)) = rest.split_once("beta") {
        (2, number(major), number(minor))
    } else {
        (3, number(rest), 0)
    }
}

/// All that is served.
#[derive(Debug)]
pub(super) struct Kinds(BTreeMap<Id, Arc<Resource>>);

impl Kinds {
    pub(super) fn builtin() -> Self {
        let mut kinds = Self(BTreeMap::new());
        for resource in builtin::resources() {
            kinds.add(resource);
        }
        kinds
    }

    pub(super) fn add(&mut self, resource: Resource) {
        self.0.insert(resource.id(), Arc::new(resource));
    }

    pub(super) fn remove(&mut self, id: &Id) {
        self.0.remove(id);
    }

    /// The resource, if it is served in that version.
    pub(super) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.0
            .get(&Id::new(group, plural))
            .filter(|resource| resource.version(version).is_some())
    }

    /// The resource of an object.
    pub(super) fn of(&self, object: &Value) -> Option<&Arc<Resource>> {
        let api_version = object["apiVersion"].as_str()?;
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        self.0.values().find(|resource| {
            resource.group == group && object["kind"] == resource.kind && resource.version(version).is_some()
        })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.0.values()
    }
}
