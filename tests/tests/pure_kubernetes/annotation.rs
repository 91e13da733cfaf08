//! The annotation by which Istio's control plane knows that a pod is captured.

use serde_json::json;
use sluice::{
    agent::published::{Pod, REDIRECTION_ANNOTATION, Redirection},
    facts::PodName,
};

use super::*;

fn path(pod: &str) -> PathBuf {
    PathBuf::from(format!("/api/v1/namespaces/team/pods/{pod}"))
}

/// Makes a pod, as it is in the cluster. Returns its uid.
fn pod(server: &ApiServer, name: &str, annotated: Option<&str>) -> Result<String> {
    let annotations = annotated.map(|value| json!({REDIRECTION_ANNOTATION: value}));
    let object = server.apply_object(&json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "team", "name": name, "annotations": annotations.unwrap_or_else(|| json!({}))},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    }))?;
    Ok(object["metadata"]["uid"].as_str().context("a uid")?.to_owned())
}

fn annotation(server: &ApiServer, name: &str) -> Result<Option<String>> {
    let object = server.get(&path(name).display().to_string())?;
    let value = &object["metadata"]["annotations"][REDIRECTION_ANNOTATION];
    Ok(value.as_str().map(str::to_owned))
}

/// The pod as a pass sees it: with the annotation that it has now.
fn seen(
    server: &ApiServer,
    name: &str,
    uid: &str,
    redirection: Option<Redirection>,
) -> Result<(PodName, Pod)> {
    let pod = Pod {
        uid: Some(uid.to_owned()),
        policies: Vec::new(),
        annotated: annotation(server, name)?,
        redirection,
    };
    let name = PodName {
        namespace: "team".to_owned(),
        name: name.to_owned(),
    };
    Ok((name, pod))
}

#[tokio::test(flavor = "multi_thread")]
async fn it_follows_the_capture_of_a_pod() -> Result<()> {
    let server = cluster()?;
    let (app, other) = (
        pod(&server, "app", None)?,
        pod(&server, "other", Some("enabled"))?,
    );
    let agent = Teller::start(&server, "one")?;
    let publish = |agent: &Teller, redirection| -> Result<()> {
        let pods = [
            seen(&server, "app", &app, redirection)?,
            seen(&server, "other", &other, None)?,
        ];
        agent.publish(|published| published.pods.extend(pods));
        Ok(())
    };
    let becomes = |value: Option<&'static str>| {
        let server = &server;
        eventually("the annotation is right", move || {
            Ok((annotation(server, "app")?.as_deref() == value).then_some(()))
        })
    };
    publish(&agent, Some(Redirection::Pending))?;
    becomes(Some("pending")).await?;
    publish(&agent, Some(Redirection::Enabled))?;
    becomes(Some("enabled")).await?;
    // ztunnel is away, or the agent is started again: the pod stays captured.
    publish(&agent, Some(Redirection::Pending))?;
    let agent = Teller::start_in(&server, "one", agent.stop())?;
    publish(&agent, Some(Redirection::Pending))?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(annotation(&server, "app")?.as_deref(), Some("enabled"));
    // Capture has ended; the agent that knows who put it there is another one.
    publish(&agent, None)?;
    becomes(None).await?;
    // What somebody else has put there stays.
    assert_eq!(annotation(&server, "other")?.as_deref(), Some("enabled"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_took_the_name_of_another_is_left_alone() -> Result<()> {
    let server = cluster()?;
    pod(&server, "app", None)?;
    let neighbour = pod(&server, "neighbour", None)?;
    let agent = Teller::start(&server, "one")?;
    let captured = Some(Redirection::Enabled);
    let pods = [
        seen(&server, "app", "0000-another", captured)?,
        seen(&server, "neighbour", &neighbour, captured)?,
    ];
    agent.publish(|published| published.pods.extend(pods));
    // In this order; when the second has it, the first was refused.
    eventually("the neighbour is annotated", || {
        Ok(annotation(&server, "neighbour")?.filter(|value| value == "enabled"))
    })
    .await?;
    assert_eq!(annotation(&server, "app")?, None);
    Ok(())
}
