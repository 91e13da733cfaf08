//! Writes of whole objects.

use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};

use super::*;

#[tokio::test]
async fn an_object_gets_what_the_server_gives() -> Result<()> {
    let (_server, client) = stand()?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let mut wanted: ConfigMap = typed(config_map("one", "a"))?;
    wanted.metadata.name = None;
    wanted.metadata.generate_name = Some("map-".to_owned());
    let made = maps.create(&PostParams::default(), &wanted).await?;
    let name = made.metadata.name.context("no name")?;
    assert!(name.starts_with("map-") && name.len() == 9, "{name}");
    assert!(made.metadata.uid.is_some() && made.metadata.creation_timestamp.is_some());
    assert_eq!(made.metadata.generation, Some(1));
    Ok(())
}

#[tokio::test]
async fn there_is_one_object_of_a_name() -> Result<()> {
    let (_server, client) = stand()?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let wanted = typed(config_map("one", "a"))?;
    maps.create(&PostParams::default(), &wanted).await?;
    let again = maps.create(&PostParams::default(), &wanted).await;
    assert_eq!(message(again)?, "configmaps \"one\" already exists");
    Ok(())
}

#[tokio::test]
async fn nothing_is_in_a_namespace_that_is_not_there() -> Result<()> {
    let (_server, client) = stand()?;
    let maps: Api<ConfigMap> = Api::namespaced(client, "nowhere");
    let mut wanted: ConfigMap = typed(config_map("one", "a"))?;
    wanted.metadata.namespace = None;
    let made = maps.create(&PostParams::default(), &wanted).await;
    assert_eq!(message(made)?, "namespaces \"nowhere\" not found");
    Ok(())
}

#[tokio::test]
async fn a_write_in_between_is_a_conflict() -> Result<()> {
    let (server, client) = stand()?;
    server.apply_object(&config_map("one", "a"))?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let mut stale = maps.get("one").await?;
    server.patch(
        "/api/v1/namespaces/default/configmaps/one",
        &json!({"data": {"key": "b"}}),
    )?;
    stale.data = None;
    let written = maps.replace("one", &PostParams::default(), &stale).await;
    assert_eq!(code(written)?, 409);
    let fresh = maps.get("one").await?;
    maps.replace("one", &PostParams::default(), &fresh).await?;
    Ok(())
}

#[tokio::test]
async fn what_changes_nothing_is_no_new_version() -> Result<()> {
    let (server, client) = stand()?;
    server.apply_object(&config_map("one", "a"))?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let first = maps.get("one").await?;
    let patch = Patch::Merge(json!({"data": {"key": "a"}}));
    let second = maps.patch("one", &PatchParams::default(), &patch).await?;
    assert_eq!(first.metadata.resource_version, second.metadata.resource_version);
    Ok(())
}

#[tokio::test]
async fn status_is_written_by_itself() -> Result<()> {
    let (_server, client) = stand()?;
    let nodes: Api<Node> = Api::all(client);
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}});
    nodes.create(&PostParams::default(), &typed(node)?).await?;
    let both = json!({"spec": {"unschedulable": true}, "status": {"phase": "Running"}});
    let main = nodes
        .patch("node-1", &PatchParams::default(), &Patch::Merge(&both))
        .await?;
    assert_eq!(main.spec.and_then(|spec| spec.unschedulable), Some(true));
    assert_eq!(main.status, None);
    assert_eq!(main.metadata.generation, Some(2));

    let both = json!({"spec": {"unschedulable": false}, "status": {"phase": "Running"}});
    let status = nodes
        .patch_status("node-1", &PatchParams::default(), &Patch::Merge(&both))
        .await?;
    assert_eq!(status.spec.and_then(|spec| spec.unschedulable), Some(true));
    assert_eq!(
        status.status.and_then(|status| status.phase).as_deref(),
        Some("Running")
    );
    assert_eq!(status.metadata.generation, Some(2));
    Ok(())
}

#[tokio::test]
async fn finalizers_hold_an_object() -> Result<()> {
    let (server, client) = stand()?;
    let mut map = config_map("one", "a");
    map["metadata"]["finalizers"] = json!(["sluice.dev/test"]);
    server.apply_object(&map)?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let marked = maps.delete("one", &DeleteParams::default()).await?;
    assert!(
        marked
            .left()
            .context("it is gone")?
            .metadata
            .deletion_timestamp
            .is_some()
    );
    let none = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    maps.patch("one", &PatchParams::default(), &none).await?;
    assert_eq!(code(maps.get("one").await)?, 404);
    Ok(())
}

#[tokio::test]
async fn a_collection_is_deleted_by_its_labels() -> Result<()> {
    let (server, client) = stand()?;
    for name in ["a", "b", "c"] {
        server.apply_object(&config_map(name, name))?;
    }
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let some = ListParams::default().labels("value in (a,b)");
    maps.delete_collection(&DeleteParams::default(), &some).await?;
    assert_eq!(maps.list(&ListParams::default()).await?.items.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_namespace_takes_its_objects_with_it() -> Result<()> {
    let (server, client) = stand()?;
    server.apply_object(&config_map("one", "a"))?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    server.delete("/api/v1/namespaces/default")?;
    assert_eq!(code(maps.get("one").await)?, 404);
    Ok(())
}
