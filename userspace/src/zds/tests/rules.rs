//! Single rules, each by one short story.

use std::time::{Duration, Instant};

use rstest::rstest;

use super::{ack, hello, peer, pods, uid};
use crate::{
    facts::NetnsCookie,
    zds::{
        Progress,
        messages::{MAX_REQUEST, MAX_RESPONSE},
        sessions::{ConnectionId, DEADLINE, MAX_CONNECTIONS, Output, Sessions},
    },
};

const FIRST: ConnectionId = ConnectionId(1);
const SECOND: ConnectionId = ConnectionId(2);

/// Sessions, and the time.
struct Story(Sessions, Instant);

impl Story {
    /// One proxy has connected and said hello.
    fn begin() -> Self {
        let mut story = Self(Sessions::default(), Instant::now());
        story.connect(FIRST);
        assert_eq!(story.say(FIRST, &hello()), [""; 0]);
        story
    }

    fn connect(&mut self, id: ConnectionId) {
        assert_eq!(told(self.0.connected(id, peer(), self.1)), [""; 0]);
    }

    fn say(&mut self, id: ConnectionId, bytes: &[u8]) -> Vec<String> {
        told(self.0.received(id, bytes, self.1))
    }

    fn ack(&mut self, id: ConnectionId) -> Vec<String> {
        self.say(id, &ack(""))
    }

    fn want(&mut self, wanted: &[(&str, u64)]) -> Vec<String> {
        told(self.0.want(&pods(wanted), self.1))
    }

    fn pass(&mut self, time: Duration) -> Vec<String> {
        self.1 += time;
        told(self.0.tick(self.1))
    }

    fn progress(&self, pod: &str) -> Progress {
        self.0.state().workloads[&uid(pod)].clone()
    }
}

/// What is done, in words.
fn told(outputs: Vec<Output>) -> Vec<String> {
    let tell = |output| match output {
        Output::Send(id, request) => format!("{}: {request}", id.0),
        Output::Close(id, why) => format!("{} is closed: {why}", id.0),
    };
    outputs.into_iter().map(tell).collect()
}

#[test]
fn a_snapshot_waits_until_all_is_known_and_names_all() {
    let mut story = Story::begin();
    assert_eq!(
        story.pass(Duration::from_hours(1)),
        [""; 0],
        "it may take its time"
    );
    assert_eq!(
        story.want(&[("a", 7), ("b", 0), ("c", 9)]),
        ["1: add team/a (uid-a)"]
    );
    assert_eq!(story.progress("a"), Progress::Pending);
    assert_eq!(story.ack(FIRST), ["1: add team/c (uid-c)"]);
    assert_eq!(story.progress("a"), Progress::Acked(NetnsCookie(7)));
    assert_eq!(story.ack(FIRST), ["1: keep uid-b"]);
    assert_eq!(story.ack(FIRST), ["1: snapshot sent"]);
    assert!(!story.0.state().proxies[0].synced);
    assert_eq!(story.ack(FIRST), [""; 0]);
    assert!(story.0.state().proxies[0].synced);
    assert_eq!(story.progress("b"), Progress::Pending);
    assert_eq!(
        story.want(&[("a", 7), ("b", 8), ("c", 9)]),
        ["1: add team/b (uid-b)"]
    );
}

#[test]
fn to_want_nobody_is_a_snapshot_too() {
    assert_eq!(Story::begin().want(&[]), ["1: snapshot sent"]);
}

#[test]
fn who_goes_during_the_snapshot_does_not_stay() {
    let mut story = Story::begin();
    story.want(&[("a", 7), ("b", 8), ("c", 9)]);
    // One that has been named, one that is being named, and one that has not been.
    assert_eq!(story.ack(FIRST), ["1: add team/b (uid-b)"]);
    assert_eq!(story.want(&[]), [""; 0]);
    assert_eq!(story.0.state().leaving, [uid("a"), uid("b")].into());
    assert_eq!(story.ack(FIRST), ["1: snapshot sent"]);
    assert_eq!(story.ack(FIRST), ["1: del uid-a"]);
    assert_eq!(story.ack(FIRST), ["1: del uid-b"]);
    assert_eq!(story.ack(FIRST), [""; 0]);
    assert!(story.0.state().leaving.is_empty());
}

#[test]
fn another_namespace_is_an_add_and_another_name_a_del_before_it() {
    let mut story = Story::begin();
    story.want(&[("a", 7)]);
    story.ack(FIRST);
    story.ack(FIRST);
    assert_eq!(story.want(&[("a", 8)]), ["1: add team/a (uid-a)"]);
    assert_eq!(story.progress("a"), Progress::Pending);
    assert_eq!(story.ack(FIRST), [""; 0]);
    assert_eq!(story.want(&[("a", 0)]), [""; 0], "where it is has become unknown");
    assert_eq!(story.progress("a"), Progress::Acked(NetnsCookie(8)));
    let mut renamed = pods(&[("a", 8)]);
    renamed
        .entry(uid("a"))
        .and_modify(|workload| workload.service_account = "other".into());
    assert_eq!(told(story.0.want(&renamed, story.1)), ["1: del uid-a"]);
    assert_eq!(story.ack(FIRST), ["1: add team/a (uid-a)"]);
}

#[test]
fn an_add_that_is_refused_is_not_sent_again() {
    let mut story = Story::begin();
    story.want(&[("a", 7)]);
    let refusal = "failure to start proxy : no";
    assert_eq!(story.say(FIRST, &ack(refusal)), ["1: snapshot sent"]);
    story.ack(FIRST);
    assert_eq!(story.want(&[("a", 7)]), [""; 0]);
    assert_eq!(story.progress("a"), Progress::Refused(refusal.into()));
    assert_eq!(story.want(&[("a", 8)]), ["1: add team/a (uid-a)"]);
    story.ack(FIRST);
    assert_eq!(story.progress("a"), Progress::Acked(NetnsCookie(8)));
    assert_eq!(story.want(&[]), ["1: del uid-a"]);
}

#[test]
fn a_refusal_of_anything_else_ends_the_connection() {
    let mut story = Story::begin();
    story.want(&[]);
    let closed = story.say(FIRST, &ack("no"));
    assert_eq!(closed.len(), 1);
    assert!(
        closed[0].starts_with("1 is closed: it refuses \"snapshot sent\": \"no\""),
        "{closed:?}"
    );
    assert!(story.0.state().proxies.is_empty());
}

#[test]
fn the_newest_gets_what_is_new_and_all_are_told_what_is_gone() {
    let mut story = Story::begin();
    story.want(&[("a", 7)]);
    story.ack(FIRST);
    story.ack(FIRST);
    story.connect(SECOND);
    // It is the newest from its hello on.
    assert_eq!(story.want(&[("a", 7), ("b", 8)]), ["1: add team/b (uid-b)"]);
    assert_eq!(story.say(SECOND, &hello()), ["2: add team/a (uid-a)"]);
    assert_eq!(story.ack(FIRST), [""; 0]);
    assert_eq!(
        story.progress("b"),
        Progress::Acked(NetnsCookie(8)),
        "the older one serves it"
    );
    story.ack(SECOND);
    story.ack(SECOND);
    assert_eq!(story.ack(SECOND), [""; 0]);
    assert_eq!(
        story.want(&[("b", 8), ("c", 9)]),
        ["1: del uid-a", "2: del uid-a"]
    );
    // The older one hangs; the newer one does not wait for it.
    assert_eq!(story.ack(SECOND), ["2: add team/c (uid-c)"]);
    assert_eq!(story.ack(SECOND), [""; 0]);
    assert_eq!(story.ack(FIRST), [""; 0]);
    assert_eq!(
        story.want(&[("b", 6), ("c", 9)]),
        ["1: del uid-b", "2: add team/b (uid-b)"]
    );
    story.ack(FIRST);
    assert_eq!(told(story.0.closed(SECOND, story.1)), ["1: add team/b (uid-b)"]);
    assert_eq!(story.ack(FIRST), ["1: add team/c (uid-c)"]);
}

#[test]
fn the_silent_are_sent_away() {
    let mut story = Story::begin();
    story.connect(SECOND);
    assert_eq!(story.0.next_tick(), Some(story.1 + DEADLINE));
    let moment = Duration::from_millis(1);
    assert_eq!(story.pass(DEADLINE.saturating_sub(moment)), [""; 0]);
    story.want(&[]);
    let closed = story.pass(moment);
    assert_eq!(
        closed,
        ["2 is closed: it has not said hello for 5s (is it a ztunnel?)"]
    );
    let closed = story.pass(DEADLINE);
    assert_eq!(
        closed,
        ["1 is closed: it has not answered \"snapshot sent\" for 5s (does it hang?)"]
    );
    assert_eq!(story.0.next_tick(), None);
}

#[rstest]
#[case::talk_for_an_answer(b"\x08\x01", "no message of the protocol")]
#[case::truncated(b"\x0a\x04\x0a\x02n", "no message of the protocol")]
#[case::no_text(b"\x0a\x03\x0a\x01\xff", "no message of the protocol")]
#[case::no_payload(b"\x78\x01", "no acknowledgement")]
#[case::too_long(&[0; MAX_RESPONSE + 1], "more than 4096 octets")]
fn who_answers_nonsense_is_sent_away(#[case] bytes: &[u8], #[case] why: &str) {
    let mut story = Story::begin();
    story.want(&[]);
    let closed = story.say(FIRST, bytes);
    assert!(
        closed.len() == 1 && closed[0].starts_with("1 is closed: ") && closed[0].contains(why),
        "{closed:?}"
    );
    assert_eq!(story.say(FIRST, bytes), [""; 0], "it is gone");
}

#[rstest]
#[case::no_version(b"\x10\x01", "version 0")]
#[case::another_version(b"\x08\x02", "version 2")]
#[case::a_negative_version(b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "version -1")]
#[case::truncated(b"\x08", "no message of the protocol")]
#[case::an_answer(b"\x0a\x00", "no message of the protocol")]
fn who_greets_wrongly_is_sent_away(#[case] bytes: &[u8], #[case] why: &str) {
    let mut story = Story::begin();
    story.connect(SECOND);
    let closed = story.say(SECOND, bytes);
    assert!(
        closed.len() == 1 && closed[0].starts_with("2 is closed: ") && closed[0].contains(why),
        "{closed:?}"
    );
}

#[test]
fn who_talks_unasked_is_sent_away() {
    for unasked in [hello(), ack("")] {
        let closed = Story::begin().say(FIRST, &unasked);
        assert!(
            closed[0].starts_with("1 is closed: it said something without having been asked"),
            "{closed:?}"
        );
    }
}

#[test]
fn names_that_ztunnel_could_not_read_are_not_sent() {
    let mut story = Story::begin();
    let mut wanted = pods(&[("a", 7), ("b", 8)]);
    wanted
        .entry(uid("a"))
        .and_modify(|workload| workload.service_account = "x".repeat(MAX_REQUEST));
    assert_eq!(told(story.0.want(&wanted, story.1)), ["1: add team/b (uid-b)"]);
    assert_eq!(story.ack(FIRST), ["1: snapshot sent"]);
    assert!(matches!(story.progress("a"), Progress::Refused(_)));
    // The longest names that Kubernetes has do fit.
    let mut wanted = pods(&[("a", 7)]);
    let longest = wanted.get_mut(&uid("a")).expect("there");
    longest.pod.name = "x".repeat(253);
    longest.pod.namespace = "x".repeat(63);
    longest.service_account = "x".repeat(253);
    story.0.want(&wanted, story.1);
    story.ack(FIRST);
    assert_eq!(story.progress("a"), Progress::Pending);
}

#[test]
fn a_crowd_drives_out_its_own_first() {
    let mut story = Story::begin();
    for id in 2..=MAX_CONNECTIONS as u64 {
        story.connect(ConnectionId(id));
    }
    let next = ConnectionId(MAX_CONNECTIONS as u64 + 1);
    let closed = told(story.0.connected(next, peer(), story.1));
    assert!(
        closed.len() == 1 && closed[0].starts_with("2 is closed: 16 others"),
        "{closed:?}"
    );
    assert_eq!(story.0.state().proxies.len(), 1);
}
