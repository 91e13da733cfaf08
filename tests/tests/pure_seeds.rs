//! Seeds for the fuzzers in `fuzz/corpus`: one frame of every shape.

use std::{fs, net::IpAddr, path::Path};

use anyhow::{Context as _, Result, ensure};
use ebpf::packet::{Link, Packet, Slice, parse};
use sluice_tests::{
    bench::ip,
    frame::{Frame, Sender, Transport, arp},
};

const SENDER: Sender = Sender {
    mac: [2, 0, 0, 0, 10, 1],
    node_mac: [2, 0, 0, 0, 10, 2],
    v4: IpAddr::V4(std::net::Ipv4Addr::new(10, 244, 0, 10)),
    v6: IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 10)),
};

fn corpus() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

fn seeds() -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    for (family, dst) in [
        ("v4", ip("10.244.0.11")),
        ("v6", ip("fd00:10:244::b")),
        ("v4-out", ip("203.0.113.10")),
        ("v6-out", ip("2001:db8:ffff::10")),
    ] {
        let v4 = dst.is_ipv4();
        let quoted = SENDER.udp(SENDER.own_for(dst), 53).from(dst).packet();
        let error = Transport::Icmp {
            kind: if v4 { 3 } else { 1 },
            code: 1,
            body: [&[0; 4][..], &quoted].concat(),
        };
        let [first, later] = SENDER.udp(dst, 53).split();
        let frames: Vec<(&str, Frame)> = vec![
            ("tcp", SENDER.syn(dst, 443)),
            ("udp", SENDER.udp(dst, 53)),
            ("sctp", SENDER.sctp(dst, 5000)),
            ("echo", SENDER.echo(dst)),
            ("error", SENDER.frame(dst, error)),
            ("gre", SENDER.other(dst, 47, &[0, 0, 8, 0])),
            ("vlan", SENDER.udp(dst, 53).tagged(0x88a8, 1).tagged(0x8100, 2)),
            ("first", first),
            ("later", later),
            (
                "odd",
                if v4 {
                    SENDER.udp(dst, 53).options(&[1, 148, 4, 0, 0])
                } else {
                    SENDER.udp(dst, 53).extension(0, &[5, 2]).extension(60, &[1, 12])
                },
            ),
        ];
        for (shape, frame) in frames {
            seeds.push((format!("{shape}-{family}"), frame.bytes()));
        }
    }
    let (request, _) = arp(&SENDER, false, SENDER.mac, [10, 244, 0, 10], [169, 254, 1, 1]);
    seeds.push(("arp".to_owned(), request));
    let mut body = vec![0; 4];
    body.extend([0xfd, 0, 0, 0x10, 2, 0x44, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10]);
    let advertisement = Transport::Icmp {
        kind: 136,
        code: 0,
        body,
    };
    seeds.push((
        "neighbour".to_owned(),
        SENDER.frame(ip("fe80::1"), advertisement).ttl(255).bytes(),
    ));
    seeds
}

#[test]
fn seeds_are_there_and_are_read() -> Result<()> {
    for target in ["frame", "decision"] {
        let folder = corpus().join(target);
        let entries = fs::read_dir(&folder).with_context(|| format!("reading {}", folder.display()))?;
        let mut count = 0;
        for entry in entries {
            let bytes = fs::read(entry?.path())?;
            let mut packet = Packet::EMPTY;
            // Whatever the verdict: what matters is that it is one.
            let _ = parse(&Slice(&bytes), Link::Ethernet, &mut packet);
            count += 1;
        }
        ensure!(
            count >= seeds().len(),
            "{} has {count} seeds only",
            folder.display()
        );
    }
    Ok(())
}

#[test]
#[ignore = "writes the seeds"]
fn write() -> Result<()> {
    for target in ["frame", "decision"] {
        let folder = corpus().join(target);
        fs::create_dir_all(&folder)?;
        for (name, bytes) in seeds() {
            fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}
