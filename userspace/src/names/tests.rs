use std::time::Duration;

use tokio::net::UdpSocket;

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
    let none = Answer::Addresses(BTreeSet::new(), Duration::from_hours(1));
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

/// Answers `A` of names that begin with `a` with 192.0.2.1, and knows no others.
async fn serve(socket: UdpSocket) {
    let mut buffer = [0; 512];
    while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
        // RFC 1035 4.1: a header of twelve octets; a name of labels, each behind its length; type and class.
        let name_end = 12
            + buffer[12..length]
                .iter()
                .position(|octet| *octet == 0)
                .expect("a name");
        let question = &buffer[12..name_end + 5];
        let known = question[1] == b'a';
        let answers = known && question[question.len() - 4..] == [0, 1, 0, 1];
        let code = if known { 0x80 } else { 0x83 };
        let mut reply = vec![
            buffer[0],
            buffer[1],
            0x81,
            code,
            0,
            1,
            0,
            u8::from(answers),
            0,
            0,
            0,
            0,
        ];
        reply.extend_from_slice(question);
        if answers {
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4, 192, 0, 2, 1]);
        }
        socket.send_to(&reply, client).await.expect("sent");
    }
}

#[tokio::test]
async fn asks_a_name_server_and_tells_of_what_it_learns() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let server = NameServer(socket.local_addr().expect("its address"));
    tokio::spawn(serve(socket));
    let mut resolver = Resolver::start(Some(server)).expect("a resolver");
    let (known, unknown) = (Host::new("a.example"), Host::new("b.example"));
    resolver.want(BTreeSet::from([known.clone(), unknown.clone()]));
    let learnt = async {
        while resolver.names().addresses(&known).next().is_none() {
            resolver.changed().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), learnt)
        .await
        .expect("an answer");
    let names = resolver.names();
    assert_eq!(
        names.addresses(&known).collect::<Vec<_>>(),
        ["192.0.2.1".parse::<IpAddr>().expect("an address")]
    );
    assert_eq!(names.addresses(&unknown).next(), None);
    resolver.want(BTreeSet::new());
    tokio::time::timeout(Duration::from_secs(5), resolver.changed())
        .await
        .expect("forgotten");
    assert_eq!(*resolver.names(), Names::default());
}
