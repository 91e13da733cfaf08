//! Packets larger than the wire: the kernel cuts them up behind the programs.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, TcpListener},
    thread,
};

use anyhow::{Context as _, Result};
use sluice_tests::{
    Rig,
    bench::addresses::{REGISTERED, UNREGISTERED},
    frame::{Tcp, Transport},
    netns::Netns,
    sys,
};

use crate::common::{LONG, both, connect, silent};

const STREAM: usize = 8 << 20;
/// Larger than any packet on a wire of this bench.
const LARGE: usize = 4_000;

/// Sends a stream from a pod to a server that counts it.
fn stream(from: impl FnOnce(IpAddr) -> Result<()>, to: &Netns, address: IpAddr) -> Result<usize> {
    let listener = to.run(|| TcpListener::bind((address, 80)))??;
    let server = thread::spawn(move || -> io::Result<usize> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(LONG))?;
        let mut buffer = vec![0; 1 << 16];
        let mut total = 0;
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(total),
                len => total += len,
            }
        }
    });
    from(address)?;
    let total = server
        .join()
        .map_err(|_| anyhow::anyhow!("the server panicked"))?;
    total.context("receiving a stream")
}

fn write(address: IpAddr) -> io::Result<()> {
    let mut stream = connect(address, 80, LONG)?;
    stream.set_write_timeout(Some(LONG))?;
    let chunk = vec![7; 1 << 16];
    for _ in 0..STREAM / chunk.len() {
        stream.write_all(&chunk)?;
    }
    Ok(())
}

#[test]
fn large_streams_pass_where_small_packets_do() -> Result<()> {
    let rig = Rig::start(&silent())?;
    let inside = rig.peer.capture()?;
    for address in rig.peer.addresses() {
        let sent = stream(|to| Ok(rig.client.run(|| write(to))??), rig.peer.netns(), address)?;
        assert_eq!(sent, STREAM, "to {address}");
        let large = inside.frames().iter().any(|seen| seen.len > LARGE);
        assert!(
            large,
            "no packet was larger than the wire, so this proves nothing"
        );
        inside.clear();
    }
    for address in both(REGISTERED) {
        rig.outside.clear();
        let sent = stream(
            |to| Ok(rig.gateway.run(|| write(to))??),
            rig.bench.outside(),
            address,
        )?;
        assert_eq!(sent, STREAM, "to {address}");
        let large = rig.outside.frames().iter().any(|seen| seen.len > LARGE);
        assert!(
            large,
            "no packet was larger than the wire, so this proves nothing"
        );
    }
    Ok(())
}

/// `struct virtio_net_hdr`, in the machine's order.
fn virtio_header(header_len: u16, checksum_start: u16, v4: bool) -> Vec<u8> {
    const NEEDS_CHECKSUM: u8 = 1;
    const TCP_V4: u8 = 1;
    const TCP_V6: u8 = 4;
    const SEGMENT: u16 = 1400;
    const TCP_CHECKSUM_OFFSET: u16 = 16;
    let mut header = vec![NEEDS_CHECKSUM, if v4 { TCP_V4 } else { TCP_V6 }];
    for field in [header_len, SEGMENT, checksum_start, TCP_CHECKSUM_OFFSET] {
        header.extend(field.to_ne_bytes());
    }
    header
}

#[test]
fn a_large_packet_is_refused_as_a_whole() -> Result<()> {
    const PACKET_VNET_HDR: i32 = 15;
    let rig = Rig::start(&silent())?;
    for dst in both(UNREGISTERED) {
        let frame = rig
            .client
            .sender()
            .frame(
                dst,
                Transport::Tcp(Tcp {
                    port: 443,
                    flags: Tcp::ACK,
                    seq: 1,
                    ack: 1,
                }),
            )
            .cookies(2_500);
        let bytes = frame.bytes();
        let l4 = if dst.is_ipv4() { 34 } else { 54 };
        let message = [&virtio_header(l4 + 20, l4, dst.is_ipv4())[..], &bytes].concat();
        rig.events.clear();
        rig.client.run(|| {
            let socket = sys::packet_socket("eth0", false)?;
            sys::set_option(&socket, libc::SOL_PACKET, PACKET_VNET_HDR, 1_i32)?;
            sys::send(&socket, &message)
        })??;
        let event = rig.verdict_on("pod_out", &frame)?;
        assert_eq!(
            (event.verdict.as_str(), event.reason.as_str()),
            ("deny", "not-gateway")
        );
        assert!(
            usize::try_from(event.len)? > LARGE,
            "it was cut up before: {event:?}"
        );
        rig.did_not_arrive(frame.cookie())?;
    }
    Ok(())
}
