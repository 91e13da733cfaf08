//! A container runtime, as far as networks go: it runs the plugins of a configuration one after the other, as `libcni` and
//! `cnitool` do, with their arguments in the environment and the configuration on standard input.

use std::{
    fmt, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::netns::Netns;

/// Where Debian has the plugins of the package `containernetworking-plugins`.
pub const PLUGINS: &str = "/usr/lib/cni";
/// Name of the network.
pub const NETWORK: &str = "pods";
/// The file that the network is configured by.
const CONFIGURATION: &str = "10-pods.conflist";

/// What a plugin said instead of doing it.
#[derive(Clone, Debug)]
pub struct Refused {
    /// The plugin.
    pub plugin: String,
    /// The specification's number for it.
    pub code: u64,
    /// In words.
    pub message: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.plugin, self.code, self.message)
    }
}

impl std::error::Error for Refused {}

/// What a container is to be attached as.
#[derive(Debug)]
pub struct Sandbox {
    /// Its name at the runtime.
    pub id: String,
    /// Its network namespace.
    pub netns: Netns,
    /// `CNI_ARGS`.
    pub arguments: String,
}

impl Sandbox {
    /// That of a pod.
    pub fn of_pod(netns: Netns, namespace: &str, name: &str, uid: &str) -> Self {
        let id = format!("sandbox-{uid}");
        let arguments = format!(
            "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_INFRA_CONTAINER_ID={id};\
             K8S_POD_UID={uid}"
        );
        Self { id, netns, arguments }
    }
}

/// The runtime of a node.
#[derive(Debug)]
pub struct Runtime {
    node: Arc<Netns>,
    directory: TempDir,
}

impl Runtime {
    /// One without a network yet.
    pub fn on(node: &Arc<Netns>) -> Result<Self> {
        ensure!(
            Path::new(PLUGINS).join("ptp").is_file(),
            "{PLUGINS} has no plugins: install the package containernetworking-plugins"
        );
        let directory = TempDir::with_prefix("sluice-cni-").context("making a directory for the runtime")?;
        for name in ["net.d", "bin", "ipam"] {
            fs::create_dir(directory.path().join(name))?;
        }
        Ok(Self {
            node: Arc::clone(node),
            directory,
        })
    }

    /// Where it takes configurations from.
    pub fn conf_dir(&self) -> PathBuf {
        self.directory.path().join("net.d")
    }

    /// Where plugins are installed.
    pub fn bin_dir(&self) -> PathBuf {
        self.directory.path().join("bin")
    }

    /// The file of the network.
    pub fn configuration(&self) -> PathBuf {
        self.conf_dir().join(CONFIGURATION)
    }

    /// The text of the network, made by this plugin of Debian's.
    pub fn network(&self, version: &str, primary: &str) -> String {
        let plugin = json!({
            "type": primary,
            "bridge": "cni0",
            "isGateway": true,
            "ipMasq": false,
            "ipam": {
                "type": "host-local",
                "dataDir": self.directory.path().join("ipam"),
                "ranges": [[{"subnet": "10.244.0.0/24"}], [{"subnet": "fd00:10:244::/64"}]],
                "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
            },
        });
        let network = json!({"cniVersion": version, "name": NETWORK, "plugins": [plugin]});
        format!("{network:#}\n")
    }

    /// Configures the network.
    pub fn configure(&self, text: &str) -> Result<()> {
        let path = self.configuration();
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    fn read(&self) -> Result<Value> {
        let path = self.configuration();
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
    }

    /// Attaches a sandbox to the network. Returns the result, or what the plugin that failed said.
    pub fn add(&self, sandbox: &Sandbox) -> Result<Result<Value, Refused>> {
        let mut previous = None;
        for plugin in self.plugins()? {
            match self.run("ADD", &plugin, previous.as_ref(), Some(sandbox))? {
                Ok(text) => previous = Some(serde_json::from_str(&text).context("a plugin's result")?),
                Err(refused) => return Ok(Err(refused)),
            }
        }
        Ok(Ok(previous.context("the network has no plugins")?))
    }

    /// Checks it.
    pub fn check(&self, sandbox: &Sandbox, result: &Value) -> Result<Result<(), Refused>> {
        self.each("CHECK", self.plugins()?, result, sandbox)
    }

    /// Detaches it.
    pub fn del(&self, sandbox: &Sandbox, result: &Value) -> Result<Result<(), Refused>> {
        let mut plugins = self.plugins()?;
        plugins.reverse();
        self.each("DEL", plugins, result, sandbox)
    }

    fn each(
        &self,
        verb: &str,
        plugins: Vec<Value>,
        result: &Value,
        sandbox: &Sandbox,
    ) -> Result<Result<(), Refused>> {
        for plugin in plugins {
            if let Err(refused) = self.run(verb, &plugin, Some(result), Some(sandbox))? {
                return Ok(Err(refused));
            }
        }
        Ok(Ok(()))
    }

    /// The configurations of the network's plugins, each as it is passed to the plugin.
    pub fn plugins(&self) -> Result<Vec<Value>> {
        let network = self.read()?;
        let plugins = network["plugins"].as_array().context("no plugins")?;
        let passed = plugins.iter().map(|plugin| {
            let mut plugin = plugin.clone();
            plugin["cniVersion"] = network["cniVersion"].clone();
            plugin["name"] = network["name"].clone();
            plugin
        });
        Ok(passed.collect())
    }

    /// Runs one plugin. Returns what it printed, or why it did not do it.
    pub fn run(
        &self,
        verb: &str,
        plugin: &Value,
        previous: Option<&Value>,
        sandbox: Option<&Sandbox>,
    ) -> Result<Result<String, Refused>> {
        let kind = plugin["type"].as_str().context("a plugin without a type")?;
        let mut config = plugin.clone();
        if let Some(previous) = previous {
            config["prevResult"] = previous.clone();
        }
        let mut command = Command::new(self.find(kind)?);
        command
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_PATH", format!("{}:{PLUGINS}", self.bin_dir().display()));
        if let Some(Sandbox { id, netns, arguments }) = sandbox {
            command
                .env("CNI_CONTAINERID", id)
                .env("CNI_NETNS", netns.path())
                .env("CNI_IFNAME", "eth0")
                .env("CNI_ARGS", arguments);
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self
            .node
            .run(|| command.spawn())?
            .with_context(|| format!("running {kind}"))?;
        let mut input = child.stdin.take().context("no standard input")?;
        // A plugin may answer without having read.
        let _ = input.write_all(config.to_string().as_bytes());
        drop(input);
        let output = child.wait_with_output()?;
        let text = String::from_utf8(output.stdout)?;
        if output.status.success() {
            return Ok(Ok(text));
        }
        let said: Value = serde_json::from_str(&text).with_context(|| {
            let error = String::from_utf8_lossy(&output.stderr);
            format!("{kind} {verb} failed without a word of why: {text}{error}")
        })?;
        Ok(Err(Refused {
            plugin: kind.to_owned(),
            code: said["code"].as_u64().context("an error without a number")?,
            message: said["msg"].as_str().unwrap_or_default().to_owned(),
        }))
    }

    fn find(&self, kind: &str) -> Result<PathBuf> {
        let places = [self.bin_dir(), PLUGINS.into()];
        let mut paths = places.iter().map(|place| place.join(kind));
        paths
            .find(|path| path.is_file())
            .with_context(|| format!("there is no plugin {kind}"))
    }
}
