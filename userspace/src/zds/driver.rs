//! Tasks: one that accepts, one for each connection, and one that has the sessions and decides. A connection that hangs
//! holds up nobody but itself.

use std::{collections::HashMap, io, time::Duration};

use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tracing::{debug, info, warn};

use super::{
    Peer, State, Wants,
    messages::MAX_RESPONSE,
    request::Request,
    sessions::{ConnectionId, Output, Sessions},
    socket,
};

/// How many events wait before connections do.
pub(super) const EVENTS: usize = 16;
/// Five connections in a second, and no more (as istio-cni has it, in its `ztunnelserver.go`): a proxy that comes and
/// goes in a loop must not keep the agent busy.
const ACCEPT_EVERY: Duration = Duration::from_millis(200);

/// What happens on the socket.
#[derive(Debug)]
pub(super) enum Event {
    Connected(Peer, UnixStream),
    Received(ConnectionId, Vec<u8>),
    Closed(ConnectionId, io::Result<()>),
}

/// Accepts, forever.
pub(super) async fn accept(listener: UnixListener, events: mpsc::Sender<Event>) {
    let mut pace = interval(ACCEPT_EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        pace.tick().await;
        let accepted = listener.accept().await;
        match accepted.and_then(|(stream, _)| Ok((socket::peer(&stream)?, stream))) {
            Ok((Ok(peer), stream)) => {
                if events.send(Event::Connected(peer, stream)).await.is_err() {
                    return;
                }
            }
            Ok((Err(user), _)) => warn!(user, "only root may connect as a proxy: sent away"),
            Err(error) => warn!(%error, "cannot accept a proxy"),
        }
    }
}

/// A connection, as the deciding task has it.
struct Line {
    pid: Option<i32>,
    requests: mpsc::Sender<Request>,
    task: JoinHandle<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Decides, forever.
pub(super) async fn drive(
    mut wants: watch::Receiver<Wants>,
    events: mpsc::Sender<Event>,
    mut coming: mpsc::Receiver<Event>,
    state: watch::Sender<State>,
) {
    let mut sessions = Sessions::default();
    let mut lines: HashMap<ConnectionId, Line> = HashMap::new();
    let mut count = 0;
    loop {
        let wake = sessions.next_tick();
        let sleep = async {
            match wake {
                Some(at) => sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        let mut outputs = tokio::select! {
            Some(event) = coming.recv() => {
                let now = Instant::now().into_std();
                match event {
                    Event::Connected(peer, stream) => {
                        count += 1;
                        let id = ConnectionId(count);
                        info!(pid = ?peer.pid, cgroup = ?peer.cgroup, "a proxy has connected");
                        lines.insert(id, open(id, peer.pid, stream, events.clone()));
                        sessions.connected(id, peer, now)
                    }
                    Event::Received(id, datagram) => sessions.received(id, &datagram, now),
                    Event::Closed(id, ended) => {
                        if let (Some(line), Err(error)) = (lines.remove(&id), ended) {
                            warn!(pid = ?line.pid, %error, "the connection of a proxy fails");
                        }
                        sessions.closed(id, now)
                    }
                }
            }
            changed = wants.changed() => {
                if changed.is_err() {
                    return;
                }
                let Wants { workloads, admitted } = wants.borrow_and_update().clone();
                sessions.admit(admitted);
                match workloads {
                    Some(workloads) => sessions.want(&workloads, Instant::now().into_std()),
                    None => Vec::new(),
                }
            }
            () = sleep => sessions.tick(Instant::now().into_std()),
        };
        while !outputs.is_empty() {
            outputs = outputs
                .into_iter()
                .flat_map(|output| perform(output, &mut lines, &mut sessions))
                .collect();
        }
        state.send_if_modified(|known| {
            let now = sessions.state();
            let changed = *known != now;
            *known = now;
            changed
        });
    }
}

/// Does one thing; what there is to do because of it is returned.
fn perform(output: Output, lines: &mut HashMap<ConnectionId, Line>, sessions: &mut Sessions) -> Vec<Output> {
    match output {
        Output::Send(id, request) => {
            let Some(line) = lines.get(&id) else {
                return Vec::new();
            };
            debug!(pid = ?line.pid, %request, "asking a proxy");
            // There is room for the one request that may be under way; if not, the task has ended.
            if line.requests.try_send(request).is_err() {
                lines.remove(&id);
                return sessions.closed(id, Instant::now().into_std());
            }
        }
        Output::Close(id, why) => {
            let pid = lines.remove(&id).and_then(|line| line.pid);
            warn!(?pid, %why, "a proxy is sent away");
        }
    }
    Vec::new()
}

fn open(id: ConnectionId, pid: Option<i32>, stream: UnixStream, events: mpsc::Sender<Event>) -> Line {
    let (requests, requests_there) = mpsc::channel(1);
    let task = tokio::spawn(async move {
        let ended = converse(id, &stream, requests_there, &events).await;
        // Nobody listens any more only when everything ends.
        drop(events.send(Event::Closed(id, ended)).await);
    });
    Line { pid, requests, task }
}

/// Carries datagrams until the other side goes. It is always being listened to, so that an end, or talk that nobody asked
/// for, is noticed at once and not at the next time of asking.
async fn converse(
    id: ConnectionId,
    stream: &UnixStream,
    mut requests: mpsc::Receiver<Request>,
    events: &mpsc::Sender<Event>,
) -> io::Result<()> {
    // One octet more than may come: so that what is too long can be told.
    let mut buffer = vec![0; MAX_RESPONSE + 1];
    loop {
        tokio::select! {
            // What was said before the request is no answer to it.
            biased;
            received = socket::receive(stream, &mut buffer) => {
                let datagram = match received? {
                    0 => return Ok(()),
                    length => buffer[..length].to_vec(),
                };
                if events.send(Event::Received(id, datagram)).await.is_err() {
                    return Ok(());
                }
            }
            Some(request) = requests.recv() => socket::send(stream, &request).await?,
        }
    }
}
