//! An example with all that it needs around it.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sluice_tests::{
    Agent, Bench, Capture, Event, Events, Frame, Pod,
    bench::{
        addresses::{REGISTERED, UNREGISTERED},
        ip,
    },
    command,
    example::{self, Example, ExamplePod},
    netns::Netns,
    server::{self, Place, Server},
};
use tempfile::TempDir;

/// The internet's own name server.
pub(crate) const WORLD_DNS: [&str; 2] = ["203.0.113.53", "2001:db8:ffff::53"];
/// Name, addresses: the one that the examples register, and one that nobody does.
const HOSTS: [(&str, [&str; 2]); 2] = [("httpbin.org", REGISTERED), ("other.example", UNREGISTERED)];
/// Longer than anything takes that is not refused.
const LONG: Duration = Duration::from_secs(10);

/// Dropped in this order: observer and agent first, network last.
pub(crate) struct Stand {
    events: Events,
    pub(crate) agent: Agent,
    outside: Capture,
    servers: Vec<Server>,
    pods: BTreeMap<String, ExamplePod>,
    example: Example,
    pub(crate) policy: String,
    pub(crate) bench: Bench,
    folder: TempDir,
    envoy: PathBuf,
    pub(crate) certificates: PathBuf,
}

impl Stand {
    /// The example of this name, in a variant if it has some, under its policy, with its pods, and an internet; without proxies.
    pub(crate) fn of(name: &str, variant: &str, arguments: &[&str]) -> Result<Self> {
        let example = Example::open(&Example::folder().join(name), variant)?;
        let folder = TempDir::with_prefix("sluice-example-").context("making a folder for configurations")?;
        let bench = Bench::create()?;
        let pods = example.pods(&bench)?;
        let policy = example.declare(&bench, &pods)?;
        bench.state().write(example::POLICY, &policy)?;
        bench.outside().run(|| {
            let [v4, v6] = WORLD_DNS;
            command::ip(&format!("addr add {v4} dev lo\naddr add {v6} dev lo nodad\n"))
        })??;
        let mut dns = Server::start(
            Place::Netns(bench.outside()),
            "dns-world",
            server::dnsmasq(WORLD_DNS, 53, &HOSTS, None),
            folder.path(),
        )?;
        dns.wait_for(53)?;
        let mut agent = Agent::prepare(&bench)?.with_arguments(arguments);
        agent.restart()?;
        let mut stand = Self {
            events: agent.observe(false)?,
            agent,
            outside: bench.capture_outside()?,
            servers: vec![dns],
            pods,
            example,
            policy,
            bench,
            folder,
            envoy: prepared("SLUICE_ENVOY", "tools/envoy/envoy")?,
            certificates: prepared("SLUICE_CERTIFICATES", "demo/certificates")?,
        };
        stand.start_internet()?;
        Ok(stand)
    }

    /// Puts a policy in force that says something else in one place.
    pub(crate) fn change_policy(&mut self, from: &str, to: &str) -> Result<()> {
        ensure!(
            self.policy.contains(from),
            "the example's policy does not say `{from}`"
        );
        let policy = self.policy.replace(from, to);
        self.bench.state().write(example::POLICY, &policy)?;
        self.agent.settle().map(drop)
    }

    /// One of the example's pods.
    pub(crate) fn pod(&self, name: &str) -> &Pod {
        &self.example_pod(name).pod
    }

    fn example_pod(&self, name: &str) -> &ExamplePod {
        let pod = self.pods.get(name);
        pod.unwrap_or_else(|| panic!("the example has no pod {name}"))
    }

    /// HTTP and HTTPS on every address outside. Its answers say what it saw.
    fn start_internet(&mut self) -> Result<()> {
        let config = include_str!("../../src/bin/sluice-demo/config/internet.yaml")
            .replace("CERTIFICATES", &self.certificates.display().to_string());
        let command = self.envoy_with("internet", &config)?;
        let place = Place::Netns(self.bench.outside());
        let server = Server::start(place, "internet", command, self.folder.path())?;
        self.await_ports(server, &[80, 443])
    }

    /// An Envoy in a pod.
    pub(crate) fn envoy(&mut self, pod: &str, config: &Value, ports: &[u16]) -> Result<()> {
        let command = self.envoy_with(pod, &config.to_string())?;
        let server = Server::start(Place::Pod(self.pod(pod)), pod, command, self.folder.path())?;
        self.await_ports(server, ports)
    }

    /// An Envoy in a pod as its sidecar: in the cgroup that the example names for it.
    pub(crate) fn sidecar(&mut self, pod: &str, config: &Value, ports: &[u16]) -> Result<()> {
        let name = format!("sidecar-of-{pod}");
        let command = self.envoy_with(&name, &config.to_string())?;
        let of = self.example_pod(pod);
        let place = Place::Cgroup(of.pod.netns(), of.proxy()?);
        let server = Server::start(place, &name, command, self.folder.path())?;
        self.await_ports(server, ports)
    }

    /// An Envoy in a pod's network namespace in the place of ztunnel, told to the agent.
    pub(crate) fn in_pod(&mut self, pod: &str, config: &Value, ports: &[u16]) -> Result<()> {
        let name = format!("ztunnel-of-{pod}");
        let cgroup = self.bench.cgroup().child(&name)?;
        let command = self.envoy_with(&name, &config.to_string())?;
        let place = Place::Cgroup(self.pod(pod).netns(), &cgroup);
        let server = Server::start(place, &name, command, self.folder.path())?;
        self.await_ports(server, ports)?;
        let cgroup = cgroup.path().display().to_string();
        let of = self.pod(pod);
        let whose = format!("{}/{}", of.namespace(), of.name());
        let arguments = ["--name", &whose, "--proxy-cgroup", &cgroup];
        self.agent.enroll(of.netns().path(), &arguments).map(drop)
    }

    fn envoy_with(&self, name: &str, config: &str) -> Result<Command> {
        let path = self.folder.path().join(format!("{name}.yaml"));
        fs::write(&path, config).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(server::envoy(&self.envoy, &path))
    }

    fn await_ports(&mut self, mut server: Server, ports: &[u16]) -> Result<()> {
        for port in ports {
            server.wait_for(*port)?;
        }
        self.servers.push(server);
        Ok(())
    }

    /// `curl` in a pod.
    pub(crate) fn curl(&self, pod: &str, arguments: &[&str]) -> Result<Answer> {
        let mut command = curl(arguments);
        Answer::read(self.pod(pod).run(|| command.output())?)
    }

    /// `curl` outside.
    pub(crate) fn curl_outside(&self, arguments: &[&str]) -> Result<Answer> {
        let outside: &Netns = self.bench.outside();
        let mut command = curl(arguments);
        Answer::read(outside.run(|| command.output())?)
    }

    /// The certificates' authority, for `curl --cacert`.
    pub(crate) fn authority(&self) -> String {
        self.certificates.join("ca.crt").display().to_string()
    }

    /// Asserts that calls of a pod are refused at once, as `onDeny: Reject` has it.
    pub(crate) fn calls_are_refused(&self, name: &str) -> Result<()> {
        for address in [REGISTERED, UNREGISTERED].concat().into_iter().map(ip) {
            for port in [80, 443] {
                let to = SocketAddr::new(address, port);
                let called = self.pod(name).run(|| TcpStream::connect_timeout(&to, LONG))?;
                ensure!(is_refused(&called), "{name} called {to}: {called:?}");
            }
        }
        Ok(())
    }

    /// Asserts that nothing whatever of a pod has got outside, after it has tried.
    pub(crate) fn cannot_leave(&self, name: &str) -> Result<()> {
        self.sends_in_vain(name)?;
        let own = self.pod(name).addresses();
        let got_out = self.outside.frames().into_iter().find(|seen| {
            let header = seen.header();
            header.is_some_and(|header| own.contains(&header.src))
        });
        ensure!(
            got_out.is_none(),
            "something of {name} arrived outside: {got_out:?}"
        );
        Ok(())
    }

    /// Asserts that nothing gets out of what a pod begins: not by a socket of UDP, and not by frames of TCP, of UDP and of ICMP
    /// that pass by every hook of a socket.
    pub(crate) fn sends_in_vain(&self, name: &str) -> Result<()> {
        let pod = self.pod(name);
        let mut sent = Vec::new();
        for address in [REGISTERED, UNREGISTERED].concat().into_iter().map(ip) {
            let datagram = pod.run(|| send_datagram(address, 443))?;
            // With `onDeny: Drop` the socket is told nothing, and the outside neither.
            ensure!(
                is_refused(&datagram) || self.policy.contains("onDeny: Drop"),
                "{name} sent a datagram to {address}: {datagram:?}"
            );
            let sender = pod.sender();
            sent.extend([
                sender.syn(address, 80),
                sender.syn(address, 443),
                sender.udp(address, 443),
                sender.echo(address),
            ]);
        }
        for frame in &sent {
            pod.send(frame)?;
        }
        self.bench.flush(&self.outside)?;
        for frame in &sent {
            ensure!(
                !self.outside.has_received(frame.cookie()),
                "what {name} sent to {} arrived outside",
                frame.dst()
            );
        }
        Ok(())
    }

    /// Asserts that a frame of a pod gets out.
    pub(crate) fn gets_out(&self, name: &str, frame: &Frame) -> Result<()> {
        self.pod(name).send(frame)?;
        let arrived = self.outside.wait_for_cookie(frame.cookie());
        ensure!(
            arrived.is_some(),
            "what {name} sent to {} did not arrive",
            frame.dst()
        );
        Ok(())
    }

    /// Forgets what has arrived outside.
    pub(crate) fn forget_outside(&self) {
        self.outside.clear();
    }

    /// Asserts that the agent has reported a refusal.
    pub(crate) fn reported(&self, pod: &str, reason: &str, dst: IpAddr) -> Result<Event> {
        self.events.wait_for(&format!("{pod} to {dst}"), |event| {
            event.verdict == "deny"
                && event.reason == reason
                && event.dst == dst
                && event.pod.as_ref().is_some_and(|who| who.name == pod)
        })
    }

    /// Asserts that every `sluice explain` of the README answers what is written behind it: the verdict, or what becomes of
    /// the call, and why.
    pub(crate) fn readme_holds(&self) -> Result<()> {
        let readme = self.example.readme()?;
        let mut count = 0;
        for line in readme.lines() {
            let Some(rest) = line.strip_prefix("sluice explain ") else {
                continue;
            };
            let (question, expected) = rest
                .split_once('#')
                .with_context(|| format!("what is `{line}`?"))?;
            let words: Vec<&str> = question.split_whitespace().collect();
            let answer = self.explain(&words).with_context(|| line.to_owned())?;
            let expected: Vec<&str> = expected.split_whitespace().collect();
            let told = match expected.first() {
                Some(&("redirect" | "leave" | "refuse")) => {
                    [&answer["capture"]["fate"], &answer["capture"]["reason"]]
                }
                _ => [&answer["verdict"], &answer["reason"]],
            };
            ensure!(
                told.map(Value::as_str).to_vec() == expected.iter().copied().map(Some).collect::<Vec<_>>(),
                "`{line}`: {answer}"
            );
            count += 1;
        }
        ensure!(count >= 4, "the README explains {count} times only");
        Ok(())
    }

    fn explain(&self, question: &[&str]) -> Result<Value> {
        let output = self
            .agent
            .command(&[&["explain"], question, &["-o", "json"]].concat())?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("no JSON: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// What came of a `curl`.
#[derive(Debug)]
pub(crate) struct Answer {
    /// 0 if there was none.
    pub(crate) status: u16,
    /// The headers and the body as they came, or what went wrong.
    pub(crate) text: String,
}

impl Answer {
    fn read(output: io::Result<std::process::Output>) -> Result<Self> {
        let output = output.context("cannot run curl: is it installed?")?;
        let text = String::from_utf8_lossy(&output.stdout);
        let (text, status) = text.rsplit_once('\n').context("curl said nothing")?;
        let status = status.parse().with_context(|| format!("curl said {text}"))?;
        let text = match status {
            0 => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            _ => text.to_owned(),
        };
        Ok(Self { status, text })
    }

    /// The server's account of a request that was answered.
    pub(crate) fn served(&self) -> Result<Value> {
        ensure!(self.status == 200, "not answered: {self:?}");
        let (_, body) = self.text.rsplit_once("\r\n\r\n").unwrap_or_default();
        serde_json::from_str(body.trim()).with_context(|| format!("not one of our servers: {self:?}"))
    }

    /// Asserts that the server was called by this pod, with this version of TLS.
    pub(crate) fn came_from(&self, pod: &Pod, tls: Option<&str>) -> Result<()> {
        let served = self.served()?;
        let from = pod.addresses().map(|address| address.to_string());
        ensure!(
            served["from"]
                .as_str()
                .is_some_and(|seen| from.iter().any(|own| own == seen)),
            "not by {}: {served}",
            pod.name()
        );
        ensure!(served["tls"].as_str() == tls, "not by TLS as {tls:?}: {served}");
        Ok(())
    }
}

fn curl(arguments: &[&str]) -> Command {
    let mut command = Command::new("curl");
    // No file and no proxy of this machine.
    command.args(["-q", "--noproxy", "*", "-sS", "-i", "--max-time", "10"]);
    command.args(["-w", "\n%{http_code}"]).args(arguments);
    command
}

fn send_datagram(address: IpAddr, port: u16) -> io::Result<usize> {
    let any: IpAddr = if address.is_ipv4() {
        ip("0.0.0.0")
    } else {
        ip("::")
    };
    UdpSocket::bind((any, 0))?.send_to(b"hello", (address, port))
}

fn is_refused<T>(result: &io::Result<T>) -> bool {
    result
        .as_ref()
        .is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
}

/// Something that `cargo xtask test` has prepared.
fn prepared(variable: &str, place: &str) -> Result<PathBuf> {
    let usual = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target")
        .join(place);
    let path = std::env::var_os(variable).map_or(usual, PathBuf::from);
    ensure!(
        path.exists(),
        "there is no {}: `cargo xtask test --no-vm examples_` prepares it, or name one with {variable}",
        path.display()
    );
    Ok(path)
}
