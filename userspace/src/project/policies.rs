//! Which policy selects which pod, and as what.

use std::collections::BTreeMap;

use super::report::Role;
use crate::{
    objects::{
        EgressPolicy, Exception, GATEWAY_NAME_LABEL, GatewayPods, GatewayRef, Labels, NAMESPACE_NAME_LABEL,
        Pod, Selector, Stored,
    },
    source::Stores,
};

/// The policies, ready to be asked.
pub(super) struct Policies<'a> {
    stores: &'a Stores,
    /// Labels of the namespaces, their names among them.
    namespaces: BTreeMap<&'a str, Labels>,
}

/// A policy that selects a pod.
#[derive(Clone, Copy)]
pub(super) struct Selecting<'a> {
    pub(super) policy: &'a Stored<EgressPolicy>,
    /// As a gateway or a subject.
    pub(super) role: Role,
}

/// Whether a policy selects a pod cannot be said, as the pod's Namespace is not known.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the Namespace {namespace} is not known, and EgressPolicy {policy} selects by its labels")]
pub(super) struct UnknownNamespace {
    namespace: String,
    policy: String,
}

impl<'a> Policies<'a> {
    pub(super) fn new(stores: &'a Stores) -> Self {
        let labels = |(name, namespace): (&'a String, &'a std::sync::Arc<Stored<_>>)| {
            let namespace: &crate::objects::Namespace = namespace;
            (name.as_str(), with_name(namespace.labels.clone(), name))
        };
        Self {
            stores,
            namespaces: stores.namespaces.iter().map(labels).collect(),
        }
    }

    pub(super) fn each(&self) -> impl Iterator<Item = &'a Stored<EgressPolicy>> {
        self.stores.policies.values().map(|policy| &**policy)
    }

    /// The policies that select `pod`. `host`: it is in the node's network namespace.
    pub(super) fn selecting(&self, pod: &Pod, host: bool) -> Result<Vec<Selecting<'a>>, UnknownNamespace> {
        let mut selecting = Vec::new();
        for policy in self.each() {
            if let Some(role) = self.role(policy, pod, host)? {
                selecting.push(Selecting { policy, role });
            }
        }
        Ok(selecting)
    }

    /// As what `policy` selects `pod`, if at all.
    pub(super) fn role(
        &self,
        policy: &EgressPolicy,
        pod: &Pod,
        host: bool,
    ) -> Result<Option<Role>, UnknownNamespace> {
        if policy.gateways.iter().any(|gateway| names(gateway, pod)) {
            return Ok(Some(Role::Gateway));
        }
        let subjects = &policy.subjects;
        if host && !subjects.host_network {
            return Ok(None);
        }
        let selected = self.selects(policy, &subjects.namespaces, &subjects.pods, pod)?;
        Ok(selected.then_some(Role::Subject))
    }

    /// The exceptions of `policy` that are for `pod`, which is its subject.
    pub(super) fn exceptions<'p>(
        &self,
        policy: &'p EgressPolicy,
        pod: &Pod,
    ) -> Result<Vec<&'p Exception>, UnknownNamespace> {
        let mut exceptions = Vec::new();
        for exception in &policy.exceptions {
            if self.selects(policy, &exception.namespaces, &exception.pods, pod)? {
                exceptions.push(exception);
            }
        }
        Ok(exceptions)
    }

    fn selects(
        &self,
        policy: &EgressPolicy,
        namespaces: &Selector,
        pods: &Selector,
        pod: &Pod,
    ) -> Result<bool, UnknownNamespace> {
        if !pods.matches(&pod.labels) {
            return Ok(false);
        }
        let namespace = &pod.name.namespace;
        if let Some(labels) = self.namespaces.get(namespace.as_str()) {
            return Ok(namespaces.matches(labels));
        }
        if namespaces.asks_only_for(NAMESPACE_NAME_LABEL) {
            return Ok(namespaces.matches(&with_name(Labels::new(), namespace)));
        }
        Err(UnknownNamespace {
            namespace: namespace.clone(),
            policy: policy.name.clone(),
        })
    }

    /// The pods that are meant by a gateway of a policy, on any node.
    pub(super) fn pods_of(&self, gateway: &'a GatewayRef) -> impl Iterator<Item = &'a Stored<Pod>> {
        let pods = self.stores.pods.values().map(|pod| &**pod);
        pods.filter(|pod| !pod.finished && names(gateway, pod))
    }
}

/// Every namespace has the label of its name, whatever its object says.
fn with_name(mut labels: Labels, name: &str) -> Labels {
    labels.insert(NAMESPACE_NAME_LABEL.to_owned(), name.to_owned());
    labels
}

/// Whether `gateway` means `pod`.
fn names(gateway: &GatewayRef, pod: &Pod) -> bool {
    gateway.namespace == pod.name.namespace
        && match &gateway.pods {
            GatewayPods::Gateway(name) => pod.labels.get(GATEWAY_NAME_LABEL) == Some(name),
            GatewayPods::Selected(selector) => selector.matches(&pod.labels),
        }
}
