//! A policy out of what a policy in audit mode would have refused: the least that permits all of it, for somebody to review.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::IpAddr,
};

use ipnet::IpNet;

use crate::{
    api::{Kind, VerdictEvent},
    objects::Labels,
};

/// What an exception is made for: pods that share what tells them apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Who {
    namespace: String,
    labels: Labels,
    /// Without labels there is nothing but the name.
    pod: Option<String>,
}

/// Whereto, and by what; no port where the protocol has none.
type Ports = BTreeSet<(String, u16)>;

/// Everything that was seen.
#[derive(Clone, Debug, Default)]
pub struct Suggestion {
    seen: BTreeMap<Who, BTreeMap<IpAddr, Ports>>,
    /// What the destinations are called.
    names: BTreeMap<IpAddr, String>,
    /// How many events there are that a policy cannot permit, by reason.
    beyond: BTreeMap<String, u64>,
}

impl Suggestion {
    /// Takes an event into account. What was refused is what somebody may miss; what passed is permitted already.
    pub fn add(&mut self, event: &VerdictEvent) {
        if !matches!(event.verdict, Kind::Audit | Kind::Deny) {
            return;
        }
        // A gateway's destination is for a ServiceEntry to declare; what is forged, malformed or unknown is for nobody.
        let (Some(pod), "not-gateway") = (&event.pod, event.reason.as_str()) else {
            *self.beyond.entry(event.reason.clone()).or_default() += event.count;
            return;
        };
        let who = Who {
            namespace: pod.namespace.clone(),
            labels: event.labels.clone(),
            pod: event.labels.is_empty().then(|| pod.name.clone()),
        };
        let places = self.seen.entry(who).or_default();
        places
            .entry(event.dst)
            .or_default()
            .insert((event.protocol.clone(), event.dport));
        if let Some(name) = &event.destination {
            self.names.insert(event.dst, name.clone());
        }
    }

    /// Whether there is nothing to permit.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// The manifest, with what its reader has to decide in comments.
    pub fn yaml(&self, policy: &str) -> String {
        let mut out = format!(
            "# Made of what was seen; every exception is a way around the gateways. Declare in a ServiceEntry what a gateway\n\
             # can carry, and delete its exception here.\n\
             apiVersion: sluice.dev/v1alpha1\n\
             kind: EgressPolicy\n\
             metadata: {{name: {policy}}}\n\
             spec:\n  \
               mode: Audit\n  \
               # Name the gateways, as in: - {{namespace: egress, gateway: waypoint}}\n  \
               gateways: []\n"
        );
        out.push_str(if self.seen.is_empty() {
            "  exceptions: []\n"
        } else {
            "  exceptions:\n"
        });
        let mut number = 0;
        for (who, places) in &self.seen {
            for (ports, addresses) in by_ports(places) {
                number += 1;
                self.exception(&mut out, number, who, &ports, &addresses);
            }
        }
        for (reason, count) in &self.beyond {
            let _ = writeln!(out, "# {count} more for {reason}, which no exception permits");
        }
        out
    }

    fn exception(&self, out: &mut String, number: usize, who: &Who, ports: &Ports, addresses: &[IpAddr]) {
        let Who {
            namespace,
            labels,
            pod,
        } = who;
        // Writing to a string does not fail.
        let _ = writeln!(out, "  - name: seen-{number}");
        let namespace_label = [("kubernetes.io/metadata.name", namespace.as_str())];
        let _ = writeln!(
            out,
            "    namespaceSelector: {{matchLabels: {{{}}}}}",
            pairs(namespace_label.into_iter())
        );
        if let Some(pod) = pod {
            let _ = writeln!(
                out,
                "    # {namespace}/{pod} has no label that tells it apart: this is for the whole namespace"
            );
            out.push_str("    podSelector: {}\n");
        } else {
            let labels = labels.iter().map(|(key, value)| (key.as_str(), value.as_str()));
            let _ = writeln!(out, "    podSelector: {{matchLabels: {{{}}}}}", pairs(labels));
        }
        let names: BTreeSet<&str> = addresses
            .iter()
            .filter_map(|address| self.names.get(address))
            .map(String::as_str)
            .collect();
        if !names.is_empty() {
            let names: Vec<&str> = names.into_iter().collect();
            let _ = writeln!(
                out,
                "    # a gateway may carry this already: {}",
                names.join(", ")
            );
        }
        let nets: Vec<IpNet> = addresses.iter().copied().map(IpNet::from).collect();
        let nets: Vec<String> = IpNet::aggregate(&nets)
            .iter()
            .map(|net| format!("{{cidr: \"{net}\"}}"))
            .collect();
        let _ = writeln!(out, "    to: [{}]", nets.join(", "));
        let ports: Vec<String> = ports
            .iter()
            .map(|(protocol, port)| match port {
                0 => format!("{{protocol: {protocol}}}"),
                port => format!("{{protocol: {protocol}, port: {port}}}"),
            })
            .collect();
        let _ = writeln!(out, "    ports: [{}]", ports.join(", "));
    }
}

fn pairs<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let pairs: Vec<String> = pairs.map(|(key, value)| format!("{key}: \"{value}\"")).collect();
    pairs.join(", ")
}

/// Addresses with the same ports together.
fn by_ports(places: &BTreeMap<IpAddr, Ports>) -> BTreeMap<Ports, Vec<IpAddr>> {
    let mut together: BTreeMap<Ports, Vec<IpAddr>> = BTreeMap::new();
    for (address, ports) in places {
        // An identifier of a ping is no port.
        let ports = ports.iter().map(|(protocol, port)| match protocol.as_str() {
            "TCP" | "UDP" | "SCTP" => (protocol.clone(), *port),
            "ICMPv6" => ("ICMP".to_owned(), 0),
            _ => (protocol.clone(), 0),
        });
        together.entry(ports.collect()).or_default().push(*address);
    }
    together
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::source::Directory;

    fn event(
        pod: &str,
        labels: &[(&str, &str)],
        dst: &str,
        dport: u16,
        protocol: &str,
        reason: &str,
    ) -> VerdictEvent {
        serde_json::from_value(serde_json::json!({
            "time": "2026-01-02T03:04:05Z", "verdict": "audit", "reason": reason, "hook": "pod_out",
            "pod": {"namespace": "shop", "name": pod}, "labels": labels.iter().copied().collect::<BTreeMap<_, _>>(),
            "device": null, "src": "10.244.0.10", "dst": dst, "destination": "ServiceEntry shop/payments",
            "sport": 40000, "dport": dport, "protocol": protocol, "len": 74, "generation": 3,
        }))
        .expect("an event")
    }

    #[test]
    fn the_suggestion_is_a_policy_that_permits_what_was_seen_and_no_more() {
        let mut suggestion = Suggestion::default();
        let web = [("app", "web")];
        for event in [
            event("web-1", &web, "203.0.113.4", 443, "TCP", "not-gateway"),
            event("web-2", &web, "203.0.113.5", 443, "TCP", "not-gateway"),
            event("web-2", &web, "203.0.113.5", 443, "TCP", "not-gateway"),
            event("job", &[], "2001:db8::1", 77, "ICMPv6", "not-gateway"),
            event("web-1", &web, "198.51.100.1", 53, "UDP", "forged-source"),
        ] {
            suggestion.add(&event);
        }
        let yaml = suggestion.yaml("seen");
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("all.yaml"), &yaml).expect("written");
        let loaded = Directory::open(folder.path()).expect("a directory").load();
        assert_eq!(loaded.problems, [], "{yaml}");
        let policy = &loaded.stores.policies["seen"];
        let exceptions: Vec<Vec<String>> = policy
            .exceptions
            .iter()
            .map(|exception| exception.to.iter().map(|block| block.cidr.to_string()).collect())
            .collect();
        assert_eq!(
            exceptions,
            [vec!["2001:db8::1/128"], vec!["203.0.113.4/31"]],
            "{yaml}"
        );
        assert!(
            yaml.contains("app: \"web\"") && yaml.contains("protocol: ICMP}"),
            "{yaml}"
        );
        assert!(
            yaml.contains("1 more for forged-source") && yaml.contains("ServiceEntry shop/payments"),
            "{yaml}"
        );
    }

    #[test]
    fn nothing_seen_permits_nothing() {
        let suggestion = Suggestion::default();
        assert!(suggestion.is_empty());
        assert!(suggestion.yaml("none").contains("exceptions: []"));
    }
}
