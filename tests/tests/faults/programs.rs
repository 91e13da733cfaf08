//! Programs that the kernel refuses, and those of others.

use std::{fs, net::IpAddr, os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use sluice_tests::{
    Rig,
    bench::{addresses::UNREGISTERED, ip},
    capture::Seen,
    manifest::Policy,
    sys,
};

use crate::common::{says, still_holds};

/// A version whose programs this kernel does not take: the old ones and their rules stay.
#[test]
fn a_program_that_the_verifier_refuses() -> Result<()> {
    let mut rig = Rig::start(&Policy::default())?;
    rig.agent.kill()?;
    let directory = tempfile::tempdir()?;
    let broken = directory.path().join("sluice");
    fs::write(&broken, with_a_broken_program(rig.agent.binary())?)?;
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755))?;
    rig.agent
        .started_after(&format!("exec {} \"$@\"", broken.display()));
    let output = rig.agent.run_second(None)?;
    still_holds(&rig)?;
    says(&output, &["unknown opcode"])?;
    rig.agent.started_after("");
    rig.agent.restart()?;
    still_holds(&rig)
}

/// The agent, with something that is no instruction at the beginning of a program.
fn with_a_broken_program(agent: &Path) -> Result<Vec<u8>> {
    /// `e_machine` of an object for BPF.
    const BPF: [u8; 2] = 247u16.to_le_bytes();
    const EXECUTABLE: u64 = 0x4;
    let mut bytes = fs::read(agent)?;
    let headers = bytes.windows(20).enumerate();
    let mut objects = headers.filter(|(_, header)| header.starts_with(b"\x7fELF") && header.ends_with(&BPF));
    let (start, _) = objects.next().context("the agent has no programs in it")?;
    let object = bytes.get_mut(start..).context("an object")?;
    let number = |at: usize, len: usize| -> Result<usize> {
        let mut octets = [0; 8];
        octets
            .get_mut(..len)
            .zip(object.get(at..at + len))
            .context("an object that ends early")
            .map(|(to, from)| to.copy_from_slice(from))?;
        Ok(usize::try_from(u64::from_le_bytes(octets))?)
    };
    // Of the file header `e_shoff`, `e_shentsize` and `e_shnum`, of a section's `sh_flags`, `sh_offset` and `sh_size`.
    let (table, len, count) = (number(40, 8)?, number(58, 2)?, number(60, 2)?);
    let mut programs = Vec::new();
    for section in (0..count).map(|index| table + index * len) {
        if number(section + 8, 8)? as u64 & EXECUTABLE != 0 && number(section + 32, 8)? > 0 {
            programs.push(number(section + 24, 8)?);
        }
    }
    ensure!(
        !programs.is_empty(),
        "the agent has an object without programs in it"
    );
    for program in programs {
        *object.get_mut(program).context("a program")? = 0xff;
    }
    Ok(bytes)
}

/// Somebody else's program sends calls elsewhere, before ours have looked at them or after that. The packets are judged
/// by where they go.
#[test]
fn a_program_on_the_cgroup_that_redirects_calls() -> Result<()> {
    let rig = Rig::start(&Policy::default())?;
    let elsewhere = ip(UNREGISTERED[0]);
    let IpAddr::V4(v4) = elsewhere else {
        bail!("{elsewhere} is of the other family")
    };
    let below = rig.client.cgroup().path();
    let above = below.parent().context("a cgroup without a parent")?;
    for cgroup in [below, above] {
        rig.events.clear();
        let _link = sys::bpf::redirect_calls(cgroup, v4)?;
        let called = rig.client.run(|| -> Result<_> {
            let socket = sys::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
            sys::set_send_timeout(&socket, Duration::from_secs(1))?;
            Ok(sys::connect(&socket, rig.gateway.v4(), 7))
        })??;
        ensure!(
            called.is_err(),
            "it was connected, with the program on {}",
            cgroup.display()
        );
        rig.events.wait_for("the refusal", |event| {
            event.verdict == "deny" && event.dst == elsewhere
        })?;
        rig.bench.flush(&rig.outside)?;
        let frames = rig.outside.frames();
        let mut headers = frames.iter().filter_map(Seen::header);
        ensure!(
            !headers.any(|header| header.dst == elsewhere),
            "it got out, with the program on {}",
            cgroup.display()
        );
    }
    Ok(())
}
