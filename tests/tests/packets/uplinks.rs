//! Ways out that are more than a device: the gateway's packets pass, what nobody has approved does not.

use anyhow::{Context as _, Result, ensure};
use rstest::rstest;
use sluice_tests::{
    Agent, Bench, Capture,
    bench::{
        addresses::{REGISTERED, UNREGISTERED},
        ip,
    },
    command, in_guest,
    manifest::Policy,
    rig::REGISTERED_PORTS,
};

/// A cable to the outside, `up1` here and `eth1` there, with something on it that has the address and the default route.
struct Kind {
    name: &'static str,
    node: &'static str,
    outside: &'static str,
}

const VLAN: Kind = Kind {
    name: "up1.7",
    node: "link add link up1 name up1.7 type vlan id 7\nlink set up1 up\n",
    outside: "link add link eth1 name up1.7 type vlan id 7\nlink set eth1 up\n",
};
const BOND: Kind = Kind {
    name: "bond7",
    node: "link add bond7 type bond mode active-backup\nlink set up1 master bond7\nlink set up1 up\n",
    outside: "link set eth1 name bond7\n",
};
const GENEVE: Kind = Kind {
    name: "gnv7",
    node: "addr add 192.0.4.2/24 dev up1\nlink set up1 up\nlink add gnv7 type geneve id 7 remote 192.0.4.1\n",
    outside: "addr add 192.0.4.1/24 dev eth1\nlink set eth1 up\nlink add gnv7 type geneve id 7 remote 192.0.4.2\n",
};

#[rstest]
#[case::vlan(VLAN)]
#[case::bond(BOND)]
#[case::geneve(GENEVE)]
fn a_way_out_on_top_of_a_device(#[case] Kind { name, node, outside }: Kind) -> Result<()> {
    if !in_guest() {
        println!("what this machine's kernel has of devices is its owner's choice");
        return Ok(());
    }
    let bench = Bench::create()?;
    let gateway = bench.pod("egress", "gateway")?;
    let client = bench.pod("app", "client")?;
    for pod in [&client, &gateway] {
        bench.state().declare(pod)?;
    }
    bench
        .state()
        .register("registered", &REGISTERED, &REGISTERED_PORTS)?;
    bench.state().policy(&Policy::default())?;
    let there = bench.outside();
    bench.node().run(|| {
        command::ip(&format!(
            "link add up1 type veth peer name eth1 netns {}\n{node}",
            there.name()
        ))
    })??;
    let up = |address: &str| format!("addr add {address}/24 dev {name}\nlink set {name} up\n");
    there.run(|| command::ip(&format!("{outside}{}", up("192.0.3.1"))))??;
    bench.node().run(|| {
        command::ip(&format!(
            "{}route replace default via 192.0.3.1 dev {name}\n",
            up("192.0.3.2")
        ))
    })??;
    let seen = Capture::start(there, name)?;
    let mut agent = Agent::prepare(&bench)?.with_arguments(&["--uplink", "up1"]);
    agent.restart()?;
    let status = agent.status()?;
    let devices = status["devices"].as_array().context("no devices")?;
    for device in [name, "up1"] {
        let is_uplink = |found: &serde_json::Value| found["name"] == device && found["role"] == "uplink";
        ensure!(
            devices.iter().any(is_uplink),
            "{device} is no uplink: {devices:#?}"
        );
    }

    let allowed = || -> Result<()> {
        let frame = gateway.sender().syn(ip(REGISTERED[0]), 443);
        gateway.send(&frame)?;
        let arrived = seen.wait_for_cookie(frame.cookie());
        arrived.map(drop).context("the gateway is cut off")
    };
    let refused = client.sender().udp(ip(UNREGISTERED[0]), 53);
    client.send(&refused)?;
    allowed()?;
    // No program is on this one's device: the backstop alone is left.
    agent.kill()?;
    let newcomer = bench.pod("app", "newcomer")?;
    let unknown = newcomer.sender().udp(ip(UNREGISTERED[0]), 53);
    newcomer.send(&unknown)?;
    allowed()?;
    for frame in [&refused, &unknown] {
        ensure!(!seen.has_received(frame.cookie()), "it got out");
    }
    Ok(())
}
