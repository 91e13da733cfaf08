//! What does not get to the node proxy's sockets as it is: calls for a Service, whose address kube-proxy translates on the
//! way, and calls of pods behind a bridge. They are redirected when they are made.

use std::net::{IpAddr, SocketAddr, TcpStream};

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{
    bench::{
        addresses::{NODE_V4, NODE_V6},
        ip,
    },
    command,
    proxy::{Listener, OUTBOUND, canonical, original},
};

use crate::{
    common::{at, connect, converse, fails, outside},
    node::Node,
};

const SERVICE: [&str; 2] = ["10.96.0.80", "fd00:10:96::80"];

/// A call of the pod, and the proxy's side of it, which knows where it wanted to go.
fn arrives(node: &Node, listener: &Listener, to: SocketAddr) -> Result<[TcpStream; 2]> {
    let stream = node.stand.call(to)?.with_context(|| format!("calling {to}"))?;
    let taken = listener.accept().with_context(|| format!("a call for {to}"))?;
    let wanted = original(&taken).with_context(|| format!("the original destination of {to}"))?;
    ensure!(canonical(wanted) == to, "{to} became {wanted}");
    ensure!(stream.peer_addr()? == to);
    let (from, caller) = (canonical(taken.peer_addr()?), canonical(stream.local_addr()?));
    ensure!(from == caller, "{caller} became {from}");
    Ok([stream, taken])
}

#[test]
fn a_call_for_a_service_arrives_with_the_services_address() -> Result<()> {
    let node = Node::with(|bench, _, peer| {
        bench.state().service("web", &SERVICE, 80)?;
        // As kube-proxy does it.
        let rules = format!(
            "table inet services {{
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    ip daddr {} tcp dport 80 dnat ip to {}:80
    ip6 daddr {} tcp dport 80 dnat ip6 to [{}]:80
  }}
}}
",
            SERVICE[0],
            peer.v4(),
            SERVICE[1],
            peer.v6()
        );
        bench.node().run(|| command::nft(&rules))?
    })?;
    node.enroll(&[])?;
    let stand = &node.stand;
    let endpoint = stand.peer.run(|| Listener::on((ip("::"), 80).into()))??;
    let listener = node.proxy.listen(OUTBOUND)?;
    for service in at(SERVICE.map(ip), 80) {
        let [mut stream, mut taken] = arrives(&node, &listener, service)?;
        converse(&mut stream, &mut taken)?;
    }
    ensure!(endpoint.try_accept()?.is_none(), "a call got past the proxy");
    drop(listener);
    for service in at(SERVICE.map(ip), 80) {
        fails(libc::ECONNREFUSED, "a call for a Service without a proxy", || {
            stand.call(service)
        });
    }
    ensure!(endpoint.try_accept()?.is_none(), "a call got past the proxy");
    Ok(())
}

#[test]
fn a_call_for_the_node_itself_arrives_too() -> Result<()> {
    let node = Node::with(|_, _, _| Ok(()))?;
    node.enroll(&[])?;
    let listener = node.proxy.listen(OUTBOUND)?;
    for own in at([NODE_V4, NODE_V6].map(ip), 8443) {
        let [mut stream, mut taken] = arrives(&node, &listener, own)?;
        converse(&mut stream, &mut taken)?;
    }
    Ok(())
}

#[test]
fn calls_of_a_pod_behind_a_bridge_arrive_and_none_gets_past() -> Result<()> {
    let node = Node::with(|bench, pod, peer| {
        let (pod, peer) = (pod.device(), peer.device());
        let batch = format!(
            "link add br0 type bridge
link set br0 up
addr del 169.254.1.1/32 dev {pod}
addr del fe80::1/64 dev {pod}
link set {pod} master br0
link set {peer} master br0
addr add 169.254.1.1/32 dev br0 scope link
addr add fe80::1/64 dev br0 nodad
"
        );
        bench.node().run(|| command::ip(&batch))?
    })?;
    let stand = &node.stand;
    let routes: String = [&stand.pod, &stand.peer]
        .into_iter()
        .flat_map(sluice_tests::Pod::addresses)
        .map(|address| match address {
            IpAddr::V4(v4) => format!("route replace {v4}/32 dev br0 src {NODE_V4}\n"),
            IpAddr::V6(v6) => format!("route replace {v6}/128 dev br0 src {NODE_V6}\n"),
        })
        .collect();
    stand.bench.node().run(|| command::ip(&routes))??;
    node.enroll(&[])?;
    let past = stand.peer.run(|| Listener::on((ip("::"), 80).into()))??;
    let listener = node.proxy.listen(OUTBOUND)?;
    let neighbour = at(stand.peer.addresses(), 80);
    for to in [&outside()[..], &neighbour].concat() {
        let [mut stream, mut taken] = arrives(&node, &listener, to)?;
        converse(&mut stream, &mut taken)?;
    }
    for to in neighbour {
        fails(libc::ECONNREFUSED, "a call past the hooks", || {
            stand.pod.run_without_cgroup(|| connect(to))
        });
        stand.refusal("pod_out", "uncaptured", to)?;
    }
    ensure!(past.try_accept()?.is_none(), "a call got past the proxy");
    Ok(())
}
