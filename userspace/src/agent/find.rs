//! Finding on the node what the objects and the enrolments name.

use super::pass::Agent;
use crate::{
    enrolled::Enrolled,
    facts::{Depth, Facts, PodNetwork},
    node::{self, View},
    project,
};

impl Agent {
    /// Finds where the packets of this node's pods and of enrolled namespaces come from.
    pub(super) async fn find_pods(&mut self, view: &View) -> Facts {
        let mut facts = Facts {
            own_addresses: view.addresses.clone(),
            netns: node::cookie().ok(),
            ..Facts::default()
        };
        let (settings, enrolled) = (&self.capture, self.enrolments.all());
        let pods = self.stores.pods.values();
        let of_pods = pods.filter_map(|pod| pod.proxy_cgroup.as_ref());
        let of_enrolled = enrolled.iter().flat_map(|enrolled| &enrolled.proxy_cgroups);
        for path in settings.cgroups().chain(of_pods).chain(of_enrolled) {
            let found = node::cgroup(path).map_err(|error| error.to_string());
            facts.cgroups.insert(path.clone(), found);
        }
        let pods = self.stores.pods.values();
        for pod in pods.filter(|pod| pod.is_local(&self.settings.node) && !pod.finished) {
            let found = match (&pod.netns, &pod.cgroup) {
                (_, Some(path)) if pod.host_network => node::cgroup(path).map(PodNetwork::Host),
                (Some(path), _) if !pod.host_network => {
                    let namespace = self.stores.namespaces.get(&pod.name.namespace);
                    let labels = namespace.map(|namespace| &namespace.labels);
                    let depth = project::depth(pod, labels, enrolled, settings);
                    self.node.pod(path, view, depth).await
                }
                (Some(_) | None, _) => continue,
            };
            let found = found.map_err(|error| error.to_string());
            facts.pods.insert(pod.name.clone(), found);
        }
        for Enrolled { netns: path, .. } in enrolled {
            // A path may lead to another namespace than the last time.
            self.node.forget(path);
            let found = self.node.pod(path, view, Depth::Routes).await;
            let found = found.map_err(|error| error.to_string());
            facts.enrolled.insert(path.clone(), found);
        }
        facts
    }
}
