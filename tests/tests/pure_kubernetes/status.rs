//! The status of policies.

use serde_json::json;
use sluice::{
    agent::published::Published,
    objects::policy_status::{LISTED_NODES, reason},
    problem::{Problem, Severity},
    project::{Condition, ConditionName},
};

use super::*;

const PATH: &str = "/apis/sluice.dev/v1alpha1/egresspolicies/p";
const POLICY: &str = "
apiVersion: sluice.dev/v1alpha1
kind: EgressPolicy
metadata: {name: p}
spec: {gateways: [{namespace: egress, gateway: waypoint}]}
";

/// The policy as the agents have read it.
fn policy(server: &ApiServer) -> Result<Policy> {
    let object = server.get(PATH)?;
    Ok(Policy {
        uid: object["metadata"]["uid"].as_str().map(str::to_owned),
        generation: object["metadata"]["generation"].as_i64(),
        named: 1,
        found: 1,
        conditions: vec![Condition {
            name: ConditionName::GatewaysFound,
            ok: true,
            message: None,
        }],
        ..Policy::default()
    })
}

fn with(policy: &Policy, names: &[&str]) -> impl FnOnce(&mut Published) {
    let (policy, nodes) = (policy.clone(), nodes(names));
    move |published| {
        published.policies.insert("p".to_owned(), policy);
        published.nodes = nodes;
    }
}

/// Status and reason of a condition.
fn condition(object: &Value, kind: &str) -> String {
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == kind);
    found.map_or_else(String::new, |condition| {
        let word = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        format!("{} {}", word("status"), word("reason"))
    })
}

/// The nodes that are listed, with their states.
fn listed(object: &Value) -> Vec<String> {
    let entries = object["status"]["nodes"].as_array();
    let entry = |entry: &Value| {
        let word = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
        format!("{} {}", word("node"), word("state"))
    };
    let mut listed: Vec<_> = entries.into_iter().flatten().map(entry).collect();
    listed.sort();
    listed
}

fn version(server: &ApiServer) -> Result<String> {
    Ok(server.get(PATH)?["metadata"]["resourceVersion"].to_string())
}

/// Waits until nobody has written for a while.
async fn quiet(server: &ApiServer) -> Result<String> {
    loop {
        let before = version(server)?;
        // Longer than the holder of the Lease looks away.
        tokio::time::sleep(Duration::from_secs(7)).await;
        if version(server)? == before {
            return Ok(before);
        }
    }
}

/// Who writes what is about the cluster as a whole.
fn holder(server: &ApiServer) -> Option<String> {
    let lease = server.get("/apis/coordination.k8s.io/v1/namespaces/sluice-system/leases/sluice-status");
    let lease = lease.ok()?;
    lease["spec"]["holderIdentity"].as_str().map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_write_side_by_side_and_then_are_quiet() -> Result<()> {
    let server = cluster()?;
    server.apply(POLICY)?;
    let policy = policy(&server)?;
    let (one, two) = (Teller::start(&server, "one")?, Teller::start(&server, "two")?);
    for agent in [&one, &two] {
        agent.publish(with(&policy, &["one", "two"]));
    }
    let object = eventually("both agents are listed, and somebody sums up", || {
        let object = server.get(PATH)?;
        Ok((condition(&object, "Enforced") == "True AllNodes").then_some(object))
    })
    .await?;
    assert_eq!(listed(&object), ["one Enforcing", "two Enforcing"]);
    assert_eq!(condition(&object, "Accepted"), "True Accepted");
    assert_eq!(condition(&object, "Degraded"), "False AsExpected");
    assert_eq!(object["status"]["enforcedOn"], "2/2");
    assert_eq!(object["status"]["gateways"], "1/1");

    let before = quiet(&server).await?;
    // Counts wait for their minute; what is published again and again is written once.
    for subjects in 0..200 {
        let mut policy = policy.clone();
        policy.subjects = subjects;
        one.publish(with(&policy, &["one", "two"]));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(version(&server)?, before, "counts were written too soon");

    one.publish(|published| {
        published.state = State::Degraded;
        published.problems = vec![Problem::new(Severity::Error, "a map is full")];
    });
    let object = eventually("one is degraded", || {
        let object = server.get(PATH)?;
        Ok((condition(&object, "Degraded") == "True NodesDegraded").then_some(object))
    })
    .await?;
    assert_eq!(listed(&object), ["one Degraded", "two Enforcing"]);
    assert_eq!(condition(&object, "Enforced"), "False NodesMissing");
    assert_eq!(object["status"]["enforcedOn"], "1/2");
    let managers = object["metadata"]["managedFields"]
        .as_array()
        .context("managers")?;
    let mut managers: Vec<_> = managers.iter().filter_map(|by| by["manager"].as_str()).collect();
    managers.sort_unstable();
    assert_eq!(
        managers,
        ["sluice-agent/one", "sluice-agent/two", "sluice-status", "test"]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_gone_leaves_the_list() -> Result<()> {
    let server = cluster()?;
    server.apply(POLICY)?;
    let policy = policy(&server)?;
    let (one, two) = (Teller::start(&server, "one")?, Teller::start(&server, "two")?);
    for agent in [&one, &two] {
        agent.publish(with(&policy, &["one", "two"]));
    }
    let both = || Ok((listed(&server.get(PATH)?).len() == 2).then_some(()));
    eventually("both are listed", both).await?;
    let holder = eventually("somebody holds the Lease", || Ok(holder(&server))).await?;
    let (stays, goes) = if holder == "one" { (one, two) } else { (two, one) };
    goes.stop();
    stays.publish(|published| published.nodes = nodes(&[&published.node]));
    let object = eventually("the other has left the list", || {
        let object = server.get(PATH)?;
        Ok((listed(&object).len() == 1 && object["status"]["enforcedOn"] == "1/1").then_some(object))
    })
    .await?;
    assert_eq!(listed(&object), [format!("{holder} Enforcing")]);
    let managers = object["metadata"]["managedFields"]
        .as_array()
        .context("managers")?;
    assert_eq!(managers.len(), 3, "its field manager is gone, too: {managers:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_agent_speaks_when_the_one_that_did_is_dead() -> Result<()> {
    let server = cluster()?;
    server.apply(POLICY)?;
    let before = policy(&server)?;
    let names = ["one", "two"];
    let (one, two) = (Teller::start(&server, "one")?, Teller::start(&server, "two")?);
    for agent in [&one, &two] {
        agent.publish(with(&before, &names));
    }
    let first = eventually("somebody holds the Lease", || Ok(holder(&server))).await?;
    let (lives, dead) = if first == "one" { (two, one) } else { (one, two) };
    dead.stop();
    server.patch(PATH, &json!({"spec": {"mode": "Audit"}}))?;
    let mut changed = policy(&server)?;
    changed.audit = true;
    lives.publish(with(&changed, &names));
    // The Lease has to run out.
    let patience = PATIENCE + Duration::from_mins(1);
    let object = within(patience, "the other one sums up", || {
        let object = server.get(PATH)?;
        Ok((condition(&object, "Enforced") == "False AuditMode").then_some(object))
    })
    .await?;
    assert_ne!(holder(&server), Some(first));
    assert_eq!(listed(&object).len(), 2, "the node of the dead is still there");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_has_to_wait_for_its_first_rules_speaks_as_soon_as_it_has_them() -> Result<()> {
    let server = cluster()?;
    server.apply(POLICY)?;
    let policy = policy(&server)?;
    let agent = Teller::start(&server, "one")?;
    agent.publish(|published| published.applied = false);
    tokio::time::sleep(Duration::from_millis(500)).await;
    agent.publish(with(&policy, &["one"]));
    // Not only when an agent that does not hold the Lease looks at it again.
    within(Duration::from_secs(8), "it sums up", || {
        let object = server.get(PATH)?;
        Ok((object["status"]["enforcedOn"] == "1/1").then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_not_there_is_reported() -> Result<()> {
    let server = cluster()?;
    server.apply(POLICY)?;
    let agent = Teller::start(&server, "one")?;
    let mut policy = policy(&server)?;
    policy.found = 0;
    policy.conditions[0].ok = false;
    policy.conditions[0].message = Some("no pod is gateway egress/waypoint".to_owned());
    agent.publish(with(&policy, &["one"]));
    let degraded = format!("True {}", reason::GATEWAY_NOT_FOUND);
    let object = eventually("the policy is degraded", || {
        let object = server.get(PATH)?;
        Ok((condition(&object, "Degraded") == degraded).then_some(object))
    })
    .await?;
    assert_eq!(condition(&object, "Accepted"), "True Accepted");
    assert_eq!(object["status"]["gateways"], "0/1");
    let event = eventually("an event says so", || {
        let events = server.get("/apis/events.k8s.io/v1/namespaces/default/events")?;
        let mut events = events["items"]
            .as_array()
            .cloned()
            .unwrap_or_default()
            .into_iter();
        Ok(events.find(|event| event["reason"] == reason::GATEWAY_NOT_FOUND))
    })
    .await?;
    assert_eq!(event["regarding"]["kind"], "EgressPolicy");
    assert_eq!(event["type"], "Warning");

    policy.found = 1;
    policy.conditions[0].ok = true;
    agent.publish(with(&policy, &["one"]));
    let no_more = || Ok((condition(&server.get(PATH)?, "Degraded") == "False AsExpected").then_some(()));
    eventually("it is no more", no_more).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_cannot_be_read_is_not_accepted() -> Result<()> {
    let server = cluster()?;
    server.apply(POLICY)?;
    let agent = Teller::start(&server, "one")?;
    agent.publish(|published| {
        published.nodes = nodes(&["one"]);
        // Without a version that can be read the source is not complete.
        published.applied = false;
        let object = sluice::objects::ObjectRef::cluster(sluice::objects::Kind::EgressPolicy, "p");
        let message = "spec.exceptions[0].to[0].cidr: 192.0.2.1/24 has bits behind its prefix";
        published.problems = vec![Problem::new(Severity::Error, message).about(object)];
    });
    let object = eventually("it is not accepted", || {
        let object = server.get(PATH)?;
        Ok((condition(&object, "Accepted") == "False Invalid").then_some(object))
    })
    .await?;
    assert_eq!(condition(&object, "Enforced"), "False Invalid");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_large_cluster_only_nodes_in_trouble_are_listed() -> Result<()> {
    let server = cluster()?;
    server.apply(POLICY)?;
    let policy = policy(&server)?;
    let names: Vec<_> = (0..=LISTED_NODES)
        .map(|number| format!("node-{number}"))
        .collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let (well, ill) = (
        Teller::start(&server, "node-0")?,
        Teller::start(&server, "node-1")?,
    );
    well.publish(with(&policy, &names));
    ill.publish(with(&policy, &names));
    ill.publish(|published| published.state = State::Degraded);
    let object = eventually("the node in trouble is counted", || {
        let object = server.get(PATH)?;
        Ok((object["status"]["enforcedOn"] == "1 of 129 in trouble").then_some(object))
    })
    .await?;
    assert_eq!(listed(&object), ["node-1 Degraded"]);
    assert_eq!(condition(&object, "Enforced"), "False NodesMissing");
    ill.publish(|published| published.state = State::Enforcing);
    let object = eventually("it is well again", || {
        let object = server.get(PATH)?;
        Ok((condition(&object, "Enforced") == "Unknown NotListed").then_some(object))
    })
    .await?;
    assert_eq!(listed(&object), [""; 0]);
    Ok(())
}
