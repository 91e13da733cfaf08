//! The bench that most tests stand on: a client, a peer and a gateway under one policy, an observed agent, a
//! capture outside.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};

use crate::{
    Agent, Bench, Capture, Cookie, Event, Events, Frame, Pod, bench::addresses::REGISTERED, manifest::Policy,
};

/// Ports that are registered for [`REGISTERED`].
pub const REGISTERED_PORTS: [(u16, &str); 2] = [(80, "HTTP"), (443, "TLS")];

/// Everything started and ready. Fields are dropped in this order.
#[derive(Debug)]
pub struct Rig {
    /// Verdicts, those that let something through included.
    pub events: Events,
    /// What arrives outside.
    pub outside: Capture,
    /// The agent.
    pub agent: Agent,
    /// `app/client`: a subject.
    pub client: Pod,
    /// `app/peer`: another one.
    pub peer: Pod,
    /// `egress/gateway`: the way out.
    pub gateway: Pod,
    /// What they stand on.
    pub bench: Bench,
}

impl Rig {
    /// Under this policy.
    pub fn start(policy: &Policy) -> Result<Self> {
        Self::start_with(policy, |_| Ok(()))
    }

    /// Under this policy, with something more in place before the agent starts.
    pub fn start_with(policy: &Policy, more: impl FnOnce(&Bench) -> Result<()>) -> Result<Self> {
        let bench = Bench::create()?;
        let client = bench.pod("app", "client")?;
        let peer = bench.pod("app", "peer")?;
        let gateway = bench.pod("egress", "gateway")?;
        for pod in [&client, &peer, &gateway] {
            bench.state().declare(pod)?;
        }
        bench
            .state()
            .register("registered", &REGISTERED, &REGISTERED_PORTS)?;
        bench.state().policy(policy)?;
        more(&bench)?;
        let agent = Agent::start(&bench)?;
        let outside = bench.capture_outside()?;
        let events = agent.observe(true)?;
        let rig = Self {
            events,
            outside,
            agent,
            client,
            peer,
            gateway,
            bench,
        };
        rig.wait_for_observer()?;
        Ok(rig)
    }

    /// Sends until a verdict is seen: the observer is there.
    fn wait_for_observer(&self) -> Result<()> {
        for _ in 0..200 {
            self.client.send(&self.client.sender().echo(self.peer.v4()))?;
            std::thread::sleep(std::time::Duration::from_millis(10));
            if !self.events.all().is_empty() {
                self.events.clear();
                return Ok(());
            }
        }
        anyhow::bail!("`sluice observe --follow` shows nothing of an allowed packet")
    }

    /// Asserts that `frame`, sent by `pod`, is refused at `pod_out` for `reason` and does not arrive.
    pub fn refused(&self, pod: &Pod, frame: &Frame, reason: &str) -> Result<Event> {
        self.refused_at("pod_out", pod, frame, reason)
    }

    /// The same at any hook.
    pub fn refused_at(&self, hook: &str, pod: &Pod, frame: &Frame, reason: &str) -> Result<Event> {
        let event = self.judged(hook, pod, frame)?;
        ensure!(
            event.verdict == "deny" && event.reason == reason,
            "{} -> {}: expected a refusal for {reason}, got {event:?}",
            frame.src(),
            frame.dst(),
        );
        self.did_not_arrive(frame.cookie())?;
        Ok(event)
    }

    /// Asserts that `frame`, sent by `pod`, is let through for `reason` and arrives outside.
    pub fn passed(&self, pod: &Pod, frame: &Frame, reason: &str) -> Result<Event> {
        self.passed_to(&self.outside, pod, frame, reason)
    }

    /// Asserts that `frame`, sent by `pod`, is let through for `reason` and arrives where `capture` is.
    pub fn passed_to(&self, capture: &Capture, pod: &Pod, frame: &Frame, reason: &str) -> Result<Event> {
        let event = self.judged("pod_out", pod, frame)?;
        ensure!(
            event.verdict == "allow" && event.reason == reason,
            "{} -> {}: expected to pass for {reason}, got {event:?}",
            frame.src(),
            frame.dst(),
        );
        capture.wait_for_cookie(frame.cookie()).with_context(|| {
            format!(
                "{} -> {}: passed ({reason}), but did not arrive",
                frame.src(),
                frame.dst()
            )
        })?;
        Ok(event)
    }

    /// Sends `frame` and returns the verdict on it at `hook`.
    pub fn judged(&self, hook: &str, pod: &Pod, frame: &Frame) -> Result<Event> {
        self.events.clear();
        pod.send(frame)?;
        self.verdict_on(hook, frame)
    }

    /// Waits for the verdict on a frame: by addresses and, where it can be told, by the source port.
    pub fn verdict_on(&self, hook: &str, frame: &Frame) -> Result<Event> {
        let what = format!("{} -> {} at {hook}", frame.src(), frame.dst());
        let same = |event: &Event| {
            event.hook == hook
                && addresses_agree(event, frame.src(), frame.dst())
                && (event.sport == 0 || event.sport == frame.source_port())
                && event.len > 0
        };
        self.events.wait_for(&what, same)
    }

    /// Sends octets and waits for the verdict at `pod_out` on a frame between these addresses.
    pub fn judged_bytes(&self, pod: &Pod, bytes: &[u8], src: IpAddr, dst: IpAddr) -> Result<Event> {
        self.events.clear();
        pod.send_bytes(bytes)?;
        self.events.wait_for(&format!("{src} -> {dst}"), |event| {
            event.hook == "pod_out" && event.len > 0 && addresses_agree(event, src, dst)
        })
    }

    /// Asserts that no frame with this cookie has arrived outside, once all that was sent has.
    pub fn did_not_arrive(&self, cookie: Cookie) -> Result<()> {
        self.bench.flush(&self.outside)?;
        ensure!(
            !self.outside.has_received(cookie),
            "a refused packet arrived outside"
        );
        Ok(())
    }
}

/// A frame that was refused before its addresses were read has none in its verdict.
fn addresses_agree(event: &Event, src: IpAddr, dst: IpAddr) -> bool {
    (event.src == src && event.dst == dst) || (event.src.is_unspecified() && event.dst.is_unspecified())
}
