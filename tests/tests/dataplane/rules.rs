//! Rules: in the kernel as they were wanted, and in one step.

use std::{
    io::ErrorKind,
    net::{IpAddr, TcpStream, UdpSocket},
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use ebpf::{
    Addr, AllowReason, DropReason, Hook,
    decide::Lookup as _,
    event::Outcome,
    packet::Protocol,
    rules::{Endpoint, Enforcement, GroupSet, Identity, capacity},
};
use futures_util::StreamExt as _;
use sluice::{
    dataplane::{Dataplane, Error},
    desired::Desired,
};
use sluice_tests::{
    PATIENCE,
    bench::{
        addresses::{REGISTERED, UNREGISTERED},
        ip,
    },
    sys::netns_cookie,
};

use crate::rig::{POLICY, Rig, modes, sync};

#[test]
fn rules_hold_on_the_wire_in_a_replay_and_on_the_host() -> Result<()> {
    for &mode in modes() {
        let rig = Rig::create()?;
        rig.on_node(|| {
            let mut dataplane = Dataplane::open_as(&rig.options(), mode)?;
            let devices = rig.devices()?;
            sync(&mut dataplane, &devices)?;
            ensure!(
                rig.arrives(UNREGISTERED[0], 53)?,
                "nothing is enforced without rules"
            );

            let desired = rig.desired(&devices[0], None);
            let applied = dataplane.apply(&desired)?.context("new rules")?;
            ensure!(applied.generation.0 == 1 && dataplane.generation().0 == 1);
            ensure!(dataplane.apply(&desired)?.is_none(), "nothing has changed");
            dataplane.settle()?;
            ensure!(dataplane.apply(&desired)?.is_none(), "nothing has changed");

            for (addresses, port, outcome) in [
                (REGISTERED, 53, Outcome::Allowed(AllowReason::Rule)),
                (REGISTERED, 54, Outcome::Denied(DropReason::Port)),
                (UNREGISTERED, 53, Outcome::Denied(DropReason::NotGateway)),
            ] {
                for address in addresses {
                    let frame = rig.pod.sender().udp(ip(address), port);
                    let replayed = dataplane.replay(devices[0].index, &frame.bytes())?;
                    ensure!(
                        replayed == (outcome, applied.generation),
                        "{address}:{port}: {replayed:?}"
                    );
                    ensure!(
                        rig.arrives(address, port)? == matches!(outcome, Outcome::Allowed(_)),
                        "{address}:{port}"
                    );
                }
            }

            let live = dataplane.lookup()?;
            ensure!(live.generation() == applied.generation);
            ensure!(live.groups(Addr::from(ip(REGISTERED[0]))) == GroupSet::numbered(1));
            ensure!(live.groups(Addr::from(ip("10.1.2.3"))) == GroupSet::INTERNAL);
            ensure!(live.groups(Addr::from(ip(UNREGISTERED[1]))) == GroupSet::EXTERNAL);
            ensure!(live.permits(POLICY, GroupSet::numbered(1), Protocol::UDP, 53));
            ensure!(!live.permits(POLICY, GroupSet::numbered(1), Protocol::TCP, 53));
            ensure!(live.endpoint(Identity::Device(devices[0].index.0))?.is_some());
            ensure!(live.endpoint(Identity::Device(0))?.is_none());
            live.check()?;

            let denied = dataplane
                .counters()?
                .packets
                .into_iter()
                .find(|(hook, outcome, _)| {
                    (*hook, *outcome) == (Hook::PodOut, Outcome::Denied(DropReason::NotGateway))
                });
            ensure!(
                denied.is_some_and(|(_, _, packets)| packets == 2),
                "a replay does not count: {denied:?}"
            );
            let pod_out = dataplane
                .programs()?
                .into_iter()
                .find(|program| program.name == "pod_out");
            ensure!(pod_out.is_some_and(|program| program.devices == [devices[0].index]));
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn an_address_of_one_family_is_not_found_under_all_of_the_other() -> Result<()> {
    let rig = Rig::create()?;
    rig.on_node(|| {
        let mut dataplane = Dataplane::open(&rig.options())?;
        let any_v6 = "::/0".parse()?;
        for generation in 1..4 {
            let desired = Desired {
                destinations: [(any_v6, GroupSet::numbered(generation))].into(),
                ..Desired::default()
            };
            dataplane.apply(&desired)?;
            let live = dataplane.lookup()?;
            ensure!(live.groups(Addr::from(ip(REGISTERED[1]))) == GroupSet::numbered(generation));
            ensure!(live.groups(Addr::from(ip(REGISTERED[0]))) == GroupSet::EXTERNAL);
        }
        Ok(())
    })
}

#[test]
fn a_change_of_the_header_alone_is_a_generation() -> Result<()> {
    let rig = Rig::create()?;
    rig.on_node(|| {
        let mut dataplane = Dataplane::open(&rig.options())?;
        let devices = rig.devices()?;
        sync(&mut dataplane, &devices)?;
        let mut desired = rig.desired(&devices[0], None);
        desired.endpoints.clear();
        let mut generation = 0;
        for settle in [false, true] {
            for enforcement in [
                Enforcement::Enforce,
                Enforcement::Audit,
                Enforcement::Off,
                Enforcement::Enforce,
            ] {
                let is_new = generation == 0 || desired.enforcement != enforcement;
                desired.enforcement = enforcement;
                generation += u64::from(is_new);
                ensure!(dataplane.apply(&desired)?.is_some() == is_new);
                ensure!(dataplane.lookup()?.generation().0 == generation);
                ensure!(rig.arrives(REGISTERED[0], 53)? == (enforcement != Enforcement::Enforce));
                if settle {
                    dataplane.settle()?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn a_full_map_leaves_the_active_rules_as_they_were() -> Result<()> {
    let rig = Rig::create()?;
    rig.on_node(|| {
        let mut dataplane = Dataplane::open(&rig.options())?;
        let devices = rig.devices()?;
        sync(&mut dataplane, &devices)?;
        let good = rig.desired(&devices[0], None);
        dataplane.apply(&good)?;
        let endpoint = Endpoint::new(1, [0; 6], None, None);
        let mut excess = good.clone();
        excess
            .endpoints
            .extend((0..u64::from(capacity::ENDPOINTS)).map(|id| (Identity::Netns(id), endpoint)));
        excess.rules.clear();
        match dataplane.apply(&excess) {
            Err(Error::Full {
                map: "ENDPOINTS",
                capacity,
            }) => ensure!(capacity == capacity::ENDPOINTS),
            other => bail!("{other:?}"),
        }
        ensure!(dataplane.generation().0 == 1 && dataplane.lookup()?.generation().0 == 1);
        ensure!(rig.arrives(REGISTERED[0], 53)? && !rig.arrives(UNREGISTERED[0], 53)?);
        ensure!(
            dataplane.apply(&good)?.is_none(),
            "those are the active ones still"
        );
        excess.endpoints = good.endpoints;
        ensure!(
            dataplane
                .apply(&excess)?
                .is_some_and(|applied| applied.generation.0 == 2)
        );
        ensure!(!rig.arrives(REGISTERED[0], 53)?, "the permission is gone");
        Ok(())
    })
}

#[test]
fn calls_are_refused_in_the_cgroup_and_events_tell_of_it() -> Result<()> {
    let rig = Rig::create()?;
    let cookie = rig
        .pod
        .netns()
        .run(|| netns_cookie(&UdpSocket::bind(("0.0.0.0", 0))?))??;
    rig.on_node(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let _inside = runtime.enter();
        let mut dataplane = Dataplane::open(&rig.options())?;
        let devices = rig.devices()?;
        sync(&mut dataplane, &devices)?;
        dataplane.apply(&rig.desired(&devices[0], Some(cookie)))?;
        let mut events = dataplane.events()?;
        for address in UNREGISTERED {
            let call = || TcpStream::connect_timeout(&(ip(address), 80).into(), PATIENCE).map(drop);
            let refused = rig.pod.run(call)?.expect_err("it is refused");
            ensure!(refused.kind() == ErrorKind::PermissionDenied, "{refused}");
            let event = runtime
                .block_on(async { tokio::time::timeout(PATIENCE, events.next()).await })?
                .context("the stream has ended")?;
            ensure!(event.about().outcome() == Some(Outcome::Denied(DropReason::NotGateway)));
            ensure!(
                IpAddr::from(event.about().tuple().dst) == ip(address) && event.about().tuple().dport == 80
            );
            ensure!(
                event
                    .about()
                    .subject()
                    .is_some_and(|subject| subject.identity == Identity::Netns(cookie))
            );
        }
        // Nothing is told of what is allowed until somebody wants to know.
        ensure!(rig.arrives(REGISTERED[0], 53)?);
        dataplane.set_observe(true)?;
        ensure!(rig.arrives(REGISTERED[1], 53)?);
        let event = runtime
            .block_on(async { tokio::time::timeout(PATIENCE, events.next()).await })?
            .context("the stream has ended")?;
        ensure!(
            IpAddr::from(event.about().tuple().dst) == ip(REGISTERED[1]),
            "{event:?}"
        );
        ensure!(
            event.about().outcome() == Some(Outcome::Allowed(AllowReason::Rule)),
            "{event:?}"
        );
        Ok(())
    })
}

#[test]
fn one_change_among_a_hundred_thousand_prefixes_writes_one_entry() -> Result<()> {
    const PREFIXES: u32 = 100_000;
    let rig = Rig::create()?;
    rig.on_node(|| {
        let mut dataplane = Dataplane::open(&rig.options())?;
        let devices = rig.devices()?;
        let started = Instant::now();
        ensure!(dataplane.attach(&devices[0]).is_empty());
        println!("attached to a new device in {:?}", started.elapsed());
        let mut desired = rig.desired(&devices[0], None);
        for number in 0..PREFIXES {
            let address = IpAddr::from((0x2000_0000 + number * 64).to_be_bytes());
            let prefix = format!("{address}/{}", if number % 2 == 0 { 32 } else { 26 });
            desired
                .destinations
                .insert(prefix.parse()?, GroupSet::numbered(1));
        }
        let applied = dataplane.apply(&desired)?.context("new rules")?;
        println!("{} changes in {:?}", applied.changes, applied.duration);
        let started = Instant::now();
        dataplane.settle()?;
        println!("settled in {:?}", started.elapsed());
        for number in 0..8u8 {
            desired.destinations.insert(
                IpAddr::from([203, 0, 113, 100 + number]).into(),
                GroupSet::numbered(1),
            );
            let applied = dataplane.apply(&desired)?.context("new rules")?;
            println!("{} change in {:?}", applied.changes, applied.duration);
            ensure!(applied.changes == 1);
            dataplane.settle()?;
        }
        for map in dataplane.maps() {
            println!("{map:?}");
        }
        Ok(())
    })
}
