//! A real socket, with a small client at the other end.

use std::{
    fs,
    os::{
        fd::{AsRawFd as _, OwnedFd, RawFd},
        unix::fs::{MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        socket::{
            AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr,
            connect, getsockopt, recvmsg, sendmsg, setsockopt, socket, sockopt,
        },
        time::TimeVal,
    },
    unistd::close,
};
use prost::Message as _;
use tokio::{
    runtime::Runtime,
    time::{Instant, timeout},
};

use super::{ack, hello, open, pods, uid, workload};
use crate::{
    facts::NetnsCookie,
    zds::{
        Netns, Progress, Server, State,
        messages::{RequestPayload, WorkloadRequest},
        socket::{bind, cgroup_v2, may_connect, peer},
    },
};

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(20);

struct Client(OwnedFd);

impl Client {
    fn connect(path: &Path) -> Self {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).expect("a socket");
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(20, 0)).expect("a timeout");
        let address = UnixAddr::new(path).expect("an address");
        connect(socket.as_raw_fd(), &address).expect("a listener");
        Self(socket)
    }

    fn greeted(path: &Path) -> Self {
        let client = Self::connect(path);
        client.say(&hello(), &[]);
        client
    }

    fn say(&self, bytes: &[u8], descriptors: &[RawFd]) {
        let rights = [ControlMessage::ScmRights(descriptors)];
        let control = &rights[..descriptors.len().min(1)];
        let bytes = [std::io::IoSlice::new(bytes)];
        // It may have been sent away already, and is told so when it listens.
        let _ = sendmsg::<()>(self.0.as_raw_fd(), &bytes, control, MsgFlags::MSG_NOSIGNAL, None);
    }

    /// The next request with what the descriptors are (device and inode); none at the end.
    fn hear(&self) -> Option<(RequestPayload, Vec<(u64, u64)>)> {
        let mut buffer = [0; 1024];
        let mut control = nix::cmsg_space!([RawFd; 4]);
        let mut parts = [std::io::IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let received = match recvmsg::<()>(self.0.as_raw_fd(), &mut parts, Some(&mut control), flags) {
            Ok(received) => received,
            // What was said to a server that has left unread.
            Err(Errno::ECONNRESET) => return None,
            Err(errno) => panic!("{errno}"),
        };
        assert!(
            !received
                .flags
                .intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC)
        );
        let mut descriptors = Vec::new();
        for message in received.cmsgs().expect("room") {
            if let ControlMessageOwned::ScmRights(raw) = message {
                descriptors.extend(raw);
            }
        }
        let seen = descriptors
            .into_iter()
            .map(|descriptor| {
                let seen = identity(&PathBuf::from(format!("/proc/self/fd/{descriptor}")));
                close(descriptor).expect("open");
                seen
            })
            .collect();
        let length = received.bytes;
        (length > 0).then(|| {
            let request = WorkloadRequest::decode(&buffer[..length]).expect("a request");
            (request.payload.expect("a payload"), seen)
        })
    }

    /// The next request, which is then acknowledged.
    fn obey(&self) -> (RequestPayload, Vec<(u64, u64)>) {
        let heard = self.hear().expect("a request");
        self.say(&ack(""), &[]);
        heard
    }
}

fn identity(path: &Path) -> (u64, u64) {
    let seen = fs::metadata(path).expect("a file");
    (seen.dev(), seen.ino())
}

/// A server in a directory that it makes itself.
fn serve() -> (Runtime, Server, PathBuf, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("run/ztunnel.sock");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let server = runtime.block_on(async { Server::bind(&path) }).expect("a server");
    (runtime, server, path, directory)
}

async fn until(server: &mut Server, what: &str, is: impl Fn(&State) -> bool) {
    let wait = async {
        while !is(&server.state()) {
            server.changed().await;
        }
    };
    timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("never: {what}"));
}

#[test]
fn a_proxy_gets_the_namespaces_themselves() {
    let (runtime, mut server, path, _directory) = serve();
    let client = Client::greeted(&path);
    // Two different namespaces that every process has; that one is no network does not matter here.
    let files = [("a", "/proc/self/ns/net"), ("b", "/proc/self/ns/uts")];
    let wanted = files.iter().zip(7..).map(|((name, file), cookie)| {
        let descriptor = open(file);
        let cookie = NetnsCookie(cookie);
        (uid(name), workload(name, Some(Netns { descriptor, cookie })))
    });
    server.want(wanted.collect());
    for (name, file) in files {
        let (RequestPayload::Add(add), descriptors) = client.obey() else {
            panic!("an Add");
        };
        assert_eq!(add.uid, uid(name).0);
        let info = add.workload_info.expect("who it is");
        assert_eq!(
            (&*info.namespace, &*info.name, &*info.service_account),
            ("team", name, "default")
        );
        assert_eq!(descriptors, [identity(Path::new(file))]);
    }
    let (RequestPayload::SnapshotSent(_), descriptors) = client.obey() else {
        panic!("the end of the snapshot");
    };
    assert_eq!(descriptors, []);
    runtime.block_on(until(&mut server, "synced", |state| {
        state.proxies.iter().any(|proxy| proxy.synced)
    }));
    let state = server.state();
    assert_eq!(state.workloads[&uid("b")], Progress::Acked(NetnsCookie(8)));
    let [proxy] = &state.proxies[..] else {
        panic!("one")
    };
    assert_eq!(proxy.peer.pid, i32::try_from(std::process::id()).ok());
    let own = fs::read_to_string("/proc/self/cgroup").expect("own cgroups");
    assert_eq!(proxy.peer.cgroup, cgroup_v2(&own));

    server.want(pods(&[]));
    for name in ["a", "b"] {
        let (RequestPayload::Del(del), descriptors) = client.obey() else {
            panic!("a Del");
        };
        assert_eq!((del.uid, descriptors), (uid(name).0, vec![]));
    }
    drop(client);
    runtime.block_on(until(&mut server, "gone", |state| state.proxies.is_empty()));
    // Nothing keeps the namespaces alive.
    let null = identity(Path::new("/proc/self/ns/uts"));
    let open = || fs::read_dir("/proc/self/fd").expect("own descriptors").flatten();
    let held =
        open().filter(|entry| fs::metadata(entry.path()).is_ok_and(|seen| (seen.dev(), seen.ino()) == null));
    assert_eq!(held.count(), 0);
}

#[test]
fn a_proxy_that_comes_again_is_told_all_again() {
    let (runtime, mut server, path, _directory) = serve();
    server.want(pods(&[("a", 7)]));
    for _ in 0..2 {
        let client = Client::greeted(&path);
        assert!(matches!(client.obey(), (RequestPayload::Add(_), _)));
        // It goes in the middle, without an answer.
        assert!(matches!(
            client.hear(),
            Some((RequestPayload::SnapshotSent(_), _))
        ));
    }
    let client = Client::greeted(&path);
    assert!(matches!(client.obey(), (RequestPayload::Add(_), _)));
    assert!(matches!(client.obey(), (RequestPayload::SnapshotSent(_), _)));
    runtime.block_on(until(&mut server, "one", |state| {
        state.proxies.len() == 1 && state.proxies[0].synced
    }));
}

#[test]
fn nonsense_harms_nobody_else() {
    let (runtime, mut server, path, _directory) = serve();
    server.want(pods(&[("a", 7)]));
    let good = Client::greeted(&path);
    good.obey();
    good.obey();
    let null = open("/dev/null");
    let long = vec![0; 100_000];
    let first: [&[u8]; 4] = [b"\x08", b"\x08\x02", &long, b"GET / HTTP/1.1\r\n\r\n"];
    for bytes in first {
        let bad = Client::connect(&path);
        bad.say(bytes, &[null.as_raw_fd()]);
        assert_eq!(bad.hear(), None, "{:?}", bytes.get(..8));
    }
    let instead: [&[u8]; 4] = [&hello(), b"\x0a\x04\x0a", &long, &[0; 5000]];
    for bytes in instead {
        let bad = Client::greeted(&path);
        assert!(bad.hear().is_some());
        bad.say(bytes, &[null.as_raw_fd(); 3]);
        assert_eq!(bad.hear(), None, "{:?}", bytes.get(..8));
    }
    // Twice the answer, in one go.
    let bad = Client::greeted(&path);
    for _ in 0..100 {
        bad.say(&ack(""), &[]);
    }
    while bad.hear().is_some() {}
    // Nothing of it is left, and the good one is the newest again.
    runtime.block_on(until(&mut server, "one", |state| state.proxies.len() == 1));
    server.want(pods(&[("a", 7), ("b", 8)]));
    assert!(matches!(good.obey(), (RequestPayload::Add(add), _) if add.uid == uid("b").0));
    let sent = || fs::read_dir("/proc/self/fd").expect("own descriptors").flatten();
    let seen = identity(Path::new("/dev/null"));
    let count =
        sent().filter(|entry| fs::metadata(entry.path()).is_ok_and(|file| (file.dev(), file.ino()) == seen));
    assert!(count.count() < 10, "descriptors of strangers are not kept");
}

#[tokio::test(start_paused = true)]
async fn who_hangs_is_sent_away_in_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("ztunnel.sock");
    let mut server = Server::bind(&path).expect("a server");
    server.want(pods(&[("a", 7)]));
    let silent = Client::connect(&path);
    let client = Client::greeted(&path);
    until(&mut server, "greeted", |state| !state.proxies.is_empty()).await;
    let greeted = Instant::now();
    until(&mut server, "sent away", |state| state.proxies.is_empty()).await;
    let stayed = greeted.elapsed().as_secs_f32();
    assert!((5.0..6.0).contains(&stayed), "{stayed}");
    assert!(client.hear().is_some() && client.hear().is_none());
    assert_eq!(silent.hear(), None);
}

#[tokio::test(start_paused = true)]
async fn five_in_a_second() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("ztunnel.sock");
    let mut server = Server::bind(&path).expect("a server");
    let start = Instant::now();
    let clients: Vec<_> = (0..11).map(|_| Client::greeted(&path)).collect();
    until(&mut server, "all", |state| state.proxies.len() == clients.len()).await;
    assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
}

#[test]
fn the_path_is_taken_over_from_who_left_it() {
    let (runtime, server, path, _directory) = serve();
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o7777;
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().expect("a directory")), 0o755);
    drop(server);
    let server = runtime
        .block_on(async { Server::bind(&path) })
        .expect("once more");
    server.want(pods(&[]));
    assert!(Client::greeted(&path).hear().is_some());
    // But not a file that is no socket.
    let file = path.with_file_name("file");
    fs::write(&file, "mine").expect("a file");
    let error = runtime
        .block_on(async { Server::bind(&file) })
        .expect_err("in the way");
    assert!(error.to_string().contains("no socket"), "{error}");
    assert_eq!(fs::read_to_string(&file).expect("there"), "mine");
}

#[test]
fn others_may_not_connect() {
    let own = nix::unistd::geteuid().as_raw();
    assert!(may_connect(own));
    assert!(!may_connect(own + 1));
}

/// The process of this test is started a second time, with the path to connect to.
const CONNECT: &str = "SLUICE_TEST_CONNECT";

#[test]
fn who_has_ended_is_not_known_by_its_number() {
    if let Some(path) = std::env::var_os(CONNECT) {
        return drop(Client::connect(Path::new(&path)));
    }
    let (runtime, _server, _, directory) = serve();
    let path = directory.path().join("socket");
    let listener = runtime.block_on(async { bind(&path) }).expect("a listener");
    let program = std::env::current_exe().expect("this program");
    let mut child = Command::new(program)
        .args([
            "--exact",
            "zds::tests::wire::who_has_ended_is_not_known_by_its_number",
        ])
        .env(CONNECT, &path)
        .stdout(Stdio::null())
        .spawn()
        .expect("a child");
    // As long as nobody has asked how it ended, there is something of it under its number.
    let files = PathBuf::from(format!("/proc/{}", child.id()));
    let read = |file| fs::read_to_string(files.join(file)).expect("of the child");
    while !read("stat").contains(") Z ") {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(cgroup_v2(&read("cgroup")).is_some());
    let (stream, _) = runtime.block_on(listener.accept()).expect("a connection");
    let peer = peer(&stream).expect("a peer").expect("it may connect");
    assert_eq!(peer.pid, i32::try_from(child.id()).ok());
    match getsockopt(&stream, sockopt::PeerPidfd) {
        Err(Errno::ENOPROTOOPT) => eprintln!("this kernel cannot tell (before Linux 6.5)"),
        Ok(_) | Err(_) => assert_eq!(peer.cgroup, None),
    }
    child.wait().expect("the child");
}

#[test]
fn the_cgroup_is_the_one_of_the_second_version() {
    let both = "5:memory:/v1\n1:name=systemd:/v1\n0::/kubepods.slice/pod:a\n";
    assert_eq!(cgroup_v2(both), Some(PathBuf::from("/kubepods.slice/pod:a")));
    assert_eq!(cgroup_v2("5:memory:/v1\n"), None);
}
