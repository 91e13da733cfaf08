//! What a server can be asked to do wrong.

use std::time::Duration;

use kube::api::ListParams;
use sluice_tests::netns::Netns;

use super::*;

async fn version(maps: &Api<ConfigMap>) -> Result<String> {
    let list = maps.list(&ListParams::default()).await?;
    list.metadata.resource_version.context("no version")
}

#[tokio::test]
async fn an_old_version_is_gone() -> Result<()> {
    let (server, client) = stand()?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let version = version(&maps).await?;
    let mut events = maps.watch(&WatchParams::default(), &version).await?.boxed();
    server.expire();
    let late = maps.watch(&WatchParams::default(), &version).await;
    let refused = refusal(late.map(|_| "a watch"))?;
    assert_eq!((refused.code, refused.reason.as_str()), (410, "Expired"));
    let event = next(&mut events).await?;
    assert!(
        matches!(&event, WatchEvent::Error(status) if status.code == 410),
        "{event:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_stopped_server_ends_watches_and_refuses() -> Result<()> {
    let (mut server, client) = stand()?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    server.apply_object(&config_map("one", "a"))?;
    let version = version(&maps).await?;
    let mut events = maps.watch(&WatchParams::default(), &version).await?.boxed();
    server.stop();
    assert!(next(&mut events).await.is_err());
    assert!(maps.get("one").await.is_err());
    server.restart()?;
    maps.get("one").await?;
    let _events = maps.watch(&WatchParams::default(), &version).await?;
    Ok(())
}

#[tokio::test]
async fn a_stalled_server_does_not_answer() -> Result<()> {
    let (server, client) = stand()?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    server.stall(true);
    let list = timeout(Duration::from_millis(200), version(&maps)).await;
    assert!(list.is_err());
    server.stall(false);
    version(&maps).await?;
    Ok(())
}

#[tokio::test]
async fn watches_can_be_dropped() -> Result<()> {
    let (server, client) = stand()?;
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let version = version(&maps).await?;
    let mut events = maps.watch(&WatchParams::default(), &version).await?.boxed();
    server.drop_watches();
    let end = timeout(PATIENCE, events.try_next()).await??;
    assert!(end.is_none(), "{end:?}");
    Ok(())
}

#[tokio::test]
async fn a_token_is_good_until_another_one_is_given() -> Result<()> {
    let (server, _) = stand()?;
    let config = server.kubeconfig(&User::Admin)?;
    let client = client(&config).await?;
    client.list_core_api_versions().await?;
    let old = std::fs::read_to_string(config.token_file())?;
    server.rotate(&User::Admin, &config)?;
    assert_ne!(old, std::fs::read_to_string(config.token_file())?);
    assert_eq!(code(client.list_core_api_versions().await)?, 401);
    // Whoever reads it again is let in.
    self::client(&config).await?.list_core_api_versions().await?;
    Ok(())
}

#[test]
fn it_listens_in_a_namespace() -> Result<()> {
    let netns = std::sync::Arc::new(Netns::create(&format!("apiserver-{}", std::process::id()))?);
    sluice_tests::command::run("ip", &["-n", netns.name(), "link", "set", "lo", "up"], "")?;
    let server = ApiServer::start_in(&netns)?;
    let config = server.kubeconfig(&User::Admin)?;
    netns.run(|| -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            client(&config).await?.list_core_api_versions().await?;
            Ok(())
        })
    })?
}

pub(super) async fn client(config: &Kubeconfig) -> Result<Client> {
    let kubeconfig = kube::config::Kubeconfig::read_from(config.path())?;
    let config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &kube::config::KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}
