//! How the API server is reached.

use std::path::{Path, PathBuf};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// There is no way to the API server, and trying again would not find one.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The file cannot be used.
    #[error("cannot read the kubeconfig {path}; is it there, and does it name a context?")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// There is no file, and this is no pod.
    #[error(
        "there is no API server to be found: this is no pod of a cluster, or its service account's token is not \
         mounted; name a file with --kubeconfig or KUBECONFIG"
    )]
    NotInCluster(#[source] kube::config::InClusterError),
    /// What the configuration says cannot be done.
    #[error(
        "cannot make a client of the API server's configuration; are its certificates and keys readable?"
    )]
    Client(#[source] kube::Error),
}

/// A client: by this file, or else by the file that `KUBECONFIG` names, or else as a pod of the cluster. Nothing is
/// asked of the server yet.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, ConnectError> {
    let named = std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty());
    let path = kubeconfig.map(Path::to_owned).or(named.map(PathBuf::from));
    let config = match path {
        Some(path) => from_file(&path)
            .await
            .map_err(|source| ConnectError::Kubeconfig { path, source })?,
        None => Config::incluster().map_err(ConnectError::NotInCluster)?,
    };
    Client::try_from(config).map_err(ConnectError::Client)
}

async fn from_file(path: &Path) -> Result<Config, kube::config::KubeconfigError> {
    let file = Kubeconfig::read_from(path)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await
}
