//! A proxy calls the application in its client's name, and the answers find back to it.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use sluice::inpod::{Keeper, Programs};
use sluice_tests::{PATIENCE, sys};

use crate::rig::{Pod, Rig, modes, programs, want};

/// The application, and the client far away in whose name it is called.
const ADDRESSES: [(&str, &str); 2] = [("10.0.0.2", "203.0.113.7"), ("fd00::2", "2001:db8:9::7")];
const PORT: u16 = 8080;
const NOBODY: u16 = 8081;

#[test]
fn answers_to_somebody_else_s_name_find_back() -> Result<()> {
    for &mode in modes() {
        let (rig, pod) = (Rig::create(mode)?, Pod::create()?);
        pod.inside(|| {
            for (application, client) in ADDRESSES {
                let error = call(application, PORT, client, Duration::from_millis(300))
                    .expect_err("there is no way back yet");
                ensure!(error.kind() == ErrorKind::WouldBlock, "{error}");
            }
            Ok(())
        })?;
        let programs = Programs {
            // In the agent only what the proxy sends is marked.
            capture_lo: sys::bpf::marking_classifier("capture_lo", 0x111)?,
            ..programs()?
        };
        let keeper = Keeper::start(mode, rig.links(), &rig.records(), programs)?;
        want(&keeper, pod.alone())?;
        // What comes over `lo` has been routed when it was sent: the kernel does not ask again where its source is.
        for (strict, mark) in [("0", "0"), ("1", "0"), ("1", "1")] {
            pod.set("ipv4.conf.all.rp_filter", strict)?;
            pod.set("ipv4.conf.lo.rp_filter", strict)?;
            pod.set("ipv4.conf.all.src_valid_mark", mark)?;
            pod.inside(way_back)
                .with_context(|| format!("{mode:?}, rp_filter {strict}, src_valid_mark {mark}"))?;
        }
    }
    Ok(())
}

fn way_back() -> Result<()> {
    for (application, client) in ADDRESSES {
        let listener = TcpListener::bind((application.parse::<IpAddr>()?, PORT))?;
        let answer = thread::spawn(move || -> std::io::Result<IpAddr> {
            let (mut stream, from) = listener.accept()?;
            stream.write_all(b"hello")?;
            Ok(from.ip())
        });
        let mut stream = call(application, PORT, client, PATIENCE).context("calling")?;
        let mut hello = String::new();
        stream
            .read_to_string(&mut hello)
            .context("waiting for the answer")?;
        let from = answer.join().ok().context("the application panicked")??;
        ensure!(
            hello == "hello" && from == client.parse::<IpAddr>()?,
            "{hello} to {from}"
        );
        let error = call(application, NOBODY, client, PATIENCE).expect_err("nobody listens");
        ensure!(error.kind() == ErrorKind::ConnectionRefused, "{error}");
    }
    Ok(())
}

/// Calls the application from an address that need not be here.
pub(crate) fn call(
    application: &str,
    port: u16,
    client: &str,
    patience: Duration,
) -> std::io::Result<TcpStream> {
    let parse = |text: &str| text.parse::<IpAddr>().map_err(std::io::Error::other);
    let (application, client) = (parse(application)?, parse(client)?);
    let (family, level, transparent) = match client {
        IpAddr::V4(_) => (libc::AF_INET, libc::SOL_IP, libc::IP_TRANSPARENT),
        IpAddr::V6(_) => (libc::AF_INET6, libc::SOL_IPV6, libc::IPV6_TRANSPARENT),
    };
    let socket = sys::socket(family, libc::SOCK_STREAM, 0)?;
    sys::set_option(&socket, level, transparent, 1i32)?;
    sys::set_send_timeout(&socket, patience)?;
    sys::set_receive_timeout(&socket, patience)?;
    sys::bind(&socket, client, 0)?;
    match sys::connect(&socket, application, port) {
        // That is what a call that takes too long is called.
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Err(ErrorKind::WouldBlock.into()),
        Err(error) => Err(error),
        Ok(()) => Ok(socket.into()),
    }
}
