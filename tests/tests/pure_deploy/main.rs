//! What is installed on a cluster: rendered by kubectl, held against the schemas of the API and the agent's options.

mod schema;

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use rstest::rstest;
use serde_json::json;
use sluice_tests::rendered::{OVERLAYS, Rendered, deploy};

#[rstest]
fn every_object_is_as_its_schema_has_it(
    #[values("enforce", "ambient", "kind", "detach")] overlay: &str,
) -> Result<()> {
    let Rendered(objects) = Rendered::of(overlay)?;
    objects.iter().try_for_each(schema::check)
}

#[test]
fn a_field_that_nobody_knows_is_noticed() -> Result<()> {
    let mut object = Rendered::of("enforce")?
        .0
        .into_iter()
        .find(|object| object["kind"] == "DaemonSet")
        .context("no DaemonSet")?;
    schema::check(&object)?;
    object["spec"]["template"]["spec"]["hostNetworks"] = json!(true);
    let error = schema::check(&object).expect_err("there is no such field");
    assert!(error.to_string().contains("hostNetworks"), "{error:#}");
    Ok(())
}

#[test]
fn every_overlay_is_tested() -> Result<()> {
    let folder = deploy().join("overlays");
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        found.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    assert_eq!(found, OVERLAYS.map(str::to_owned).into());
    Ok(())
}

/// The variables of `sluice agent`, the ones that every verb takes included.
fn variables() -> BTreeSet<String> {
    let command = sluice::cli::command();
    let agent = command.find_subcommand("agent");
    let own = agent.into_iter().flat_map(clap::Command::get_arguments);
    own.chain(command.get_arguments())
        .filter_map(|argument| argument.get_env())
        .map(|name| name.to_string_lossy().into_owned())
        .collect()
}

#[test]
fn every_option_of_the_agent_has_a_variable() {
    let command = sluice::cli::command();
    let agent = command.find_subcommand("agent").expect("the agent's verb");
    let without: Vec<_> = agent
        .get_arguments()
        .filter(|argument| !["help", "version"].contains(&argument.get_id().as_str()))
        .filter(|argument| argument.get_env().is_none())
        .map(|argument| argument.get_id().to_string())
        .collect();
    assert!(without.is_empty(), "without one: {without:?}");
}

#[rstest]
fn the_configuration_is_what_the_agent_knows(
    #[values("enforce", "ambient", "kind", "detach")] overlay: &str,
) -> Result<()> {
    let rendered = Rendered::of(overlay)?;
    let known = variables();
    let configured = rendered.configuration()?.data.context("an empty ConfigMap")?;
    let named = rendered.container()?.env.unwrap_or_default();
    let named = named.iter().map(|variable| &variable.name);
    for name in configured.keys().chain(named) {
        ensure!(known.contains(name), "{overlay}: the agent has no {name}");
    }
    Ok(())
}

/// A probe of a pod in the node's network goes to the node's address, where nobody listens, unless it names a host.
#[rstest]
fn probes_go_where_the_agent_listens(#[values("enforce", "ambient", "kind")] overlay: &str) -> Result<()> {
    let rendered = Rendered::of(overlay)?;
    let configured = rendered.configuration()?.data.unwrap_or_default();
    let address = configured
        .get("SLUICE_HEALTH_ADDRESS")
        .context("no address for probes")?;
    let container = rendered.container()?;
    let probes = [
        ("/startupz", container.startup_probe),
        ("/livez", container.liveness_probe),
        ("/readyz", container.readiness_probe),
    ];
    for (path, probe) in probes {
        let get = probe.and_then(|probe| probe.http_get);
        let get = get.with_context(|| format!("no probe asks {path}"))?;
        let host = get.host.unwrap_or_default();
        assert_eq!(get.path.as_deref(), Some(path));
        let k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(port) = get.port else {
            anyhow::bail!("{path}: the port has a name");
        };
        assert_eq!(&format!("{host}:{port}"), address);
    }
    Ok(())
}

/// Volumes and mounts belong together, and nothing of the node is there twice or for nothing.
#[rstest]
fn every_volume_is_mounted(#[values("enforce", "ambient", "kind", "detach")] overlay: &str) -> Result<()> {
    let rendered = Rendered::of(overlay)?;
    let volumes = rendered.pod()?.volumes.unwrap_or_default();
    let mounts = rendered.container()?.volume_mounts.unwrap_or_default();
    let volumes: BTreeSet<_> = volumes.into_iter().map(|volume| volume.name).collect();
    let mounted: BTreeSet<_> = mounts.into_iter().map(|mount| mount.name).collect();
    assert_eq!(volumes, mounted);
    Ok(())
}

/// Paths in commands of a text that people follow: what `kubectl -k` is given, and links.
#[rstest]
#[case("README.md")]
#[case("deploy/README.md")]
fn what_is_named_is_there(#[case] text: &str) -> Result<()> {
    let root = deploy().join("..");
    let path = root.join(text);
    let content = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let after = |mark: &str| -> Vec<String> {
        let ends = |c: char| c.is_whitespace() || ")`#,;".contains(c);
        let rest = content.split(mark).skip(1);
        rest.filter_map(|rest| rest.split(ends).next().map(str::to_owned))
            .collect()
    };
    let folders = after(" -k ").into_iter().map(|folder| root.join(folder));
    let here = path.parent().context("a text in a folder")?;
    let links = after("](").into_iter().filter(|link| !link.is_empty());
    let links = links
        .filter(|link| !link.contains("://"))
        .map(|link| here.join(link));
    let mut count = 0;
    for named in folders.chain(links) {
        ensure!(named.exists(), "{text} names {}", named.display());
        count += 1;
    }
    ensure!(count > 0, "{text} names nothing: is this test blind?");
    Ok(())
}
