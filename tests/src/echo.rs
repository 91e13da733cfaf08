//! Servers that send back what they get.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::netns::Netns;

const TICK: Duration = Duration::from_millis(50);

/// TCP and UDP servers on some addresses and ports of a namespace, until it is dropped.
#[derive(Debug)]
pub struct Echo {
    ends: Arc<AtomicBool>,
    servers: Vec<JoinHandle<()>>,
}

impl Echo {
    /// Listens on every pair of an address and a port.
    pub fn start(netns: &Netns, addresses: &[IpAddr], ports: &[u16]) -> Result<Self> {
        let ends = Arc::new(AtomicBool::new(false));
        netns.run(|| {
            let mut servers = Vec::new();
            for &address in addresses {
                for &port in ports {
                    let place = SocketAddr::new(address, port);
                    let tcp = TcpListener::bind(place).with_context(|| format!("listening on {place}"))?;
                    let udp = UdpSocket::bind(place).with_context(|| format!("listening on {place}"))?;
                    tcp.set_nonblocking(true)?;
                    udp.set_read_timeout(Some(TICK))?;
                    let ends = [Arc::clone(&ends), Arc::clone(&ends)];
                    let [tcp_ends, udp_ends] = ends;
                    servers.push(thread::spawn(move || serve_tcp(&tcp, &tcp_ends)));
                    servers.push(thread::spawn(move || serve_udp(&udp, &udp_ends)));
                }
            }
            Ok(Self {
                ends: Arc::clone(&ends),
                servers,
            })
        })?
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        // The addresses are free again afterwards.
        for server in self.servers.drain(..) {
            drop(server.join());
        }
    }
}

fn serve_tcp(listener: &TcpListener, ends: &Arc<AtomicBool>) {
    while !ends.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let ends = Arc::clone(ends);
                thread::spawn(move || echo_stream(stream, &ends));
            }
            Err(_) => thread::sleep(Duration::from_millis(2)),
        }
    }
}

fn echo_stream(mut stream: TcpStream, ends: &AtomicBool) {
    let mut buffer = vec![0; 1 << 16];
    if stream.set_nonblocking(false).is_err() || stream.set_read_timeout(Some(TICK)).is_err() {
        return;
    }
    while !ends.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(len) => {
                if stream.write_all(&buffer[..len]).is_err() {
                    return;
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

fn serve_udp(socket: &UdpSocket, ends: &AtomicBool) {
    let mut buffer = [0; 2048];
    while !ends.load(Ordering::Relaxed) {
        if let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            // The peer may have gone.
            let _ = socket.send_to(&buffer[..len], peer);
        }
    }
}
