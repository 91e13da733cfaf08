//! A Lease of the cluster: of all agents one holds it.
//!
//! As in client-go, a lease has run out when it was not renewed for its time as this agent has seen it, not by the times that
//! stand in it: clocks differ. Two may believe to hold it for a moment; what they write is the same.

use std::time::{Duration, Instant};

use k8s_openapi::{
    api::coordination::v1::{Lease as Object, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};

use super::is_status;

/// For how long it is held without being renewed.
const DURATION: Duration = Duration::from_secs(30);
/// After how long the holder renews it.
const RENEW: Duration = Duration::from_secs(10);
/// How much longer, for every node, the others wait until they look again.
const LOOK_PER_NODE: Duration = Duration::from_millis(100);

/// A Lease, in the namespace of the client.
pub struct Lease {
    leases: Api<Object>,
    name: &'static str,
    holder: String,
    /// The last version of it, and when it was seen for the first time.
    seen: Option<(Option<MicroTime>, Instant)>,
    /// When it was renewed, if it is held.
    renewed: Option<Instant>,
}

impl Lease {
    /// That of this name, to be held as `holder`.
    pub fn new(client: Client, name: &'static str, holder: &str) -> Self {
        let namespace = client.default_namespace().to_owned();
        Self {
            leases: Api::namespaced(client, &namespace),
            name,
            holder: holder.to_owned(),
            seen: None,
            renewed: None,
        }
    }

    /// Holds it, if nobody else does. Says whether it is held.
    pub async fn hold(&mut self) -> kube::Result<bool> {
        if self.renewed.is_some_and(|at| at.elapsed() < RENEW) {
            return Ok(true);
        }
        let done = self.take().await;
        let held = match done {
            Ok(held) => held,
            // Somebody else was faster.
            Err(error) if is_status(&error, 409) => false,
            Err(error) => {
                self.renewed = None;
                return Err(error);
            }
        };
        self.renewed = held.then(Instant::now);
        Ok(held)
    }

    /// For how long one who does not hold it waits before it tries again, in a cluster of so many nodes.
    pub fn look_again(&self, nodes: usize) -> Duration {
        DURATION / 2 + LOOK_PER_NODE.saturating_mul(u32::try_from(nodes).unwrap_or(u32::MAX))
    }

    async fn take(&mut self) -> kube::Result<bool> {
        let Some(mut lease) = self.leases.get_opt(self.name).await? else {
            let new = Object {
                metadata: ObjectMeta {
                    name: Some(self.name.to_owned()),
                    ..ObjectMeta::default()
                },
                spec: Some(self.spec(None)),
            };
            self.leases.create(&PostParams::default(), &new).await?;
            return Ok(true);
        };
        let spec = lease.spec.take().unwrap_or_default();
        if self.is_anothers(&spec) {
            return Ok(false);
        }
        lease.spec = Some(self.spec(Some(spec)));
        // With the resource version that was read: if anybody has written since, this is refused.
        self.leases
            .replace(self.name, &PostParams::default(), &lease)
            .await?;
        Ok(true)
    }

    /// Whether somebody else holds it, and has renewed it in time.
    fn is_anothers(&mut self, spec: &LeaseSpec) -> bool {
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        if holder.is_empty() || holder == self.holder {
            return false;
        }
        match &self.seen {
            Some((renewed, at)) if *renewed == spec.renew_time => at.elapsed() < DURATION,
            Some(_) | None => {
                self.seen = Some((spec.renew_time.clone(), Instant::now()));
                true
            }
        }
    }

    fn spec(&self, last: Option<LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let last = last.unwrap_or_default();
        let mine = last.holder_identity.as_ref() == Some(&self.holder);
        LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: last.acquire_time.filter(|_| mine).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(last.lease_transitions.unwrap_or_default() + i32::from(!mine)),
            ..LeaseSpec::default()
        }
    }
}
