//! The plugin in the runtime's configuration.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use sluice_tests::PATIENCE;

use crate::common::{Stand, text};

fn wait_until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !holds()? {
        ensure!(Instant::now() < deadline, "{what}");
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

#[test]
fn the_plugin_is_kept_in_its_place_and_taken_out() -> Result<()> {
    let stand = Stand::prepare(&[])?;
    let mut stand = stand.run()?;
    let status = stand.agent.status()?;
    ensure!(
        status["cni"]["file"].is_null(),
        "there is no configuration yet: {status}"
    );
    ensure!(
        stand.runtime.bin_dir().join("sluice-cni").is_file(),
        "the plugin is not there"
    );

    let network = stand.runtime.network("1.0.0", "ptp");
    let file = stand.runtime.configuration();
    let chained = || Ok(fs::read_to_string(&file)?.contains("sluice-cni"));
    for restored in 0..3 {
        // As the primary plugin's agent writes it, when it likes.
        stand.runtime.configure(&network)?;
        wait_until("the plugin is not chained", chained)?;
        wait_until("the status does not say so", || {
            let status = stand.agent.status()?;
            Ok(status["cni"]["file"] == text(&file)? && status["cni"]["restored"] == restored)
        })?;
    }
    let plugins = stand.runtime.plugins()?;
    ensure!(
        plugins.len() == 2 && plugins[1]["type"] == "sluice-cni",
        "{plugins:?}"
    );
    let socket = stand.agent.run_dir().join("agent.sock");
    ensure!(plugins[1]["socket"] == text(&socket)?, "{plugins:?}");

    stand.agent.kill()?;
    ensure!(chained()?, "it went with the agent");
    let (conf, bin) = (stand.runtime.conf_dir(), stand.runtime.bin_dir());
    let bpffs = stand.agent.bpffs();
    let output = stand.agent.command(&[
        "detach",
        "--bpffs",
        text(&bpffs)?,
        "--cni-conf-dir",
        text(&conf)?,
        "--cni-bin-dir",
        text(&bin)?,
    ])?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success() && said.contains("sluice-cni"), "{said}");
    ensure!(
        fs::read_to_string(&file)? == network,
        "the file is not what it was before"
    );
    let left = fs::read_dir(&bin)?.count() + fs::read_dir(&conf)?.count();
    ensure!(left == 1, "files are left");
    Ok(())
}

#[test]
fn a_file_that_cannot_be_read_is_let_alone_and_reported() -> Result<()> {
    let stand = Stand::prepare(&[])?;
    let stand = stand.run()?;
    let half = "{\"cniVersion\": \"1.0.0\", \"plugins\": [";
    stand.runtime.configure(half)?;
    wait_until("nobody says so", || {
        Ok(stand.agent.status()?["problems"]
            .to_string()
            .contains("10-pods.conflist"))
    })?;
    ensure!(
        fs::read_to_string(stand.runtime.configuration())? == half,
        "it was written"
    );
    Ok(())
}
