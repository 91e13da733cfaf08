use std::time::Duration;

use super::*;
use crate::names::ask::Answer;

fn host() -> Host {
    Host::new("Example.COM.")
}

fn v4(addresses: &[&str], ttl: u64) -> Outcome {
    let addresses = addresses
        .iter()
        .map(|addr| addr.parse().expect("an address"))
        .collect();
    let none = Answer::Addresses(BTreeSet::new(), Duration::from_secs(3600));
    Outcome {
        v4: Answer::Addresses(addresses, Duration::from_secs(ttl)),
        v6: none,
    }
}

fn failed() -> Outcome {
    Outcome {
        v4: Answer::Failed("timeout".into()),
        v6: Answer::Failed("timeout".into()),
    }
}

fn addresses(table: &Table) -> Vec<String> {
    table
        .names()
        .addresses(&host())
        .map(|addr| addr.to_string())
        .collect()
}

fn table(now: Instant) -> Table {
    let mut table = Table::default();
    table.want(&BTreeSet::from([host()]), now);
    assert_eq!(table.due(now, 8), [host()]);
    assert_eq!(table.due(now, 8), [], "it has been asked for");
    table
}

fn at(start: Instant, seconds: u64) -> Instant {
    start + Duration::from_secs(seconds)
}

#[test]
fn an_address_stays_for_a_while_after_it_was_last_heard_of() {
    let start = Instant::now();
    let mut table = table(start);
    table.learn(&host(), v4(&["192.0.2.1", "192.0.2.2"], 10), start);
    assert_eq!(table.next_wake(true), Some(at(start, 10)));
    assert_eq!(table.due(at(start, 10), 8), [host()]);
    table.learn(&host(), v4(&["192.0.2.2"], 10), at(start, 10));
    table.forget(at(start, 69));
    assert_eq!(addresses(&table), ["192.0.2.1", "192.0.2.2"]);
    table.learn(&host(), v4(&["192.0.2.2"], 10), at(start, 65));
    table.forget(at(start, 70));
    assert_eq!(addresses(&table), ["192.0.2.2"]);
    // Heard of again, it stays.
    table.learn(&host(), v4(&["192.0.2.3"], 10), at(start, 70));
    table.learn(&host(), v4(&["192.0.2.2"], 10), at(start, 80));
    table.forget(at(start, 139));
    assert_eq!(addresses(&table), ["192.0.2.2", "192.0.2.3"]);
}

#[test]
fn failures_change_nothing_and_are_told() {
    let start = Instant::now();
    let mut table = table(start);
    table.learn(&host(), v4(&["192.0.2.1"], 10), start);
    let mut now = at(start, 10);
    let mut pauses = Vec::new();
    for _ in 0..6 {
        table.learn(&host(), failed(), now);
        let next = table.next_wake(true).expect("asks again");
        pauses.push((next - now).as_secs());
        now = next;
    }
    table.forget(at(start, 100_000));
    assert_eq!(addresses(&table), ["192.0.2.1"]);
    assert_eq!(pauses, [5, 10, 20, 40, 60, 60]);
    let names = table.names();
    let (_, resolved) = names.iter().next().expect("one name");
    assert_eq!(resolved.error.as_deref(), Some("timeout"));
}

#[test]
fn a_family_that_failed_keeps_its_addresses() {
    let start = Instant::now();
    let mut table = table(start);
    table.learn(&host(), v4(&["192.0.2.1"], 10), start);
    let six = Answer::Addresses(
        BTreeSet::from(["2001:db8::1".parse().expect("an address")]),
        Duration::ZERO,
    );
    table.learn(
        &host(),
        Outcome {
            v4: Answer::Failed("refused".into()),
            v6: six,
        },
        at(start, 10),
    );
    table.forget(at(start, 1000));
    assert_eq!(addresses(&table), ["192.0.2.1", "2001:db8::1"]);
    assert_eq!(
        table.next_wake(true),
        Some(at(start, 15)),
        "not more often than every five seconds"
    );
    assert_eq!(table.next_wake(false), None);
}

#[test]
fn what_is_not_wanted_is_forgotten() {
    let start = Instant::now();
    let mut table = table(start);
    table.want(&BTreeSet::new(), start);
    table.learn(&host(), v4(&["192.0.2.1"], 10), start);
    assert_eq!(table.names(), Names::default());
}

#[test]
fn a_name_server_is_an_address_with_or_without_a_port() {
    let server = |text: &str| {
        text.parse::<NameServer>()
            .map(|NameServer(addr)| addr.to_string())
    };
    assert_eq!(server("192.0.2.1"), Ok("192.0.2.1:53".into()));
    assert_eq!(server("[2001:db8::1]:5353"), Ok("[2001:db8::1]:5353".into()));
    assert_eq!(server("2001:db8::1"), Ok("[2001:db8::1]:53".into()));
    assert!(server("dns.example").is_err());
}
