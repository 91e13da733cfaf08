//! What a container runtime is told of a container: the configuration of the OCI runtime specification, as containerd makes
//! it of a pod.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::core::v1::{Capabilities, Container, PodSpec, Volume, VolumeMount};
use serde_json::{Value, json};

/// What is hidden from every container that is not privileged, and what it may not change.
const MASKED: [&str; 10] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// What a test decides, beside the pod.
pub(crate) struct Surroundings<'a> {
    pub(crate) command: Vec<String>,
    pub(crate) environment: Vec<String>,
    /// The network namespace that stands for the node's.
    pub(crate) netns: &'a Path,
    /// What is mounted beside the pod's volumes: from where, to where, read-only.
    pub(crate) mounts: Vec<Value>,
}

/// Makes the configuration. `host` says what stands for a path of the node.
pub(crate) fn configuration(
    pod: &PodSpec,
    container: &Container,
    surroundings: Surroundings<'_>,
    host: impl Fn(&str) -> Result<std::path::PathBuf>,
) -> Result<Value> {
    let Surroundings {
        command,
        environment,
        netns,
        mounts,
    } = surroundings;
    let security = container
        .security_context
        .as_ref()
        .context("no securityContext")?;
    ensure!(
        pod.host_network == Some(true) && pod.host_pid == Some(true) && security.privileged != Some(true),
        "this makes containers in the node's network, with its processes, without privilege"
    );
    let capabilities = capabilities(security.capabilities.as_ref().context("no capabilities")?)?;
    let mut all = standard_mounts();
    for mount in container.volume_mounts.iter().flatten() {
        let volume = pod
            .volumes
            .iter()
            .flatten()
            .find(|volume| volume.name == mount.name);
        let volume = volume.with_context(|| format!("no volume {}", mount.name))?;
        all.push(volume_mount(volume, mount, &host)?);
    }
    all.extend(mounts);
    Ok(json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": security.run_as_user.unwrap_or(0), "gid": 0},
            "args": command,
            "env": environment,
            "cwd": "/",
            "noNewPrivileges": security.allow_privilege_escalation == Some(false),
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
        },
        "root": {"path": "rootfs", "readonly": security.read_only_root_filesystem == Some(true)},
        "mounts": all,
        "linux": {
            // Without a cgroup namespace of its own: the agent would leave it for that of process 1, which cannot be
            // looked at where this machine is a container itself.
            "namespaces": [
                {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "network", "path": netns},
            ],
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    }))
}

/// Bind-mounts a path of this machine.
pub(crate) fn bind(from: &Path, to: &str, read_only: bool) -> Value {
    let access = if read_only { "ro" } else { "rw" };
    json!({"type": "bind", "source": from, "destination": to, "options": ["rbind", "rslave", access]})
}

fn standard_mounts() -> Vec<Value> {
    let quiet = ["nosuid", "noexec", "nodev"];
    vec![
        json!({"type": "proc", "source": "proc", "destination": "/proc", "options": quiet}),
        json!({"type": "tmpfs", "source": "tmpfs", "destination": "/dev",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"type": "sysfs", "source": "sysfs", "destination": "/sys",
            "options": ["nosuid", "noexec", "nodev", "ro"]}),
    ]
}

fn capabilities(wanted: &Capabilities) -> Result<Vec<String>> {
    ensure!(
        wanted.drop.as_deref() == Some(&["ALL".to_owned()]),
        "not all capabilities are dropped first"
    );
    let added = wanted.add.iter().flatten();
    Ok(added.map(|name| format!("CAP_{name}")).collect())
}

fn volume_mount(
    volume: &Volume,
    mount: &VolumeMount,
    host: impl Fn(&str) -> Result<std::path::PathBuf>,
) -> Result<Value> {
    let Some(path) = &volume.host_path else {
        bail!("volume {} is no path of the node", volume.name);
    };
    ensure!(
        mount.mount_propagation.as_deref() != Some("Bidirectional"),
        "only privileged containers may mount for the node"
    );
    Ok(bind(
        &host(&path.path)?,
        &mount.mount_path,
        mount.read_only == Some(true),
    ))
}
