use std::net::Ipv4Addr;

use super::*;
use crate::{
    facts::{Depth, IfIndex},
    node::{Link, Role},
};

fn pod(uid: &str, address: u8) -> Wanted {
    Wanted {
        uid: PodUid::new(uid).expect("a UID"),
        addresses: vec![Ipv4Addr::new(10, 0, 0, address).into()],
        depth: Depth::Devices,
    }
}

fn view(devices: u32) -> View {
    let links = (1..=devices).map(|index| Link {
        index: IfIndex(index),
        name: index.to_string(),
        role: Role::Pod,
        ethernet: true,
        bridged: false,
        peer: None,
        peer_netns: None,
    });
    View {
        links: links.collect(),
        ..View::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_does_not_come_is_looked_for_less_and_less() {
    let (mut pace, pod, view) = (Pace::default(), pod("a", 1), view(1));
    assert_eq!(pace.due(), None);
    let mut pauses = Vec::new();
    while pauses.last() != Some(&LAST) {
        assert!(pace.is_due(&[&pod], &view));
        pace.looked();
        assert!(!pace.is_due(&[&pod], &view), "another pass is no reason");
        let due = pace.due().expect("somebody is sought");
        pauses.push(due - Instant::now());
        tokio::time::sleep_until(due).await;
    }
    assert_eq!(pauses[..3], [FIRST, FIRST * 2, FIRST * 4]);
    assert!(pauses.len() < 12);
}

#[tokio::test(start_paused = true)]
async fn what_is_new_is_looked_for_at_once() {
    let mut pace = Pace::default();
    let (first, second) = (pod("a", 1), pod("b", 2));
    assert!(pace.is_due(&[&first], &view(1)));
    pace.looked();
    assert!(pace.is_due(&[&first, &second], &view(1)), "a pod");
    pace.looked();
    assert!(pace.is_due(&[&first, &second], &view(2)), "a device");
    pace.looked();
    assert!(!pace.is_due(&[&first, &second], &view(1)), "one less");
    assert!(pace.is_due(&[&first, &pod("b", 3)], &view(1)), "an address");
}

#[tokio::test(start_paused = true)]
async fn when_all_are_found_there_is_rest() {
    let (mut pace, pod) = (Pace::default(), pod("a", 1));
    assert!(pace.is_due(&[&pod], &view(1)));
    pace.looked();
    pace.found(&pod.uid);
    assert_eq!(pace.due(), None);
    assert!(!pace.is_due(&[], &view(2)));
    assert_eq!(pace.due(), None);
}
