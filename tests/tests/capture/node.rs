//! A proxy in the node's network namespace: calls are handed to its transparent listener as they are.

use std::net::{IpAddr, SocketAddr, TcpStream};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket, sockopt::ReusePort};
use sluice_tests::{
    Bench, Capture, Pod, Proxy,
    bench::{
        addresses::{NODE_V4, NODE_V6, REGISTERED, UNREGISTERED},
        ip,
    },
    capture::Seen,
    command,
    echo::Echo,
    manifest::Policy,
    proxy::{DNS, Listener, OUTBOUND, Resolver, canonical, original},
};

use crate::common::{
    Fresh, Stand, at, connect, converse, exchange, fails, on_one_stand, outside, text, wait_until,
};

/// A captured pod, and a proxy on its node.
pub(crate) struct Node {
    pub(crate) stand: Stand,
    pub(crate) proxy: Proxy,
}

impl Node {
    fn start() -> Result<Self> {
        let node = Self::with(|_, _, _| Ok(()))?;
        node.enroll(&[])?;
        Ok(node)
    }

    pub(crate) fn with(more: impl FnOnce(&Bench, &Pod, &Pod) -> Result<()>) -> Result<Self> {
        let bench = Bench::create()?;
        let proxy = Proxy::on_node(&bench)?;
        let (port, dns) = (OUTBOUND.to_string(), DNS.to_string());
        let arguments = [
            "--node-proxy",
            &port,
            "--node-proxy-dns",
            &dns,
            "--node-proxy-cgroup",
            text(proxy.cgroup().path())?,
        ];
        let stand = Stand::on(bench, &arguments, more)?;
        Ok(Self { stand, proxy })
    }

    pub(crate) fn enroll(&self, more: &[&str]) -> Result<()> {
        let netns = self.stand.pod.netns().path();
        self.stand
            .agent
            .enroll(netns, &[&["--mode", "node"], more].concat())
            .map(drop)
    }

    /// Asserts that a call of the pod arrives at the listener as it is.
    fn arrives(&self, listener: &Listener, to: SocketAddr) -> Result<[TcpStream; 2]> {
        let stream = self.stand.call(to)?.with_context(|| format!("calling {to}"))?;
        let taken = listener.accept().with_context(|| format!("a call for {to}"))?;
        let local = canonical(taken.local_addr()?);
        ensure!(local == canonical(to), "{to} became {local}");
        let (from, caller) = (canonical(taken.peer_addr()?), canonical(stream.local_addr()?));
        ensure!(from == caller, "{caller} became {from}");
        Ok([stream, taken])
    }
}

impl Fresh for Node {
    fn fresh(&self) {
        self.stand.fresh();
    }
}

/// Whether the pod's own packets were seen outside.
fn got_out(node: &Node, seen: &Capture) -> Result<bool> {
    node.stand.bench.flush(seen)?;
    let own = node.stand.pod.addresses();
    let frames = seen.frames();
    let mut headers = frames.iter().filter_map(Seen::header);
    Ok(headers.any(|header| own.contains(&header.src)))
}

on_one_stand! {
    calls_for_the_node_proxy by Node::start:
    calls_arrive_at_the_node_proxy_as_they_are,
    a_call_past_the_hooks_is_captured_too,
    without_a_proxy_a_call_is_refused,
    a_pod_that_is_a_server_answers,
    a_missing_rule_leaks_nothing,
    the_proxy_is_never_sent_to_itself,
    the_proxys_port_is_the_proxys,
    dns_goes_to_the_node_proxys_resolver,
}

fn calls_arrive_at_the_node_proxy_as_they_are(node: &Node) -> Result<()> {
    let stand = &node.stand;
    let seen = stand.bench.capture_outside()?;
    let _past = Echo::start(stand.bench.outside(), &REGISTERED.map(ip), &[80, 443])?;
    let listener = node.proxy.listen(OUTBOUND)?;
    let other_pod = at(stand.peer.addresses(), 9);
    for to in [&outside()[..], &other_pod, &[crate::common::mapped(outside()[0])]].concat() {
        let [mut stream, mut taken] = node.arrives(&listener, to)?;
        ensure!(stream.peer_addr()? == to);
        converse(&mut stream, &mut taken)?;
        let long = vec![7; 300_000];
        std::thread::scope(|scope| {
            use std::io::{Read as _, Write as _};
            scope.spawn(|| stream.write_all(&long));
            let mut heard = vec![0; long.len()];
            taken.read_exact(&mut heard).map(|()| assert!(heard == long))
        })?;
    }
    ensure!(!got_out(node, &seen)?, "something got out");
    Ok(())
}

/// Here the hooks of cgroups have no part in it.
fn a_call_past_the_hooks_is_captured_too(node: &Node) -> Result<()> {
    let listener = node.proxy.listen(OUTBOUND)?;
    for to in outside() {
        let mut stream = node.stand.pod.run_without_cgroup(|| connect(to))??;
        let mut taken = listener.accept()?;
        ensure!(canonical(taken.local_addr()?) == to);
        converse(&mut stream, &mut taken)?;
    }
    Ok(())
}

fn without_a_proxy_a_call_is_refused(node: &Node) -> Result<()> {
    let _past = Echo::start(node.stand.bench.outside(), &REGISTERED.map(ip), &[80, 443])?;
    let seen = node.stand.bench.capture_outside()?;
    for to in outside() {
        fails(libc::ECONNREFUSED, &format!("a call for {to}"), || {
            node.stand.call(to)
        });
        node.stand.refusal("pod_out", "no-proxy", to)?;
    }
    ensure!(!got_out(node, &seen)?, "something got out");
    Ok(())
}

fn a_pod_that_is_a_server_answers(node: &Node) -> Result<()> {
    let listener = node.proxy.listen(OUTBOUND)?;
    let stand = &node.stand;
    let server = stand.pod.run(|| Listener::on((ip("::"), 99).into()))??;
    for to in at(stand.pod.addresses(), 99) {
        for caller in [&stand.peer.shared_netns(), stand.bench.node()] {
            let mut stream = caller
                .run(|| connect(to))?
                .with_context(|| format!("calling {to}"))?;
            converse(&mut stream, &mut server.accept()?)?;
        }
    }
    ensure!(
        listener.try_accept()?.is_none(),
        "the proxy got a call to the pod"
    );
    Ok(())
}

/// Captured, so that the proxy may refuse in its own words; and what the proxy may not is held up outside of it.
#[test]
fn the_node_proxy_is_held_to_the_policy() -> Result<()> {
    for on_deny in ["Drop", "Reject"] {
        let node = Node::with(|bench, pod, peer| {
            bench.state().declare(pod)?;
            bench.state().declare(peer)?;
            bench.state().policy(&Policy {
                on_deny,
                ..Policy::default()
            })
        })?;
        node.enroll(&["--name", "app/client"])?;
        let stand = &node.stand;
        let _past = Echo::start(stand.bench.outside(), &UNREGISTERED.map(ip), &[80])?;
        let _peer = Echo::start(stand.peer.netns(), &stand.peer.addresses(), &[80])?;
        let seen = stand.bench.capture_outside()?;
        let listener = node.proxy.listen(OUTBOUND)?;
        for to in at(UNREGISTERED.map(ip), 80) {
            let [mut stream, mut taken] = node.arrives(&listener, to)?;
            converse(&mut stream, &mut taken)?;
            let sent_on = node
                .proxy
                .run(|| TcpStream::connect_timeout(&to, crate::common::SHORT))?;
            ensure!(sent_on.is_err(), "{on_deny}: the proxy reaches {to}");
            // As a process of the proxy's cgroup would with its own packets.
            let arrived = |seen: &Seen| seen.header().is_some_and(|header| header.dst == to.ip());
            stand.bench.flush(&seen)?;
            ensure!(
                !seen.frames().iter().any(arrived),
                "{on_deny}: a packet for {to} got out"
            );
        }
        // What is inside the cluster it may reach.
        for to in at(stand.peer.addresses(), 80) {
            let [_stream, _taken] = node.arrives(&listener, to)?;
            exchange(&mut node.proxy.run(|| connect(to))??)?;
        }
    }
    Ok(())
}

/// A packet that is not delivered to the proxy must not be forwarded instead.
fn a_missing_rule_leaks_nothing(node: &Node) -> Result<()> {
    let stand = &node.stand;
    let _past = Echo::start(stand.bench.outside(), &REGISTERED.map(ip), &[80, 443])?;
    let seen = stand.bench.capture_outside()?;
    let _listener = node.proxy.listen(OUTBOUND)?;
    for family in ["-4", "-6"] {
        let rule = ["rule", "del", "pref", "100"];
        stand
            .bench
            .node()
            .run(|| command::run("ip", &[&[family], &rule[..]].concat(), ""))??;
        for to in outside() {
            // It may be captured or not, as the rule is put back meanwhile.
            let _ = stand
                .pod
                .run(|| TcpStream::connect_timeout(&to, std::time::Duration::from_millis(100)))?;
        }
        let took = wait_until("the return of the rule", || {
            let rules = stand
                .bench
                .node()
                .run(|| command::run("ip", &[family, "rule"], ""))??;
            Ok(rules.contains("0x1111"))
        })?;
        ensure!(
            sluice_tests::in_guest() || took.as_secs() < 2,
            "the rule was away for {took:?}"
        );
    }
    ensure!(!got_out(node, &seen)?, "something got out");
    Ok(())
}

/// To have the proxy call itself, again and again.
fn the_proxy_is_never_sent_to_itself(node: &Node) -> Result<()> {
    let listener = node.proxy.listen(OUTBOUND)?;
    for to in at([NODE_V4, NODE_V6].map(ip), OUTBOUND) {
        // As any other call: it is told where that wanted to go, and does not get there.
        let _stream = node.stand.call(to)??;
        let wanted = original(&listener.accept()?)?;
        ensure!(wanted == to, "{to} became {wanted}");
        fails(libc::EPERM, &format!("the proxy calls {to}"), || {
            node.proxy.run(|| connect(to))
        });
        fails(
            libc::ECONNREFUSED,
            &format!("a call for {to} past the hooks"),
            || node.stand.pod.run_without_cgroup(|| connect(to)),
        );
    }
    ensure!(listener.try_accept()?.is_none(), "more than the calls arrived");
    Ok(())
}

/// The addresses of Services and of the node are other ones by the time that a packet gets to the proxy, so these calls are
/// redirected when they are made.
#[test]
fn calls_for_what_the_node_translates() -> Result<()> {
    const SERVICE: [&str; 2] = ["10.96.0.20", "fd00:10:96::20"];
    let node = Node::with(|bench, pod, peer| {
        bench.state().declare(pod)?;
        bench.state().declare(peer)?;
        bench.state().service("shop", &SERVICE, 80)
    })?;
    node.enroll(&["--name", "app/client"])?;
    let stand = &node.stand;
    for addresses in [SERVICE, [NODE_V4, NODE_V6]] {
        for to in at(addresses.map(ip), 80) {
            fails(libc::ECONNREFUSED, "a call without a proxy", || stand.call(to));
        }
        let listener = node.proxy.listen(OUTBOUND)?;
        for to in at(addresses.map(ip), 80) {
            let mut stream = stand.call(to)?.with_context(|| format!("calling {to}"))?;
            ensure!(stream.peer_addr()? == to, "its peer is {}", stream.peer_addr()?);
            let mut taken = listener.accept()?;
            ensure!(original(&taken)? == to, "{to} became {}", original(&taken)?);
            converse(&mut stream, &mut taken)?;
        }
    }
    Ok(())
}

/// Nobody on the node takes the proxy's place or its share.
fn the_proxys_port_is_the_proxys(node: &Node) -> Result<()> {
    let take = |address: IpAddr| -> std::io::Result<_> {
        use std::os::fd::AsRawFd as _;
        let family = if address.is_ipv4() {
            nix::sys::socket::AddressFamily::Inet
        } else {
            nix::sys::socket::AddressFamily::Inet6
        };
        let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&fd, ReusePort, &true)?;
        bind(
            fd.as_raw_fd(),
            &SockaddrStorage::from(SocketAddr::new(address, OUTBOUND)),
        )?;
        Ok(fd)
    };
    let other = node.stand.bench.host_pod("app", "other")?;
    for address in ["0.0.0.0", "::", NODE_V4].map(ip) {
        let taken = other.run(|| take(address))?;
        ensure!(
            taken.is_err_and(|error| error.raw_os_error() == Some(libc::EADDRINUSE)),
            "{address}"
        );
    }
    Ok(())
}

fn dns_goes_to_the_node_proxys_resolver(node: &Node) -> Result<()> {
    let stand = &node.stand;
    let _past = Echo::start(stand.bench.outside(), &UNREGISTERED.map(ip), &[53])?;
    let resolver = node.proxy.run(|| Resolver::on((ip("::"), DNS).into()))??;
    for to in at(UNREGISTERED.map(ip), 53) {
        let answer = std::thread::scope(|scope| {
            scope.spawn(|| resolver.answer());
            stand.pod.run(|| crate::dns::ask(to))
        })?;
        let (answer, from) = answer.with_context(|| format!("asking {to}"))?;
        ensure!(
            answer == Resolver::ANSWER && from == to,
            "{to}: {answer:?} from {from}"
        );
    }
    Ok(())
}

#[test]
fn what_was_open_before_goes_on() -> Result<()> {
    let node = Node::with(|_, _, _| Ok(()))?;
    let stand = &node.stand;
    let _past = Echo::start(stand.bench.outside(), &REGISTERED.map(ip), &[80])?;
    let mut open = Vec::new();
    for to in at(REGISTERED.map(ip), 80) {
        open.push(stand.call(to)??);
    }
    node.enroll(&[])?;
    let listener = node.proxy.listen(OUTBOUND)?;
    for stream in &mut open {
        exchange(stream).context("captured")?;
    }
    for to in at(REGISTERED.map(ip), 80) {
        node.arrives(&listener, to)?;
    }
    stand.unenroll()?;
    for stream in &mut open {
        exchange(stream).context("no longer captured")?;
    }
    for to in at(REGISTERED.map(ip), 80) {
        exchange(&mut stand.call(to)??).context("a new call of a pod that was let go")?;
    }
    Ok(())
}

/// Labels instead of `sluice enroll`.
#[test]
fn pods_and_namespaces_ask_for_it_by_label() -> Result<()> {
    let node = Node::with(|bench, pod, peer| {
        bench
            .state()
            .namespace("app", &[("sluice.dev/capture", "node")])?;
        bench.state().declare(pod)?;
        let mut declined = sluice_tests::manifest::Details::default();
        declined.labels.push(("sluice.dev/capture", "none"));
        bench.state().declare_with(peer, &declined)
    })?;
    let stand = &node.stand;
    let _past = Echo::start(stand.bench.outside(), &REGISTERED.map(ip), &[80])?;
    let listener = node.proxy.listen(OUTBOUND)?;
    for to in at(REGISTERED.map(ip), 80) {
        node.arrives(&listener, to)?;
        exchange(&mut stand.peer.run(|| connect(to))??)?;
    }
    Ok(())
}
