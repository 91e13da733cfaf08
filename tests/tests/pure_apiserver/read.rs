//! Lists and watches.

use kube::{ResourceExt as _, api::ListParams};

use super::*;

#[tokio::test]
async fn a_list_comes_in_pages() -> Result<()> {
    let (server, client) = stand()?;
    for place in 0..7 {
        server.apply_object(&config_map(&format!("map-{place}"), "a"))?;
    }
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let mut params = ListParams::default().limit(3);
    let mut names = Vec::new();
    let mut pages = 0;
    loop {
        let page = maps.list(&params).await?;
        pages += 1;
        names.extend(page.items.iter().map(kube::ResourceExt::name_any));
        let left = page.metadata.remaining_item_count.unwrap_or(0);
        assert_eq!(left + i64::try_from(names.len())?, 7);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    assert_eq!(pages, 3);
    assert_eq!(
        names,
        (0..7).map(|place| format!("map-{place}")).collect::<Vec<_>>()
    );
    Ok(())
}

#[tokio::test]
async fn a_page_of_an_expired_list_is_gone() -> Result<()> {
    let (server, client) = stand()?;
    for place in 0..3 {
        server.apply_object(&config_map(&format!("map-{place}"), "a"))?;
    }
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let page = maps.list(&ListParams::default().limit(1)).await?;
    server.expire();
    let token = page.metadata.continue_.context("one page only")?;
    let next = maps
        .list(&ListParams::default().limit(1).continue_token(&token))
        .await;
    assert_eq!(code(next)?, 410);
    Ok(())
}

#[tokio::test]
async fn selectors_narrow_a_list() -> Result<()> {
    let (server, client) = stand()?;
    for value in ["a", "b", "c"] {
        server.apply_object(&config_map(value, value))?;
    }
    server.apply_object(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bare", "namespace": "kube-system"},
    }))?;
    let maps: Api<ConfigMap> = Api::all(client);
    let cases = [
        ("value in (a, b)", "", "a b"),
        ("value notin (a,b),value", "", "c"),
        ("value!=a", "", "b bare c"),
        ("!value", "", "bare"),
        ("value=c", "", "c"),
        ("", "metadata.name=b", "b"),
        ("", "metadata.namespace!=default", "bare"),
    ];
    for (labels, fields, wanted) in cases {
        let params = ListParams::default().labels(labels).fields(fields);
        let mut names: Vec<_> = maps
            .list(&params)
            .await?
            .iter()
            .map(kube::ResourceExt::name_any)
            .collect();
        names.sort();
        assert_eq!(names.join(" "), wanted, "{labels} {fields}");
    }
    let unknown = maps.list(&ListParams::default().fields("data.key=a")).await;
    assert_eq!(message(unknown)?, "field label not supported: data.key");
    Ok(())
}

#[tokio::test]
async fn pods_are_selected_by_their_node() -> Result<()> {
    let (server, client) = stand()?;
    for node in ["one", "two"] {
        server.apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: on-{node}, namespace: app}}, spec: {{nodeName: {node}, \
             containers: [{{name: main, image: none}}]}}, status: {{phase: Running, podIPs: [{{ip: 10.0.0.1}}]}}}}"
        ))?;
    }
    let pods: Api<Pod> = Api::all(client);
    let found = pods
        .list(&ListParams::default().fields("spec.nodeName=two,status.phase=Running"))
        .await?;
    assert_eq!(
        found.iter().map(kube::ResourceExt::name_any).collect::<Vec<_>>(),
        ["on-two"]
    );
    Ok(())
}

#[tokio::test]
async fn a_watch_tells_what_happens() -> Result<()> {
    let (server, client) = stand()?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let version = maps
        .list(&ListParams::default())
        .await?
        .metadata
        .resource_version
        .context("no version")?;
    let params = WatchParams::default().labels("value=a");
    let mut events = maps.watch(&params, &version).await?.boxed();
    server.apply_object(&config_map("one", "a"))?;
    server.apply_object(&config_map("other", "b"))?;
    server.patch(
        "/api/v1/namespaces/default/configmaps/one",
        &json!({"data": {"more": "x"}}),
    )?;
    // It is there still, but out of sight.
    server.patch(
        "/api/v1/namespaces/default/configmaps/one",
        &json!({"metadata": {"labels": {"value": "b"}}}),
    )?;
    let mut last = 0;
    for wanted in ["Added", "Modified", "Deleted"] {
        let event = next(&mut events).await?;
        let (kind, map) = match &event {
            WatchEvent::Added(map) => ("Added", map),
            WatchEvent::Modified(map) => ("Modified", map),
            WatchEvent::Deleted(map) => ("Deleted", map),
            WatchEvent::Bookmark(_) | WatchEvent::Error(_) => continue,
        };
        assert_eq!((kind, map.name_any().as_str()), (wanted, "one"));
        let version: u64 = map.resource_version().context("no version")?.parse()?;
        assert!(version > last);
        last = version;
    }
    Ok(())
}

#[tokio::test]
async fn a_watch_begins_with_what_is_there() -> Result<()> {
    let (server, client) = stand()?;
    server.apply_object(&config_map("one", "a"))?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let mut events = maps.watch(&WatchParams::default(), "0").await?.boxed();
    assert!(matches!(next(&mut events).await?, WatchEvent::Added(map) if map.name_any() == "one"));
    Ok(())
}

#[tokio::test]
async fn a_list_can_be_streamed() -> Result<()> {
    let (server, client) = stand()?;
    server.apply_object(&config_map("one", "a"))?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let params = WatchParams::default().initial_events();
    let mut events = maps.watch(&params, "0").await?.boxed();
    assert!(matches!(next(&mut events).await?, WatchEvent::Added(map) if map.name_any() == "one"));
    let WatchEvent::Bookmark(end) = next(&mut events).await? else {
        anyhow::bail!("no bookmark")
    };
    assert_eq!(end.metadata.annotations["k8s.io/initial-events-end"], "true");
    Ok(())
}

#[tokio::test]
async fn bookmarks_come_while_nothing_happens() -> Result<()> {
    let (server, client) = stand()?;
    server.bookmark_every(std::time::Duration::from_millis(20));
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let version = maps
        .list(&ListParams::default())
        .await?
        .metadata
        .resource_version
        .context("no version")?;
    let mut events = maps.watch(&WatchParams::default(), &version).await?.boxed();
    // Of another kind: the bookmark tells of a version that the watch did not show.
    server.apply_object(&json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-1"}}))?;
    for _ in 0..50 {
        let WatchEvent::Bookmark(bookmark) = next(&mut events).await? else {
            anyhow::bail!("no bookmark")
        };
        if bookmark.metadata.resource_version.parse::<u64>()? > version.parse()? {
            return Ok(());
        }
    }
    anyhow::bail!("no bookmark of a later version came")
}

#[tokio::test]
async fn discovery_tells_what_is_served() -> Result<()> {
    let (_server, client) = stand()?;
    assert_eq!(client.apiserver_version().await?.major, "1");
    let groups = client.list_api_groups().await?;
    assert!(groups.groups.iter().any(|group| group.name == "discovery.k8s.io"));
    let core = client.list_core_api_resources("v1").await?;
    let pods = core
        .resources
        .iter()
        .find(|resource| resource.name == "pods")
        .context("no pods")?;
    assert!(pods.namespaced && pods.verbs.iter().any(|verb| verb == "watch"));
    assert_eq!(
        code(client.list_api_group_resources("sluice.dev/v1alpha1").await)?,
        404
    );
    Ok(())
}
