//! The stores: every object that is used, by its kind and name.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    facts::PodName,
    objects::{
        EgressPolicy, EndpointSlice, Gateway, Kind, Namespace, Node, ObjectName, ObjectRef, Pod, Service,
        ServiceEntry, Stored,
    },
    problem::Origin,
};

/// A kind that is not read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct UnknownKind {
    /// Group and version.
    pub api_version: String,
    /// The kind.
    pub kind: String,
}

/// Everything that a source knows of the cluster.
///
/// Objects are shared, not copied, so that a new version of the stores costs no more than what has changed in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stores {
    /// By name.
    pub nodes: BTreeMap<String, Arc<Stored<Node>>>,
    /// By name.
    pub namespaces: BTreeMap<String, Arc<Stored<Namespace>>>,
    /// By namespace and name.
    pub pods: BTreeMap<PodName, Arc<Stored<Pod>>>,
    /// By namespace and name.
    pub services: BTreeMap<ObjectName, Arc<Stored<Service>>>,
    /// By namespace and name.
    pub endpoint_slices: BTreeMap<ObjectName, Arc<Stored<EndpointSlice>>>,
    /// By namespace and name.
    pub gateways: BTreeMap<ObjectName, Arc<Stored<Gateway>>>,
    /// By namespace and name.
    pub service_entries: BTreeMap<ObjectName, Arc<Stored<ServiceEntry>>>,
    /// By name.
    pub policies: BTreeMap<String, Arc<Stored<EgressPolicy>>>,
    /// How many documents of kinds that are not read there are.
    pub ignored: BTreeMap<UnknownKind, usize>,
    complete: bool,
}

impl Stores {
    /// Whether this is all that the source has. If it is not, objects may be missing that are there, and rules
    /// that are in the kernel must stay.
    pub const fn is_complete(&self) -> bool {
        self.complete
    }

    /// Says whether this is all that the source has.
    pub const fn set_complete(&mut self, complete: bool) {
        self.complete = complete;
    }

    /// Adds an object, unless there is one of its kind and name, whose origin is then returned.
    pub fn insert(&mut self, object: AnyObject) -> Result<(), Origin> {
        match object {
            AnyObject::Node(object) => add(&mut self.nodes, object.name.clone(), object),
            AnyObject::Namespace(object) => add(&mut self.namespaces, object.name.clone(), object),
            AnyObject::Pod(object) => add(&mut self.pods, object.name.clone(), object),
            AnyObject::Service(object) => add(&mut self.services, object.name.clone(), object),
            AnyObject::EndpointSlice(object) => add(&mut self.endpoint_slices, object.name.clone(), object),
            AnyObject::Gateway(object) => add(&mut self.gateways, object.name.clone(), object),
            AnyObject::ServiceEntry(object) => add(&mut self.service_entries, object.name.clone(), object),
            AnyObject::EgressPolicy(object) => add(&mut self.policies, object.name.clone(), object),
        }
    }

    /// Where the object of this kind and name is written.
    pub fn origin(&self, object: &ObjectRef) -> Option<&Origin> {
        let ObjectRef {
            kind,
            namespace,
            name,
        } = object;
        let namespaced = || ObjectName::new(namespace.as_deref().unwrap_or_default(), name);
        let pod = || PodName {
            namespace: namespace.clone().unwrap_or_default(),
            name: name.clone(),
        };
        match kind {
            Kind::Node => self.nodes.get(name).map(|stored| &stored.origin),
            Kind::Namespace => self.namespaces.get(name).map(|stored| &stored.origin),
            Kind::Pod => self.pods.get(&pod()).map(|stored| &stored.origin),
            Kind::Service => self.services.get(&namespaced()).map(|stored| &stored.origin),
            Kind::EndpointSlice => self
                .endpoint_slices
                .get(&namespaced())
                .map(|stored| &stored.origin),
            Kind::Gateway => self.gateways.get(&namespaced()).map(|stored| &stored.origin),
            Kind::ServiceEntry => self
                .service_entries
                .get(&namespaced())
                .map(|stored| &stored.origin),
            Kind::EgressPolicy => self.policies.get(name).map(|stored| &stored.origin),
        }
    }
}

fn add<K: Ord, T>(
    store: &mut BTreeMap<K, Arc<Stored<T>>>,
    name: K,
    object: Arc<Stored<T>>,
) -> Result<(), Origin> {
    match store.entry(name) {
        Entry::Vacant(entry) => {
            entry.insert(object);
            Ok(())
        }
        Entry::Occupied(entry) => Err(entry.get().origin.clone()),
    }
}

/// An object of any kind that is read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are the kinds")]
pub enum AnyObject {
    Node(Arc<Stored<Node>>),
    Namespace(Arc<Stored<Namespace>>),
    Pod(Arc<Stored<Pod>>),
    Service(Arc<Stored<Service>>),
    EndpointSlice(Arc<Stored<EndpointSlice>>),
    Gateway(Arc<Stored<Gateway>>),
    ServiceEntry(Arc<Stored<ServiceEntry>>),
    EgressPolicy(Arc<Stored<EgressPolicy>>),
}

impl AnyObject {
    /// Its kind and name.
    pub fn reference(&self) -> ObjectRef {
        match self {
            Self::Node(object) => ObjectRef::cluster(Kind::Node, &object.name),
            Self::Namespace(object) => ObjectRef::cluster(Kind::Namespace, &object.name),
            Self::Pod(object) => ObjectRef::from(&object.name),
            Self::Service(object) => object.name.of_kind(Kind::Service),
            Self::EndpointSlice(object) => object.name.of_kind(Kind::EndpointSlice),
            Self::Gateway(object) => object.name.of_kind(Kind::Gateway),
            Self::ServiceEntry(object) => object.name.of_kind(Kind::ServiceEntry),
            Self::EgressPolicy(object) => ObjectRef::cluster(Kind::EgressPolicy, &object.name),
        }
    }

    /// Where it is written.
    pub fn origin(&self) -> &Origin {
        match self {
            Self::Node(object) => &object.origin,
            Self::Namespace(object) => &object.origin,
            Self::Pod(object) => &object.origin,
            Self::Service(object) => &object.origin,
            Self::EndpointSlice(object) => &object.origin,
            Self::Gateway(object) => &object.origin,
            Self::ServiceEntry(object) => &object.origin,
            Self::EgressPolicy(object) => &object.origin,
        }
    }

    /// The same object, found on another line of its file.
    pub(super) fn on_line(self, line: u64) -> Self {
        match self {
            Self::Node(object) => Self::Node(on_line(object, line)),
            Self::Namespace(object) => Self::Namespace(on_line(object, line)),
            Self::Pod(object) => Self::Pod(on_line(object, line)),
            Self::Service(object) => Self::Service(on_line(object, line)),
            Self::EndpointSlice(object) => Self::EndpointSlice(on_line(object, line)),
            Self::Gateway(object) => Self::Gateway(on_line(object, line)),
            Self::ServiceEntry(object) => Self::ServiceEntry(on_line(object, line)),
            Self::EgressPolicy(object) => Self::EgressPolicy(on_line(object, line)),
        }
    }
}

fn on_line<T: Clone>(mut object: Arc<Stored<T>>, line: u64) -> Arc<Stored<T>> {
    if object.origin.line != line {
        Arc::make_mut(&mut object).origin.line = line;
    }
    object
}
