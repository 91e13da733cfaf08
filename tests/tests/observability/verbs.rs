//! `sluice policy` and `sluice bug-report`, on a live agent and without one.

use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use sluice_tests::{
    Rig,
    bench::{
        addresses::{REGISTERED, UNREGISTERED},
        ip,
    },
    manifest::Policy,
};

#[test]
fn expectations_are_tried_on_the_live_agent_and_on_a_directory() -> Result<()> {
    let rig = Rig::start(&Policy::default())?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("expectations.yaml");
    let (inside, outside) = (REGISTERED[0], UNREGISTERED[0]);
    let right = format!(
        "expectations:\n\
         - {{pod: app/client, to: {outside}:443, expect: deny, reason: not-gateway}}\n\
         - {{pod: egress/gateway, to: {inside}:443, expect: allow}}\n\
         - {{pod: egress/gateway, to: {outside}:443, expect: deny, reason: not-registered}}\n"
    );
    let wrong = format!(
        "{right}- {{pod: app/client, to: {inside}:443, expect: allow}}\n- {{pod: app/nobody, to: {inside}:443, expect: deny}}\n"
    );
    let state = rig.bench.state().path().display().to_string();
    let path = file.display().to_string();
    for place in [&[][..], &["--state", &state]] {
        for (text, code, met) in [(&right, 0, 3), (&wrong, 1, 3)] {
            fs::write(&file, text)?;
            let output = rig
                .agent
                .command(&[&["policy", "test", &path, "-o", "json"], place].concat())?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.code() == Some(code), "{place:?}: {said}");
            let outcomes: Vec<Value> = serde_json::from_slice(&output.stdout)?;
            let found = outcomes.iter().filter(|outcome| outcome["met"] == true).count();
            ensure!(found == met, "{place:?}: {outcomes:#?}");
        }
    }
    let table = rig.agent.command(&["policy", "test", &path])?;
    let table = String::from_utf8(table.stdout)?;
    ensure!(
        table.contains("FAILED") && table.contains("deny not-gateway"),
        "{table}"
    );
    fs::write(&file, "expectations: [{pod: app/client, destination: x}]")?;
    let output = rig.agent.command(&["policy", "test", &path])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(1) && said.contains("expectations.yaml"),
        "{said}"
    );
    Ok(())
}

#[test]
fn a_policy_is_made_of_what_an_audit_saw() -> Result<()> {
    let rig = Rig::start(&Policy {
        mode: "Audit",
        ..Policy::default()
    })?;
    let frame = rig.client.sender().udp(ip(UNREGISTERED[0]), 123);
    rig.client.send(&frame)?;
    rig.verdict_on("pod_out", &frame)?;
    let suggest = |more: &[&str]| -> Result<String> {
        let output = rig.agent.command(&[&["policy", "suggest"], more].concat())?;
        ensure!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    };
    let live = suggest(&[])?;
    for wanted in [
        "kind: EgressPolicy",
        "198.51.100.20/32",
        "{protocol: UDP, port: 123}",
        "app: \"client\"",
    ] {
        ensure!(live.contains(wanted), "no {wanted} in {live}");
    }
    let folder = tempfile::tempdir()?;
    let events = folder.path().join("events.json");
    fs::write(&events, rig.agent.command(&["observe", "-o", "json"])?.stdout)?;
    let from_file = suggest(&["--events", &events.display().to_string()])?;
    ensure!(from_file == live, "{from_file}\nis not\n{live}");
    Ok(())
}

#[test]
fn a_report_has_what_is_needed_and_no_secret() -> Result<()> {
    let rig = Rig::start(&Policy::default())?;
    let frame = rig.client.sender().udp(ip(UNREGISTERED[0]), 123);
    rig.client.send(&frame)?;
    rig.verdict_on("pod_out", &frame)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("report.tar.gz");
    let log = folder.path().join("log");
    fs::write(&log, "INFO started\nDEBUG token=sesame\n")?;
    let (path, log) = (file.display().to_string(), log.display().to_string());
    let arguments = ["bug-report", "--file", &path, "--log", &log];
    let output = rig.agent.command(&arguments)?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(
        fs::metadata(&file)?.permissions().mode() & 0o777 == 0o600,
        "others may read it"
    );
    let unpacked = Command::new("tar")
        .arg("-xzf")
        .arg(&file)
        .arg("-C")
        .arg(folder.path())
        .output()?;
    ensure!(
        unpacked.status.success(),
        "{}",
        String::from_utf8_lossy(&unpacked.stderr)
    );
    let read = |name: &str| {
        fs::read_to_string(folder.path().join("sluice-bug-report").join(name))
            .with_context(|| name.to_owned())
    };
    ensure!(read("log")?.contains("started") && !read("log")?.contains("sesame"));
    let status: Value = serde_json::from_str(&read("agent/status.json")?)?;
    ensure!(status["ready"] == true, "{status}");
    let programs: Vec<Value> = serde_json::from_str(&read("agent/programs.json")?)?;
    let verified = programs
        .iter()
        .filter(|program| program["verified_instructions"].as_u64() > Some(0));
    ensure!(verified.count() > 10, "{programs:?}");
    let verdicts: Vec<Value> = serde_json::from_str(&read("agent/verdicts.json")?)?;
    ensure!(
        verdicts.iter().any(|verdict| verdict["reason"] == "not-gateway"),
        "{verdicts:?}"
    );
    for name in [
        "agent/maps.json",
        "agent/endpoints.json",
        "agent/rules.json",
        "check.json",
        "version",
        "node/proc/version",
    ] {
        ensure!(read(name)?.len() > 1, "{name} is empty");
    }
    let again = rig.agent.command(&arguments)?;
    ensure!(!again.status.success(), "a file that was there is overwritten");
    Ok(())
}
