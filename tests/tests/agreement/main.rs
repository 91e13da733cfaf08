//! One decision, compiled twice: the same packet through the function on the kernel's own maps, through the live
//! program by `BPF_PROG_TEST_RUN`, and on the wire, under generated rules. All three must agree.

// The descriptions of packets and rules are those of the test against the naive model.
#[path = "../pure_model/sketch.rs"]
#[expect(dead_code, reason = "what the naive model asks of a description")]
mod sketch;
#[path = "../pure_model/world.rs"]
#[expect(
    dead_code,
    reason = "the flows of the naive model are none here: the kernel has its own"
)]
mod world;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ebpf::{
    Addr, AllowReason, DropReason, Hook, Verdict, decide,
    event::Outcome,
    packet::{Link, Packet, Protocol, Slice, parse},
    rules::{Endpoint, Enforcement, GroupSet, Identity, PolicyId},
};
use ipnet::IpNet;
use proptest::{
    strategy::{Strategy, ValueTree as _},
    test_runner::TestRunner,
};
use sluice::{
    dataplane::{self, Dataplane, Device, Options, Role},
    desired::{Desired, Ports, Rule},
    facts::IfIndex,
};
use sluice_tests::{
    Bench, Capture, Cookie, PATIENCE, Pod,
    bench::{
        UPLINK,
        addresses::{REGISTERED, UNREGISTERED},
        ip,
    },
    sys,
};

use sketch::{MAC, OWN, Sketch, Source, sketches};
use world::{INTERNAL, Prefix, World, worlds};

const WORLDS: usize = 40;
/// In a virtual machine, which may be emulated, and is one of several.
const WORLDS_IN_GUEST: usize = 16;
const PACKETS: usize = 40;

#[test]
fn the_function_the_program_and_the_wire_agree() -> Result<()> {
    let bench = Bench::create()?;
    let pod = bench.pod("app", "client")?;
    assert_eq!(
        pod.sender().mac,
        MAC,
        "the first pod of a bench is the one that sketches are about"
    );
    // A neighbour for what is sent to it.
    let _peer = bench.pod("app", "peer")?;
    let outside = bench.capture_outside()?;
    let pins = tempfile::TempDir::with_prefix("sluice-agreement-")?;
    let options = Options {
        bpffs: pins.path().join("bpf"),
        cgroup_root: None,
    };
    bench.node().run(|| {
        let compared = compare(&bench, &pod, &outside, &options);
        let detached = dataplane::detach(&options).context("detaching");
        compared.and_then(|()| detached.map(drop))
    })?
}

fn compare(bench: &Bench, pod: &Pod, outside: &Capture, options: &Options) -> Result<()> {
    let mut kernel = Kernel::open(options, pod)?;
    let mut runner = TestRunner::default();
    let mut fates: BTreeMap<String, usize> = BTreeMap::new();
    let worlds_here = if sluice_tests::in_guest() {
        WORLDS_IN_GUEST
    } else {
        WORLDS
    };
    for _ in 0..worlds_here {
        let world = generate(&mut runner, &worlds())?;
        kernel
            .dataplane
            .apply(&kernel.desired(&world))
            .context("applying")?;
        let mut refused = Vec::new();
        for _ in 0..PACKETS {
            let sketch = generate(&mut runner, &sketches())?;
            let outcome = kernel
                .agree(pod, outside, &sketch, &mut refused)
                .with_context(|| format!("{sketch:?} in {world:?}"))?;
            *fates.entry(format!("{outcome:?}")).or_default() += 1;
        }
        bench.flush(outside)?;
        for (cookie, sketch) in refused {
            ensure!(
                !outside.has_received(cookie),
                "refused by all, and arrived: {sketch:?} in {world:?}"
            );
        }
        outside.clear();
    }
    println!("{fates:#?}");
    // Otherwise the descriptions have lost their variety, and agreement means little.
    ensure!(
        fates.len() >= 12,
        "only {} kinds of fate were met: {fates:?}",
        fates.len()
    );
    Ok(())
}

fn generate<S: Strategy>(runner: &mut TestRunner, strategy: &S) -> Result<S::Value> {
    let tree = strategy
        .new_tree(runner)
        .map_err(|reason| anyhow::anyhow!("generating: {reason}"))?;
    Ok(tree.current())
}

struct Kernel {
    dataplane: Dataplane,
    device: IfIndex,
}

impl Kernel {
    fn open(options: &Options, pod: &Pod) -> Result<Self> {
        let mut dataplane = Dataplane::open(options).context("opening the dataplane")?;
        let device = |name: &str, role| -> Result<Device> {
            let index = IfIndex(u32::try_from(sys::device_index(name)?)?);
            Ok(Device {
                index,
                name: name.to_owned(),
                role,
                ethernet: true,
            })
        };
        let devices = [device(pod.device(), Role::Pod)?, device(UPLINK, Role::Uplink)?];
        let errors = dataplane.sync_devices(&devices);
        ensure!(errors.is_empty(), "attaching: {errors:?}");
        Ok(Self {
            dataplane,
            device: devices[0].index,
        })
    }

    fn desired(&self, world: &World) -> Desired {
        let [v4, v6] = OWN.map(|octets| Some(Addr::v6(octets)));
        let mut endpoint = Endpoint::new(self.device.0, MAC, v4, v6).as_gateway(world.gateway);
        if world.subject {
            endpoint = endpoint.subject_to(PolicyId(World::policy()));
        }
        let groups = |class| {
            if class == INTERNAL {
                GroupSet::INTERNAL
            } else {
                GroupSet::numbered(class)
            }
        };
        let mut desired = Desired {
            enforcement: Enforcement::Enforce,
            endpoints: BTreeMap::from([(Identity::Device(self.device.0), endpoint)]),
            ..Desired::default()
        };
        // A prefix of IPv6 says nothing on IPv4.
        let everything = "0.0.0.0/0".parse().expect("a constant prefix");
        desired.destinations.insert(everything, GroupSet::EXTERNAL);
        let networks: Vec<(IpNet, u32)> = world
            .prefixes
            .iter()
            .map(|prefix| (network(prefix), prefix.class))
            .collect();
        for (network, class) in &networks {
            // The inside of the cluster wins over all that is said of a part of it; the programs count on that.
            let inside = networks
                .iter()
                .any(|(other, class)| *class == INTERNAL && other.contains(network));
            desired
                .destinations
                .insert(*network, groups(if inside { INTERNAL } else { *class }));
        }
        for rule in &world.rules {
            let ports = match (rule.protocol, rule.ports) {
                (None, _) => vec![Ports::Any],
                (Some(protocol), None) => vec![Ports::Protocol(protocol)],
                (Some(protocol), Some((first, last))) => Ports::range(Protocol(protocol), first, last),
            };
            let some = Ports::Protocol(Protocol::MARKER.0);
            desired
                .rules
                .extend(ports.into_iter().chain([some]).map(|ports| Rule {
                    policy: PolicyId(rule.policy),
                    groups: groups(rule.class),
                    ports,
                }));
        }
        desired
    }

    /// The three verdicts on one packet, in this order: the wire changes what the kernel remembers.
    fn agree(
        &self,
        pod: &Pod,
        outside: &Capture,
        sketch: &Sketch,
        refused: &mut Vec<(Cookie, Sketch)>,
    ) -> Result<Outcome> {
        let frame = sketch.frame();
        let bytes = frame.bytes();
        let function = self.by_function(&bytes)?;
        let (program, generation) = self.dataplane.replay(self.device, &bytes).context("replaying")?;
        ensure!(
            program == function,
            "the program says {program:?}, the function {function:?}"
        );
        ensure!(
            generation == self.dataplane.generation(),
            "the program has another generation"
        );
        let before = self.counts()?;
        pod.send_bytes(&bytes)?;
        self.wait_for_count(&before, function)?;
        match function {
            Outcome::Denied(_) => refused.push((frame.cookie(), sketch.clone())),
            // A node forwards nothing that comes from a link-local address (RFC 4291, 2.5.6).
            Outcome::Allowed(AllowReason::Rule)
                if is_outside(sketch.dst) && sketch.source != Source::LinkLocal =>
            {
                outside
                    .wait_for_cookie(frame.cookie())
                    .context("permitted by a rule, and did not arrive")?;
            }
            Outcome::Allowed(_) | Outcome::Audited(_) | Outcome::Redirected(_) => {}
        }
        Ok(function)
    }

    fn by_function(&self, bytes: &[u8]) -> Result<Outcome> {
        let mut packet = Packet::EMPTY;
        let parsed = parse(&Slice(bytes), Link::Ethernet, &mut packet);
        let live = self.dataplane.lookup()?;
        let endpoint = live
            .endpoint(Identity::Device(self.device.0))?
            .context("no endpoint in the kernel")?;
        let verdict: Verdict = decide::pod_out(&live, &endpoint, &packet, parsed);
        live.check()?;
        Ok(Outcome::of(verdict, endpoint.is_audited()))
    }

    /// Verdicts of `pod_out` so far, by outcome.
    fn counts(&self) -> Result<Vec<(Outcome, u64)>> {
        let counters = self.dataplane.counters()?;
        let at_pod_out = counters
            .packets
            .into_iter()
            .filter(|(hook, ..)| *hook == Hook::PodOut);
        Ok(at_pod_out.map(|(_, outcome, count)| (outcome, count)).collect())
    }

    /// Waits until the packet is counted, and that as expected.
    fn wait_for_count(&self, before: &[(Outcome, u64)], expected: Outcome) -> Result<()> {
        // What the pod's own kernel says of its neighbours, now and then.
        let noise = Outcome::Allowed(AllowReason::Neighbour);
        let deadline = Instant::now() + PATIENCE;
        loop {
            for (outcome, count) in self.counts()? {
                let known = before
                    .iter()
                    .find(|(known, _)| *known == outcome)
                    .map_or(0, |(_, count)| *count);
                if count > known && outcome == expected {
                    return Ok(());
                }
                ensure!(
                    count == known || outcome == noise,
                    "on the wire it was {outcome:?}, not {expected:?}"
                );
            }
            ensure!(
                Instant::now() < deadline,
                "the packet was not judged on the wire; expected {expected:?}"
            );
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

fn network(prefix: &Prefix) -> IpNet {
    IpNet::new(prefix.address, prefix.len)
        .expect("a constant prefix")
        .trunc()
}

fn is_outside(dst: IpAddr) -> bool {
    [REGISTERED, UNREGISTERED]
        .concat()
        .into_iter()
        .map(ip)
        .any(|address| address == dst)
}

/// Every reason that a frame can be refused for at `pod_out` is met by the sketches, given enough of them.
#[test]
fn the_sketches_are_of_every_kind() -> Result<()> {
    let mut runner = TestRunner::deterministic();
    let mut met = std::collections::BTreeSet::new();
    for _ in 0..4_000 {
        let bytes = generate(&mut runner, &sketches())?.frame().bytes();
        let mut packet = Packet::EMPTY;
        if let Err(reason) = parse(&Slice(&bytes), Link::Ethernet, &mut packet) {
            met.insert(reason);
        }
    }
    for reason in [
        DropReason::Malformed,
        DropReason::UnknownProtocol,
        DropReason::HeaderChain,
        DropReason::SourceRoute,
        DropReason::ForgedNeighbour,
    ] {
        ensure!(met.contains(&reason), "no sketch is refused for {reason}");
    }
    Ok(())
}
