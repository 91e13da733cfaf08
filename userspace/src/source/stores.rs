//! The stores: every object that is used, by its kind and name.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{
    facts::PodName,
    objects::{
        EgressPolicy, EndpointSlice, Gateway, GatewayRef, Kind, Namespace, Node, ObjectName, ObjectRef, Pod,
        Service, ServiceCidr, ServiceEntry, Stored,
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
    /// By name.
    pub service_cidrs: BTreeMap<String, Arc<Stored<ServiceCidr>>>,
    /// By namespace and name.
    pub gateways: BTreeMap<ObjectName, Arc<Stored<Gateway>>>,
    /// By namespace and name.
    pub service_entries: BTreeMap<ObjectName, Arc<Stored<ServiceEntry>>>,
    /// By name.
    pub policies: BTreeMap<String, Arc<Stored<EgressPolicy>>>,
    /// How many documents of kinds that are not read there are.
    pub ignored: BTreeMap<UnknownKind, usize>,
    /// Of the pods, only those of this node are all there; of the others, those that somebody asks for.
    pub only_local_pods: bool,
    /// Gateways that policies name, whose pods nobody has told of yet.
    pub awaited_gateways: Vec<GatewayRef>,
    complete: bool,
}

impl Stores {
    /// Empty ones, in which not all pods of the cluster will be.
    pub(super) fn of_one_node() -> Self {
        Self {
            only_local_pods: true,
            ..Self::default()
        }
    }

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
            AnyObject::ServiceCidr(object) => add(&mut self.service_cidrs, object.name.clone(), object),
            AnyObject::Gateway(object) => add(&mut self.gateways, object.name.clone(), object),
            AnyObject::ServiceEntry(object) => add(&mut self.service_entries, object.name.clone(), object),
            AnyObject::EgressPolicy(object) => add(&mut self.policies, object.name.clone(), object),
        }
    }

    /// Adds an object, in the place of one of its kind and name.
    pub fn put(&mut self, object: AnyObject) {
        match object {
            AnyObject::Node(object) => drop(self.nodes.insert(object.name.clone(), object)),
            AnyObject::Namespace(object) => drop(self.namespaces.insert(object.name.clone(), object)),
            AnyObject::Pod(object) => drop(self.pods.insert(object.name.clone(), object)),
            AnyObject::Service(object) => drop(self.services.insert(object.name.clone(), object)),
            AnyObject::EndpointSlice(object) => {
                drop(self.endpoint_slices.insert(object.name.clone(), object));
            }
            AnyObject::ServiceCidr(object) => drop(self.service_cidrs.insert(object.name.clone(), object)),
            AnyObject::Gateway(object) => drop(self.gateways.insert(object.name.clone(), object)),
            AnyObject::ServiceEntry(object) => drop(self.service_entries.insert(object.name.clone(), object)),
            AnyObject::EgressPolicy(object) => drop(self.policies.insert(object.name.clone(), object)),
        }
    }

    /// The object of this kind and name.
    pub fn get(&self, object: &ObjectRef) -> Option<AnyObject> {
        let ObjectRef {
            kind,
            namespace,
            name,
        } = object;
        let namespaced = || ObjectName::new(namespace.as_deref().unwrap_or_default(), name);
        match kind {
            Kind::Node => self.nodes.get(name).cloned().map(AnyObject::Node),
            Kind::Namespace => self.namespaces.get(name).cloned().map(AnyObject::Namespace),
            Kind::Pod => self.pods.get(&pod_name(object)).cloned().map(AnyObject::Pod),
            Kind::Service => self.services.get(&namespaced()).cloned().map(AnyObject::Service),
            Kind::EndpointSlice => {
                let slice = self.endpoint_slices.get(&namespaced()).cloned();
                slice.map(AnyObject::EndpointSlice)
            }
            Kind::ServiceCIDR => self.service_cidrs.get(name).cloned().map(AnyObject::ServiceCidr),
            Kind::Gateway => self.gateways.get(&namespaced()).cloned().map(AnyObject::Gateway),
            Kind::ServiceEntry => {
                let entry = self.service_entries.get(&namespaced()).cloned();
                entry.map(AnyObject::ServiceEntry)
            }
            Kind::EgressPolicy => self.policies.get(name).cloned().map(AnyObject::EgressPolicy),
        }
    }

    /// Takes the object of this kind and name away. `false` if there is none.
    pub fn remove(&mut self, object: &ObjectRef) -> bool {
        let ObjectRef {
            kind,
            namespace,
            name,
        } = object;
        let namespaced = || ObjectName::new(namespace.as_deref().unwrap_or_default(), name);
        match kind {
            Kind::Node => self.nodes.remove(name).is_some(),
            Kind::Namespace => self.namespaces.remove(name).is_some(),
            Kind::Pod => self.pods.remove(&pod_name(object)).is_some(),
            Kind::Service => self.services.remove(&namespaced()).is_some(),
            Kind::EndpointSlice => self.endpoint_slices.remove(&namespaced()).is_some(),
            Kind::ServiceCIDR => self.service_cidrs.remove(name).is_some(),
            Kind::Gateway => self.gateways.remove(&namespaced()).is_some(),
            Kind::ServiceEntry => self.service_entries.remove(&namespaced()).is_some(),
            Kind::EgressPolicy => self.policies.remove(name).is_some(),
        }
    }

    /// Adds all objects of others; of two with the same name theirs stays.
    pub fn absorb(&mut self, others: Self) {
        let Self {
            mut nodes,
            mut namespaces,
            mut pods,
            mut services,
            mut endpoint_slices,
            mut service_cidrs,
            mut gateways,
            mut service_entries,
            mut policies,
            ignored,
            only_local_pods: _,
            awaited_gateways: _,
            complete: _,
        } = others;
        self.nodes.append(&mut nodes);
        self.namespaces.append(&mut namespaces);
        self.pods.append(&mut pods);
        self.services.append(&mut services);
        self.endpoint_slices.append(&mut endpoint_slices);
        self.service_cidrs.append(&mut service_cidrs);
        self.gateways.append(&mut gateways);
        self.service_entries.append(&mut service_entries);
        self.policies.append(&mut policies);
        for (kind, count) in ignored {
            *self.ignored.entry(kind).or_default() += count;
        }
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
            + self.namespaces.len()
            + self.pods.len()
            + self.services.len()
            + self.endpoint_slices.len()
            + self.service_cidrs.len()
            + self.gateways.len()
            + self.service_entries.len()
            + self.policies.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn pod_name(object: &ObjectRef) -> PodName {
    PodName {
        namespace: object.namespace.clone().unwrap_or_default(),
        name: object.name.clone(),
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
    ServiceCidr(Arc<Stored<ServiceCidr>>),
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
            Self::ServiceCidr(object) => ObjectRef::cluster(Kind::ServiceCIDR, &object.name),
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
            Self::ServiceCidr(object) => &object.origin,
            Self::Gateway(object) => &object.origin,
            Self::ServiceEntry(object) => &object.origin,
            Self::EgressPolicy(object) => &object.origin,
        }
    }

    /// Whether it says the same, wherever it is written.
    pub(super) fn says_what(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Node(a), Self::Node(b)) => a.object == b.object,
            (Self::Namespace(a), Self::Namespace(b)) => a.object == b.object,
            (Self::Pod(a), Self::Pod(b)) => a.object == b.object,
            (Self::Service(a), Self::Service(b)) => a.object == b.object,
            (Self::EndpointSlice(a), Self::EndpointSlice(b)) => a.object == b.object,
            (Self::ServiceCidr(a), Self::ServiceCidr(b)) => a.object == b.object,
            (Self::Gateway(a), Self::Gateway(b)) => a.object == b.object,
            (Self::ServiceEntry(a), Self::ServiceEntry(b)) => a.object == b.object,
            (Self::EgressPolicy(a), Self::EgressPolicy(b)) => a.object == b.object,
            (_, _) => false,
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
            Self::ServiceCidr(object) => Self::ServiceCidr(on_line(object, line)),
            Self::Gateway(object) => Self::Gateway(on_line(object, line)),
            Self::ServiceEntry(object) => Self::ServiceEntry(on_line(object, line)),
            Self::EgressPolicy(object) => Self::EgressPolicy(on_line(object, line)),
        }
    }
}

fn on_line<T: Clone>(mut object: Arc<Stored<T>>, line: u64) -> Arc<Stored<T>> {
    if let Origin::File(place) = &object.origin
        && place.line != line
        && let Origin::File(place) = &mut Arc::make_mut(&mut object).origin
    {
        place.line = line;
    }
    object
}
