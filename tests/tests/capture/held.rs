//! Many calls at once: nothing is pushed out by load, and nothing stays behind.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{HashMap, Map, MapData};
use ebpf::{
    capture::{HandshakeKey, Original},
    rules::ABI,
};
use nix::{
    errno::Errno,
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, socket},
    },
};
use sluice_tests::{
    bench::ip,
    in_guest,
    proxy::{OUTBOUND, original},
};

use crate::common::{Stand, connect, on_one_stand, wait_until};

/// How many calls: fewer where every one of them takes long.
fn many() -> u16 {
    if in_guest() { 500 } else { 2_000 }
}

/// Each of them wants to go somewhere else.
fn destination(number: u16) -> SocketAddr {
    let [high, low] = number.to_be_bytes();
    let ip = if number.is_multiple_of(2) {
        IpAddr::from([198, 18, high, low])
    } else {
        IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, number])
    };
    SocketAddr::new(ip, 1_024 + number)
}

on_one_stand! {
    many_calls by Stand::start:
    every_call_keeps_its_destination_and_leaves_nothing,
    calls_that_are_given_up_leave_nothing,
    refused_calls_leave_nothing,
}

fn every_call_keeps_its_destination_and_leaves_nothing(stand: &Stand) -> Result<()> {
    allow_descriptors()?;
    let listener = stand.proxy.listen(OUTBOUND)?;
    let streams: Vec<TcpStream> = stand.pod.run(|| {
        (0..many())
            .map(|number| connect(destination(number)))
            .collect::<io::Result<_>>()
    })??;
    let by_port: BTreeMap<SocketAddr, SocketAddr> = streams
        .iter()
        .map(|stream| Ok((stream.local_addr()?, stream.peer_addr()?)))
        .collect::<io::Result<_>>()?;
    // All of them are there before any is asked for.
    let mut taken = Vec::new();
    for _ in &streams {
        taken.push(listener.accept()?);
    }
    for stream in &taken {
        let caller = sluice_tests::proxy::canonical(stream.peer_addr()?);
        let wanted = by_port
            .get(&caller)
            .with_context(|| format!("nobody called from {caller}"))?;
        ensure!(original(stream)? == *wanted, "{caller} wanted {wanted}");
    }
    ensure!(
        on_their_way(stand)? == 0,
        "calls that were taken are on their way yet"
    );
    drop((streams, taken));
    ensure!(on_their_way(stand)? == 0);
    Ok(())
}

fn calls_that_are_given_up_leave_nothing(stand: &Stand) -> Result<()> {
    allow_descriptors()?;
    // Nobody takes them, and the queue is short.
    let _full = stand.proxy.run(|| -> Result<OwnedFd> {
        let fd = socket(
            AddressFamily::Inet6,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        bind(
            fd.as_raw_fd(),
            &SockaddrStorage::from(SocketAddr::new(ip("::"), OUTBOUND)),
        )?;
        listen(&fd, Backlog::new(1)?)?;
        Ok(fd)
    })??;
    let calling = stand.pod.run(|| -> Result<Vec<OwnedFd>> {
        (0..many())
            .map(|number| {
                let to = destination(number);
                let family = if to.is_ipv4() {
                    AddressFamily::Inet
                } else {
                    AddressFamily::Inet6
                };
                let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
                let fd = socket(family, SockType::Stream, flags, None)?;
                let answer = nix::sys::socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(to));
                ensure!(answer == Err(Errno::EINPROGRESS), "{to}: {answer:?}");
                Ok(fd)
            })
            .collect()
    })??;
    let waiting = on_their_way(stand)?;
    ensure!(
        waiting >= usize::from(many()) - 10,
        "only {waiting} calls are on their way"
    );
    drop(calling);
    wait_until("the end of all handshakes", || Ok(on_their_way(stand)? == 0))?;
    Ok(())
}

/// Nor do those that nobody takes.
fn refused_calls_leave_nothing(stand: &Stand) -> Result<()> {
    stand.pod.run(|| {
        for number in 0..many() {
            let call = connect(destination(number));
            assert!(call.is_err_and(|error| error.raw_os_error() == Some(libc::ECONNREFUSED)));
        }
    })?;
    wait_until("the end of all handshakes", || Ok(on_their_way(stand)? == 0))?;
    Ok(())
}

/// Entries of the table of handshakes.
fn on_their_way(stand: &Stand) -> Result<usize> {
    let path = stand.agent.bpffs().join(format!("v{ABI}/maps/HANDSHAKES"));
    let map = MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
    let map: HashMap<MapData, [u8; size_of::<HandshakeKey>()], [u8; size_of::<Original>()]> =
        HashMap::try_from(Map::HashMap(map))?;
    Ok(map.keys().count())
}

/// Both sides of every connection are in this process.
fn allow_descriptors() -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = most.min(16_384);
    ensure!(
        wanted > 3 * u64::from(many()),
        "only {most} descriptors may be open (ulimit -Hn)"
    );
    Ok(setrlimit(Resource::RLIMIT_NOFILE, wanted, most)?)
}
