//! What the API server says of one object: read at once, so that nothing larger than what is used of it is kept.

use std::sync::Arc;

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery, networking::v1 as networking};
use serde::{Deserialize, de::DeserializeOwned};

use super::super::stores::AnyObject;
use crate::{
    objects::{
        CGROUP_ANNOTATION, EgressPolicy, EgressPolicyManifest, GatewayManifest, Kind, NETNS_ANNOTATION,
        ObjectRef, PROXY_CGROUP_ANNOTATION, Pod, ServiceEntryManifest, Stored,
    },
    problem::Origin,
};

/// Annotations that say where on the node a pod is. In a directory an operator writes them; in a cluster whoever may
/// create a pod may, and would say that he is another.
const PLACES: [&str; 3] = [NETNS_ANNOTATION, CGROUP_ANNOTATION, PROXY_CGROUP_ANNOTATION];

/// One object.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// Which.
    pub(super) name: ObjectRef,
    /// Its `metadata.resourceVersion`.
    pub(super) version: String,
    /// What it says, or why that cannot be read.
    pub(super) read: Result<AnyObject, String>,
    /// It says where on the node it is, which is not believed.
    pub(super) names_places: bool,
}

#[derive(Deserialize)]
struct Header {
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    namespace: Option<String>,
    #[serde(default)]
    resource_version: String,
}

impl Item {
    /// Reads the JSON of an object of this kind. An error if it is no object at all.
    pub(super) fn read(kind: Kind, json: &str) -> Result<Self, serde_json::Error> {
        let Header { metadata } = serde_json::from_str(json)?;
        let Metadata {
            name,
            namespace,
            resource_version,
        } = metadata;
        let origin = Origin::Cluster {
            resource_version: resource_version.as_str().into(),
        };
        let mut names_places = false;
        let read = match kind {
            Kind::Node => object::<core::Node, _>(json, origin).map(AnyObject::Node),
            Kind::Namespace => object::<core::Namespace, _>(json, origin).map(AnyObject::Namespace),
            Kind::Pod => pod(json, origin, &mut names_places).map(AnyObject::Pod),
            Kind::Service => object::<core::Service, _>(json, origin).map(AnyObject::Service),
            Kind::EndpointSlice => {
                object::<discovery::EndpointSlice, _>(json, origin).map(AnyObject::EndpointSlice)
            }
            Kind::ServiceCIDR => {
                object::<networking::ServiceCIDR, _>(json, origin).map(AnyObject::ServiceCidr)
            }
            Kind::Gateway => object::<GatewayManifest, _>(json, origin).map(AnyObject::Gateway),
            Kind::ServiceEntry => {
                object::<ServiceEntryManifest, _>(json, origin).map(AnyObject::ServiceEntry)
            }
            Kind::EgressPolicy => {
                object::<EgressPolicyManifest, EgressPolicy>(json, origin).map(AnyObject::EgressPolicy)
            }
        };
        Ok(Self {
            name: ObjectRef {
                kind,
                namespace,
                name,
            },
            version: resource_version,
            read,
            names_places,
        })
    }
}

fn object<M, T>(json: &str, origin: Origin) -> Result<Arc<Stored<T>>, String>
where
    M: DeserializeOwned,
    T: TryFrom<M, Error: ToString>,
{
    let manifest: M = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let object = T::try_from(manifest).map_err(|error| error.to_string())?;
    Ok(Arc::new(Stored { object, origin }))
}

fn pod(json: &str, origin: Origin, names_places: &mut bool) -> Result<Arc<Stored<Pod>>, String> {
    let mut manifest: core::Pod = serde_json::from_str(json).map_err(|error| error.to_string())?;
    if let Some(annotations) = &mut manifest.metadata.annotations {
        for place in PLACES {
            *names_places |= annotations.remove(place).is_some();
        }
    }
    let object = Pod::try_from(manifest).map_err(|error| error.to_string())?;
    Ok(Arc::new(Stored { object, origin }))
}
