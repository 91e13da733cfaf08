//! Lists of ranges and ports against Istio's rules, walked one by one, on generated annotations.

use std::net::Ipv4Addr;

use ebpf::{
    Addr, LeaveReason, RedirectReason,
    capture::{self as kernel_capture, Call, Fate},
};
use ipnet::Ipv4Net;
use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{facts::Route, project::capture::Settings};

/// The annotations of a pod; `None` for one that is not there.
#[derive(Clone, Debug)]
struct Lists {
    /// `None` stands for everything.
    include_ranges: Option<Vec<IpNet>>,
    /// By `*`, rather than by no annotation.
    say_so: bool,
    exclude_ranges: Vec<IpNet>,
    include_ports: Vec<u16>,
    exclude_ports: Option<Vec<u16>>,
    routes: Vec<(IpNet, bool)>,
}

fn range() -> impl Strategy<Value = IpNet> {
    let v4 = (0..64u8, 24..=32u8).prop_map(|(host, bits)| {
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(192, 0, 2, host), bits).trunc())
    });
    let wide = prop::sample::select(vec!["0.0.0.0/0", "192.0.0.0/8", "::/0", "::/64", "2001:db8::/32"]);
    prop_oneof![4 => v4, 1 => wide.prop_map(|text| text.parse().expect("a prefix"))]
}

fn lists() -> impl Strategy<Value = Lists> {
    (
        prop::option::of(vec(range(), 0..5)),
        any::<bool>(),
        vec(range(), 0..4),
        vec(0..6u16, 0..3),
        prop::option::of(vec(0..6u16, 0..3)),
        vec((range(), any::<bool>()), 0..5),
    )
        .prop_map(
            |(include_ranges, say_so, exclude_ranges, include_ports, exclude_ports, mut routes)| {
                routes.sort_unstable();
                routes.dedup_by_key(|(range, _)| *range);
                Lists {
                    include_ranges,
                    say_so,
                    exclude_ranges,
                    include_ports,
                    exclude_ports,
                    routes,
                }
            },
        )
}

fn joined<T: ToString>(items: &[T]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

impl Lists {
    fn annotations(&self) -> Vec<(&'static str, String)> {
        let mut annotations = vec![
            ("sidecar.istio.io/status", String::new()),
            (
                "traffic.sidecar.istio.io/excludeOutboundIPRanges",
                joined(&self.exclude_ranges),
            ),
            (
                "traffic.sidecar.istio.io/includeOutboundPorts",
                joined(&self.include_ports),
            ),
            ("traffic.sidecar.istio.io/excludeInterfaces", "net1".to_owned()),
        ];
        let text = match (&self.include_ranges, self.say_so) {
            (Some(ranges), _) => Some(joined(ranges)),
            (None, say_so) => say_so.then(|| "*".to_owned()),
        };
        annotations.extend(text.map(|text| ("traffic.sidecar.istio.io/includeOutboundIPRanges", text)));
        if let Some(ports) = &self.exclude_ports {
            annotations.push(("traffic.sidecar.istio.io/excludeOutboundPorts", joined(ports)));
        }
        annotations
    }

    /// As the rules stand in Istio's chain, the first one that matches.
    fn walk(&self, dst: IpAddr, port: u16) -> Fate {
        let excluded = self.exclude_ports.as_deref().unwrap_or(&[15020]);
        if excluded.contains(&port) {
            return Fate::Leave(LeaveReason::ExcludedPort);
        }
        let covering = self.routes.iter().filter(|(range, _)| range.contains(&dst));
        let route = covering.max_by_key(|(range, _)| range.prefix_len());
        if route.is_some_and(|(_, away)| *away)
            || self.exclude_ranges.iter().any(|range| range.contains(&dst))
        {
            return Fate::Leave(LeaveReason::ExcludedRange);
        }
        let ranges = self.include_ranges.as_ref();
        if self.include_ports.contains(&port)
            || ranges.is_none_or(|ranges| ranges.iter().any(|range| range.contains(&dst)))
        {
            return Fate::Redirect(RedirectReason::Outbound);
        }
        Fate::Leave(LeaveReason::NotIncluded)
    }
}

fn world(lists: &Lists) -> World {
    let mut world = World::new(
        "apiVersion: v1
kind: Pod
metadata: {namespace: team, name: a}
spec: {nodeName: this, containers: [{name: istio-proxy}]}
status: {phase: Running, podIP: 198.18.0.1}
",
    );
    let stored = world.stores.pods.values().next().expect("a pod");
    let mut pod = crate::objects::Stored::clone(stored);
    let annotations = lists.annotations().into_iter();
    pod.object.mesh.annotations = annotations.map(|(key, value)| (key.to_owned(), value)).collect();
    world.stores.pods.insert(pod.name.clone(), pod.into());
    world.capture = Settings {
        sidecar: true,
        ..Settings::default()
    };
    let network = world.facts.pods.values_mut().next().expect("a pod");
    if let Ok(PodNetwork::Own { inside, .. }) = network {
        inside.routes = lists
            .routes
            .iter()
            .map(|(range, away)| Route {
                range: *range,
                devices: vec![if *away { "net1" } else { "eth0" }.to_owned()],
            })
            .collect();
    }
    world
}

fn destination() -> impl Strategy<Value = IpAddr> {
    let corner = (0..64u8).prop_map(|host| IpAddr::V4(Ipv4Addr::new(192, 0, 2, host)));
    let others = prop::sample::select(vec![
        "192.1.2.3",
        "203.0.113.1",
        "2001:db8::1",
        "2001:db9::1",
        "::2",
    ]);
    prop_oneof![4 => corner, 1 => others.prop_map(ip)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_programs_leave_and_take_what_istios_rules_do(
        lists in lists(),
        calls in vec((destination(), 0..6u16), 32),
    ) {
        let world = world(&lists);
        let desired = world.project().desired;
        let capture = desired.captures[&NetnsCookie(1)];
        for (dst, dport) in calls {
            let call = Call { src: Addr::UNSPECIFIED, dst: dst.into(), dport, protocol: TCP, by_proxy: false };
            let fate = kernel_capture::call(&Kernel(&desired), &capture, &call);
            prop_assert_eq!(fate, lists.walk(dst, dport), "{} {}", dst, dport);
        }
    }
}
