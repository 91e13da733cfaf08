//! Every order of events, with several of ztunnel's models at the other end.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use proptest::{collection::vec, prelude::*};
use prost::Message as _;

use super::{ack, hello, netns, peer, uid, workload, ztunnel::Ztunnel};
use crate::{
    facts::NetnsCookie,
    zds::{
        PodUid, Progress, Workload,
        messages::{self, Version, WorkloadResponse, ZdsHello},
        request::Request,
        sessions::{ConnectionId, Output, Sessions},
    },
};

/// Something happens; the number says to which of the proxies.
#[derive(Clone, Debug)]
enum Step {
    Connect(usize),
    Hello(usize),
    /// It does as it was asked, and can start what it is to start or not.
    Answer(usize, bool),
    Retry(usize),
    /// It goes; if the process does, it comes back serving nobody.
    Leave(usize, bool),
    /// It says this, unless it is what it may say.
    Say(usize, Vec<u8>),
    /// These pods are wanted, each with a namespace's number or none, and called otherwise than usually or not.
    Want(BTreeMap<u8, (Option<u64>, bool)>),
    Pass(Duration),
}

const PROXIES: usize = 3;

fn step() -> impl Strategy<Value = Step> {
    let pods = prop::collection::btree_map(
        0..4u8,
        (prop::option::weighted(0.8, 1..4u64), prop::bool::weighted(0.1)),
        0..4,
    );
    let rubbish = prop_oneof![
        vec(any::<u8>(), 0..8),
        Just(hello()),
        Just(ack("")),
        Just(vec![0; 5000])
    ];
    prop_oneof![
        3 => (0..PROXIES).prop_map(Step::Connect),
        4 => (0..PROXIES).prop_map(Step::Hello),
        12 => (0..PROXIES, prop::bool::weighted(0.85)).prop_map(|(proxy, starts)| Step::Answer(proxy, starts)),
        1 => (0..PROXIES).prop_map(Step::Retry),
        2 => (0..PROXIES, any::<bool>()).prop_map(|(proxy, dies)| Step::Leave(proxy, dies)),
        1 => (0..PROXIES, rubbish).prop_map(|(proxy, bytes)| Step::Say(proxy, bytes)),
        5 => pods.prop_map(Step::Want),
        1 => (0..6000u64).prop_map(Duration::from_millis).prop_map(Step::Pass),
    ]
}

#[derive(Debug)]
struct Connection {
    id: ConnectionId,
    greeted: bool,
    asked: Option<Request>,
    /// Whom it was told to serve, and not to leave since.
    added: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct Place {
    ztunnel: Ztunnel,
    connection: Option<Connection>,
}

/// Whether a connection may say this now.
fn is_proper(connection: &Connection, bytes: &[u8]) -> bool {
    if connection.greeted {
        let response = WorkloadResponse::decode(bytes);
        connection.asked.is_some() && response.is_ok_and(|response| response.payload.is_some())
    } else {
        ZdsHello::decode(bytes).is_ok_and(|said| said.version() == Version::V1)
    }
}

struct World {
    sessions: Sessions,
    now: Instant,
    count: u64,
    places: [Place; PROXIES],
    wanted: Option<BTreeMap<PodUid, Workload>>,
    /// Connections in the order of their hellos.
    greeted: Vec<ConnectionId>,
}

impl World {
    fn new() -> Self {
        Self {
            sessions: Sessions::default(),
            now: Instant::now(),
            count: 0,
            places: Default::default(),
            wanted: None,
            greeted: Vec::new(),
        }
    }

    fn step(&mut self, step: Step) {
        let now = self.now;
        let outputs = match step {
            Step::Connect(proxy) if self.places[proxy].connection.is_none() => {
                self.count += 1;
                let id = ConnectionId(self.count);
                self.places[proxy].ztunnel.reset();
                self.places[proxy].connection = Some(Connection {
                    id,
                    greeted: false,
                    asked: None,
                    added: BTreeSet::new(),
                });
                self.sessions.connected(id, peer(), now)
            }
            Step::Hello(proxy) => match &mut self.places[proxy].connection {
                Some(connection) if !connection.greeted => {
                    connection.greeted = true;
                    self.greeted.push(connection.id);
                    self.sessions.received(connection.id, &hello(), now)
                }
                Some(_) | None => return,
            },
            Step::Answer(proxy, starts) => {
                let Place { ztunnel, connection } = &mut self.places[proxy];
                let Some(connection) = connection else { return };
                let Some(request) = connection.asked.take() else {
                    return;
                };
                let error = ztunnel.process(&request, starts);
                self.sessions.received(connection.id, &ack(error), now)
            }
            Step::Leave(proxy, dies) => {
                let place = &mut self.places[proxy];
                let Some(connection) = place.connection.take() else {
                    return;
                };
                if dies {
                    place.ztunnel = Ztunnel::default();
                }
                self.greeted.retain(|id| *id != connection.id);
                self.sessions.closed(connection.id, now)
            }
            Step::Say(proxy, bytes) => match &self.places[proxy].connection {
                Some(connection) if !is_proper(connection, &bytes) => {
                    self.sessions.received(connection.id, &bytes, now)
                }
                Some(_) | None => return,
            },
            Step::Want(pods) => {
                let wanted = pods.into_iter().map(|(pod, (place, renamed))| {
                    let name = if renamed {
                        format!("other-{pod}")
                    } else {
                        format!("pod-{pod}")
                    };
                    (uid(&pod.to_string()), workload(&name, place.map(netns)))
                });
                let wanted: BTreeMap<_, _> = wanted.collect();
                let outputs = self.sessions.want(&wanted, now);
                self.wanted = Some(wanted);
                outputs
            }
            Step::Pass(time) => {
                self.now += time;
                self.sessions.tick(self.now)
            }
            Step::Retry(proxy) => return self.places[proxy].ztunnel.retry(),
            Step::Connect(_) => return,
        };
        for output in outputs {
            self.perform(output);
        }
    }

    fn perform(&mut self, output: Output) {
        let newest = self.greeted.last().copied();
        let holds = |id, place: &Place| {
            place
                .connection
                .as_ref()
                .is_some_and(|connection| connection.id == id)
        };
        let index = |places: &[Place], id| {
            let index = places.iter().position(|place| holds(id, place));
            index.expect("nothing is done to who has gone")
        };
        match output {
            Output::Send(id, request) => {
                assert!(self.wanted.is_some(), "nothing is said before all is known");
                let index = index(&self.places, id);
                let Place { ztunnel, connection } = &mut self.places[index];
                let connection = connection.as_mut().expect("connected");
                assert!(connection.greeted, "nothing is said before hello");
                assert!(connection.asked.is_none(), "one in flight");
                if let Request::Add { uid, .. } = &request {
                    assert!(!ztunnel.synced || newest == Some(id), "news go to the newest");
                    connection.added.insert(uid.0.clone());
                } else if let Request::Del(uid) = &request {
                    connection.added.remove(&uid.0);
                }
                connection.asked = Some(request);
            }
            Output::Close(id, _) => {
                let index = index(&self.places, id);
                let Place { ztunnel, connection } = &mut self.places[index];
                self.greeted.retain(|greeted| *greeted != id);
                // It may still read what it had been sent, and do it.
                if let Some(request) = connection.take().and_then(|connection| connection.asked)
                    && id.0.is_multiple_of(2)
                {
                    ztunnel.process(&request, true);
                }
            }
        }
    }

    /// All proxies do what they are asked until nobody is asked anything.
    fn settle(&mut self) {
        if self.wanted.is_none() {
            self.step(Step::Want([(0, (Some(1), false))].into()));
        }
        for _ in 0..100 {
            for proxy in 0..PROXIES {
                self.step(Step::Hello(proxy));
                self.step(Step::Answer(proxy, true));
            }
            let asked = |place: &Place| {
                place
                    .connection
                    .as_ref()
                    .is_some_and(|connection| connection.asked.is_some())
            };
            if !self.places.iter().any(asked) {
                return;
            }
        }
        panic!("it never ends");
    }

    fn check(&self) {
        let wanted = self.wanted.as_ref().expect("wanted");
        let state = self.sessions.state();
        assert_eq!(state.proxies.len(), self.greeted.len());
        assert!(state.proxies.iter().all(|proxy| proxy.synced));
        assert_eq!(state.leaving, BTreeSet::new());
        assert!(state.workloads.keys().eq(wanted.keys()));
        let connected = || {
            let connected = |place: &'_ &Place| place.connection.is_some();
            self.places.iter().filter(connected)
        };
        for place in connected() {
            let connection = place.connection.as_ref().expect("connected");
            let ztunnel = &place.ztunnel;
            assert!(ztunnel.synced);
            for (uid, (netns, _)) in ztunnel.running.iter().chain(&ztunnel.pending) {
                let workload = wanted.get(&PodUid(uid.clone())).expect("no Del is lost");
                let place = workload.netns.as_ref().map(|netns| netns.cookie);
                let moved = connection.added.contains(uid) && place.is_some_and(|place| place != *netns);
                assert!(!moved, "{uid} is served where it is no more");
            }
            if self.greeted.last() == Some(&connection.id) {
                Self::check_newest(ztunnel, wanted);
            }
        }
        for (uid, progress) in &state.workloads {
            let runs_in = |netns: &NetnsCookie| {
                connected().any(|place| {
                    place
                        .ztunnel
                        .running
                        .get(&uid.0)
                        .is_some_and(|(place, _)| place == netns)
                })
            };
            match progress {
                Progress::Acked(netns) => assert!(runs_in(netns), "{uid} is said to be served"),
                Progress::Refused(error) => assert!(error.contains("Address already in use")),
                Progress::Pending => {
                    assert!(
                        self.greeted.is_empty() || wanted[uid].netns.is_none(),
                        "{uid} is forgotten"
                    );
                }
            }
        }
    }

    /// The newest serves, or tries to serve, all that it can.
    fn check_newest(ztunnel: &Ztunnel, wanted: &BTreeMap<PodUid, Workload>) {
        for (uid, workload) in wanted {
            let Some(netns) = &workload.netns else { continue };
            let (place, info) = ztunnel
                .running
                .get(&uid.0)
                .or(ztunnel.pending.get(&uid.0))
                .expect("no Add is lost");
            assert_eq!(*place, netns.cookie);
            let Some(messages::RequestPayload::Add(add)) = messages::add(uid, workload).payload else {
                panic!("an Add");
            };
            assert!(add.workload_info.as_ref() == Some(info) || ztunnel.inherited.contains(&uid.0));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn whatever_the_order_all_end_up_with_what_is_wanted(steps in vec(step(), 0..80)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.settle();
        world.check();
        // When the newest goes, the one before it takes over all of it.
        if let Some(newest) = world.greeted.last().copied() {
            let is_newest = |place: &Place| place.connection.as_ref().is_some_and(|connection| connection.id == newest);
            let proxy = world.places.iter().position(is_newest).expect("connected");
            world.step(Step::Leave(proxy, true));
            world.settle();
            world.check();
            world.step(Step::Connect(proxy));
            world.settle();
            world.check();
        }
        // Whoever never answers is sent away, and nobody else.
        world.step(Step::Want(BTreeMap::new()));
        world.step(Step::Pass(Duration::from_secs(5)));
        world.settle();
        world.check();
        prop_assert!(world.sessions.next_tick().is_none());
    }
}
