//! Gateway of the Gateway API.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::{Invalid, ObjectName, core::object_name};

/// A Gateway: all that counts is that it exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gateway {
    /// Its namespace and name.
    pub name: ObjectName,
}

/// A Gateway as it is written (`gateway.networking.k8s.io/v1`, `v1beta1`).
#[derive(Clone, Debug, Deserialize)]
pub struct GatewayManifest {
    metadata: ObjectMeta,
}

impl TryFrom<GatewayManifest> for Gateway {
    type Error = Invalid;

    fn try_from(manifest: GatewayManifest) -> Result<Self, Invalid> {
        Ok(Self {
            name: object_name(&manifest.metadata)?,
        })
    }
}
