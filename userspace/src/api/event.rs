//! Verdicts as they are told, and which of them somebody wants to see.

use std::net::IpAddr;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Kind;
use crate::{facts::PodName, objects::Labels};

/// One verdict, on one packet or call or on several of the same flow, as `observe` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictEvent {
    /// When, in UTC (RFC 3339); of several the last.
    pub time: String,
    /// Which way it went.
    pub verdict: Kind,
    /// Why, in a word; `sluice explain` and the documents have the sentence.
    pub reason: String,
    /// Where it was given.
    pub hook: String,
    /// How many packets or calls this stands for: the first of a flow is told of at once, and what follows together with
    /// the last of it.
    #[serde(default = "one")]
    pub count: u64,
    /// Who, if it is a pod that the agent knows.
    pub pod: Option<PodName>,
    /// What the pod is one of, as `Deployment web`.
    #[serde(default)]
    pub workload: Option<String>,
    /// Those of the pod's labels that say what it is: `app`, `k8s-app`, `app.kubernetes.io/name` and `.../component`.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// The name of the process that called; not known of a packet.
    #[serde(default)]
    pub process: Option<String>,
    /// The device that it came in by, where it is told by one.
    pub device: Option<String>,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// The object that the destination belongs to, as `ServiceEntry shop/payments` or `Service shop/db`.
    #[serde(default)]
    pub destination: Option<String>,
    /// Source port, or the ICMP identifier; 0 if there is none.
    pub sport: u16,
    /// Destination port; 0 if there is none.
    pub dport: u16,
    /// Protocol by name, or by number.
    pub protocol: String,
    /// Length of the frame, of several one's; 0 for a call.
    pub len: u32,
    /// The policies that the sender is held to, where the verdict comes from one.
    #[serde(default)]
    pub policies: Vec<String>,
    /// The rules that decided.
    pub generation: u64,
}

const fn one() -> u64 {
    1
}

/// Which verdicts to show: those that everything here admits. An empty list, and what is absent, admits all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Filter {
    /// Only verdicts of these kinds.
    pub verdicts: Vec<Kind>,
    /// Only for these reasons.
    pub reasons: Vec<String>,
    /// Only this pod's.
    pub pod: Option<PodName>,
    /// Only of pods in this namespace.
    pub namespace: Option<String>,
    /// Only to addresses in this range.
    pub destination: Option<IpNet>,
    /// Only to this port.
    pub port: Option<u16>,
    /// Only from this moment on (RFC 3339).
    pub since: Option<String>,
    /// Go on with those that are still to come.
    pub follow: bool,
}

impl Filter {
    /// Whether `verdict` passes the filter.
    pub fn admits(&self, verdict: &VerdictEvent) -> bool {
        let Self {
            verdicts,
            reasons,
            pod,
            namespace,
            destination,
            port,
            since,
            follow: _,
        } = self;
        let is_of = |name: &PodName| Some(name) == verdict.pod.as_ref();
        let is_in = |namespace: &String| {
            verdict
                .pod
                .as_ref()
                .is_some_and(|pod| pod.namespace == *namespace)
        };
        (verdicts.is_empty() || verdicts.contains(&verdict.verdict))
            && (reasons.is_empty() || reasons.contains(&verdict.reason))
            && pod.as_ref().is_none_or(is_of)
            && namespace.as_ref().is_none_or(is_in)
            && destination.is_none_or(|range| range.contains(&verdict.dst))
            && port.is_none_or(|port| port == verdict.dport)
            && since.as_ref().is_none_or(|since| is_since(&verdict.time, since))
    }

    /// Whether it could admit a packet that was allowed or redirected: those are reported only while somebody asks.
    pub fn wants_allowed(&self) -> bool {
        let quiet = |kind: &Kind| matches!(kind, Kind::Allow | Kind::Redirect);
        self.follow && (self.verdicts.is_empty() || self.verdicts.iter().any(quiet))
    }
}

/// Whether `time` is not before `since`. A time that cannot be read is not hidden for it.
fn is_since(time: &str, since: &str) -> bool {
    let read = |text: &str| text.parse::<Timestamp>().ok();
    match (read(time), read(since)) {
        (Some(time), Some(since)) => time >= since,
        (None, _) | (_, None) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> VerdictEvent {
        serde_json::from_value(serde_json::json!({
            "time": "2026-01-02T03:04:05.000006Z", "verdict": "deny", "reason": "not-gateway", "hook": "pod_out",
            "pod": {"namespace": "shop", "name": "web"}, "device": "p1", "src": "10.244.0.10", "dst": "203.0.113.5",
            "sport": 40000, "dport": 443, "protocol": "TCP", "len": 74, "generation": 3,
        }))
        .expect("an event as version 0.1 wrote it")
    }

    #[test]
    fn an_event_of_one_packet_is_one() {
        assert_eq!(event().count, 1);
    }

    #[test]
    fn every_part_of_a_filter_counts() {
        let pod = |name: &str| PodName {
            namespace: "shop".to_owned(),
            name: name.to_owned(),
        };
        let range = |text: &str| Some(text.parse().expect("a range"));
        let all = Filter::default;
        let text = |text: &str| Some(text.to_owned());
        let pairs = [
            (
                Filter {
                    verdicts: vec![Kind::Audit, Kind::Deny],
                    ..all()
                },
                Filter {
                    verdicts: vec![Kind::Audit],
                    ..all()
                },
            ),
            (
                Filter {
                    reasons: vec!["not-gateway".to_owned()],
                    ..all()
                },
                Filter {
                    reasons: vec!["port".to_owned()],
                    ..all()
                },
            ),
            (
                Filter {
                    pod: Some(pod("web")),
                    ..all()
                },
                Filter {
                    pod: Some(pod("db")),
                    ..all()
                },
            ),
            (
                Filter {
                    namespace: text("shop"),
                    ..all()
                },
                Filter {
                    namespace: text("egress"),
                    ..all()
                },
            ),
            (
                Filter {
                    destination: range("203.0.113.0/24"),
                    ..all()
                },
                Filter {
                    destination: range("203.0.112.0/24"),
                    ..all()
                },
            ),
            (
                Filter {
                    port: Some(443),
                    ..all()
                },
                Filter {
                    port: Some(80),
                    ..all()
                },
            ),
            (
                Filter {
                    since: text("2026-01-02T03:04:05Z"),
                    ..all()
                },
                Filter {
                    since: text("2026-01-02T03:04:06Z"),
                    ..all()
                },
            ),
        ];
        for (admits, refuses) in pairs {
            assert!(admits.admits(&event()), "{admits:?}");
            assert!(!refuses.admits(&event()), "{refuses:?}");
        }
        assert!(all().admits(&event()));
    }

    #[test]
    fn what_is_allowed_costs_only_while_it_is_asked_for() {
        let follow = |verdicts: &[Kind]| Filter {
            verdicts: verdicts.to_vec(),
            follow: true,
            ..Filter::default()
        };
        assert!(follow(&[]).wants_allowed());
        assert!(follow(&[Kind::Deny, Kind::Redirect]).wants_allowed());
        assert!(!follow(&[Kind::Deny, Kind::Audit]).wants_allowed());
        assert!(!Filter::default().wants_allowed());
    }
}
