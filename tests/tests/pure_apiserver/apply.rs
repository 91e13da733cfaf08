//! Server-side apply.

use kube::api::{Patch, PatchParams};

use super::*;

/// A Node's conditions, as one that applies them.
fn conditions(list: &[(&str, &str)]) -> Value {
    let list: Vec<_> = list
        .iter()
        .map(|(kind, status)| json!({"type": kind, "status": status}))
        .collect();
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}, "status": {"conditions": list}})
}

fn shown(node: &Node) -> String {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let list = conditions.into_iter().flatten();
    list.map(|condition| format!("{}={}", condition.type_, condition.status))
        .collect::<Vec<_>>()
        .join(" ")
}

fn nodes() -> Result<(ApiServer, Api<Node>)> {
    let (server, client) = stand()?;
    server.apply_object(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}))?;
    Ok((server, Api::all(client)))
}

#[tokio::test]
async fn items_of_a_list_map_have_owners_of_their_own() -> Result<()> {
    let (_server, nodes) = nodes()?;
    let apply = async |manager: &str, list: &[(&str, &str)]| {
        let patch = Patch::Apply(conditions(list));
        nodes
            .patch_status("node-1", &PatchParams::apply(manager), &patch)
            .await
    };
    apply("one", &[("A", "True")]).await?;
    let both = apply("two", &[("B", "True"), ("C", "True")]).await?;
    assert_eq!(shown(&both), "A=True B=True C=True");
    assert_eq!(
        shown(&apply("one", &[("A", "False")]).await?),
        "A=False B=True C=True"
    );
    // What one applies no longer goes.
    assert_eq!(shown(&apply("two", &[("C", "True")]).await?), "A=False C=True");
    assert_eq!(shown(&apply("one", &[]).await?), "C=True");
    Ok(())
}

#[tokio::test]
async fn what_somebody_else_owns_is_a_conflict() -> Result<()> {
    let (_server, nodes) = nodes()?;
    let one = Patch::Apply(conditions(&[("A", "True")]));
    nodes
        .patch_status("node-1", &PatchParams::apply("one"), &one)
        .await?;
    // The same value is no conflict: both own it then.
    nodes
        .patch_status("node-1", &PatchParams::apply("two"), &one)
        .await?;
    let other = Patch::Apply(conditions(&[("A", "False")]));
    let refused = nodes
        .patch_status("node-1", &PatchParams::apply("three"), &other)
        .await;
    let status = refusal(refused)?;
    assert_eq!((status.code, status.reason.as_str()), (409, "Conflict"));
    let causes = status.details.map(|details| details.causes).unwrap_or_default();
    assert_eq!(causes.len(), 2);
    assert_eq!(causes[0].field, ".status.conditions[type=\"A\"].status");

    let params = PatchParams::apply("three").force();
    assert_eq!(
        shown(&nodes.patch_status("node-1", &params, &other).await?),
        "A=False"
    );
    // They have lost it, so it stays when they apply nothing.
    let nothing = Patch::Apply(conditions(&[]));
    let left = nodes
        .patch_status("node-1", &PatchParams::apply("one"), &nothing)
        .await?;
    assert_eq!(shown(&left), "A=False");
    Ok(())
}

#[tokio::test]
async fn updates_own_what_they_change() -> Result<()> {
    let (_server, nodes) = nodes()?;
    let params = PatchParams {
        field_manager: Some("editor".to_owned()),
        ..PatchParams::default()
    };
    let label = |value: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1", "labels": {"zone": value}}});
    nodes.patch("node-1", &params, &Patch::Merge(label("a"))).await?;
    let applied = nodes
        .patch("node-1", &PatchParams::apply("one"), &Patch::Apply(label("b")))
        .await;
    assert_eq!(
        message(applied)?,
        "Apply failed with 1 conflict: conflict with \"editor\" using v1: .metadata.labels.zone"
    );
    let node = nodes.get("node-1").await?;
    let managers = node.metadata.managed_fields.context("no managers")?;
    let editor = managers
        .iter()
        .find(|entry| entry.manager.as_deref() == Some("editor"))
        .context("no editor")?;
    let fields = editor.fields_v1.as_ref().context("no fields")?;
    assert_eq!(fields.0, json!({"f:metadata": {"f:labels": {"f:zone": {}}}}));
    Ok(())
}

#[tokio::test]
async fn applying_the_same_is_no_new_version() -> Result<()> {
    let (_server, nodes) = nodes()?;
    let patch = Patch::Apply(conditions(&[("A", "True")]));
    let first = nodes
        .patch_status("node-1", &PatchParams::apply("one"), &patch)
        .await?;
    let second = nodes
        .patch_status("node-1", &PatchParams::apply("one"), &patch)
        .await?;
    assert_eq!(first.metadata.resource_version, second.metadata.resource_version);
    Ok(())
}
