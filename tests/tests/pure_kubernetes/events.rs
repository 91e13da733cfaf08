//! Events on pods.

use sluice::{
    agent::published::Pod,
    api::{Kind, VerdictEvent},
    facts::PodName,
    objects::Labels,
};

use super::*;

fn name() -> PodName {
    PodName {
        namespace: "team".to_owned(),
        name: "app".to_owned(),
    }
}

fn denial(reason: &str) -> VerdictEvent {
    VerdictEvent {
        time: "0.000000000".to_owned(),
        verdict: Kind::Deny,
        reason: reason.to_owned(),
        hook: "pod_out".to_owned(),
        count: 1,
        pod: Some(name()),
        workload: None,
        labels: Labels::new(),
        process: None,
        device: None,
        src: [10, 0, 0, 1].into(),
        dst: [203, 0, 113, 5].into(),
        destination: None,
        sport: 40000,
        dport: 443,
        protocol: "TCP".to_owned(),
        len: 60,
        policies: Vec::new(),
        generation: 1,
    }
}

fn reported(server: &ApiServer) -> Result<Vec<Value>> {
    let events = server.get("/apis/events.k8s.io/v1/namespaces/team/events")?;
    Ok(events["items"].as_array().cloned().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_denial_of_a_kind_is_an_event_on_the_pod() -> Result<()> {
    let server = cluster()?;
    server.apply("{apiVersion: v1, kind: Namespace, metadata: {name: team}}")?;
    let agent = Teller::start(&server, "one")?;
    agent.publish(|published| {
        let pod = Pod {
            uid: Some("5c1f".to_owned()),
            policies: vec!["one-way-out".to_owned()],
            ..Pod::default()
        };
        published.pods.insert(name(), pod);
    });
    for _ in 0..1000 {
        agent.verdicts.push(denial("not_permitted"));
    }
    let mut allowed = denial("internal");
    allowed.verdict = Kind::Allow;
    agent.verdicts.push(allowed);
    agent.verdicts.push(denial("spoofed_source"));
    let events = eventually("both kinds are reported", || {
        let events = reported(&server)?;
        Ok((events.len() >= 2).then_some(events))
    })
    .await?;
    // Whatever else there was to be reported would have been by now.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(reported(&server)?.len(), 2);
    let event = events
        .iter()
        .find(|event| event["action"] == "not_permitted")
        .context("the first kind")?;
    assert_eq!(event["reason"], "EgressDenied");
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["reportingController"], "sluice.dev/agent");
    assert_eq!(event["reportingInstance"], "one");
    assert_eq!(event["regarding"]["uid"], "5c1f");
    assert_eq!(
        event["note"],
        "denied to 203.0.113.5:443/TCP: not_permitted, held to EgressPolicy one-way-out; on node one `sluice explain \
         team/app 203.0.113.5:443/TCP` says why"
    );
    Ok(())
}

/// Packets of one flow are told of together.
#[tokio::test(flavor = "multi_thread")]
async fn each_packet_that_was_denied_counts_for_the_policy() -> Result<()> {
    let server = cluster()?;
    server.apply("{apiVersion: sluice.dev/v1alpha1, kind: EgressPolicy, metadata: {name: p}, spec: {}}")?;
    let path = "/apis/sluice.dev/v1alpha1/egresspolicies/p";
    let uid = server.get(path)?["metadata"]["uid"].as_str().map(str::to_owned);
    let agent = Teller::start(&server, "one")?;
    agent.publish(|published| {
        let policy = Policy {
            uid,
            generation: Some(1),
            ..Policy::default()
        };
        let pod = Pod {
            policies: vec!["p".to_owned()],
            ..Pod::default()
        };
        published.policies.insert("p".to_owned(), policy);
        published.pods.insert(name(), pod);
        published.nodes = nodes(&["one"]);
    });
    let state = |state: &'static str| {
        let server = &server;
        eventually(state, move || {
            let entry = server.get(path)?["status"]["nodes"][0].clone();
            Ok((entry["state"] == state).then_some(entry))
        })
    };
    state("Enforcing").await?;
    for count in [1, 41] {
        let mut verdict = denial("not_permitted");
        verdict.count = count;
        agent.verdicts.push(verdict);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Counts alone would wait for a minute.
    agent.publish(|published| published.state = State::Degraded);
    assert_eq!(state("Degraded").await?["denied"], 42);
    Ok(())
}
