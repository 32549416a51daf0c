//! Pods of a real containerd, made by its Container Runtime Interface as the node agent makes them. Their image is made here:
//! no registry is asked. Pods share the machine's network, so that no network plugin is needed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;

use anyhow::{Context as _, Result, ensure};
use chaos_userspace::host::containers::cri::Client;
use chaos_userspace::host::containers::messages::{ContainerMetadata, PodSandboxMetadata};
use serde_json::json;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::board::SharedBoard;
use crate::cgroup::{Cgroup, TestCgroup};
use crate::client::run;
use crate::patience::{wait_for, wait_until};
use crate::spawn::{Place, Process, victim_binary};

/// Where containerd listens, for the node agent and for kchaos.
const SOCKET: &str = "/run/containerd/containerd.sock";
/// Its image; nobody has a host of that name.
const IMAGE: &str = "kctest.invalid/victim:1";
/// `NamespaceMode` of a pod that has none of its own.
const NODE: i32 = 2;

// By their field numbers in runtime/v1/api.proto of k8s.io/cri-api.

#[derive(Clone, PartialEq, prost::Message)]
struct RunPodSandboxRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<PodSandboxMetadata>,
    #[prost(string, tag = "3")]
    log_directory: String,
    #[prost(message, optional, tag = "4")]
    dns_config: Option<DnsConfig>,
    #[prost(btree_map = "string, string", tag = "6")]
    labels: BTreeMap<String, String>,
    #[prost(message, optional, tag = "8")]
    linux: Option<LinuxPodSandboxConfig>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct DnsConfig {
    #[prost(string, repeated, tag = "1")]
    servers: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LinuxPodSandboxConfig {
    #[prost(string, tag = "1")]
    cgroup_parent: String,
    #[prost(message, optional, tag = "2")]
    security_context: Option<LinuxSandboxSecurityContext>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LinuxSandboxSecurityContext {
    #[prost(message, optional, tag = "1")]
    namespace_options: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct NamespaceOption {
    #[prost(int32, tag = "1")]
    network: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct RunPodSandboxResponse {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CreateContainerRequest {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<PodSandboxConfig>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    image: Option<ImageSpec>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
    #[prost(message, repeated, tag = "7")]
    mounts: Vec<Mount>,
    #[prost(string, tag = "11")]
    log_path: String,
    #[prost(message, optional, tag = "15")]
    linux: Option<LinuxContainerConfig>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ImageSpec {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Mount {
    #[prost(string, tag = "1")]
    container_path: String,
    #[prost(string, tag = "2")]
    host_path: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LinuxContainerConfig {
    #[prost(message, optional, tag = "2")]
    security_context: Option<LinuxContainerSecurityContext>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct LinuxContainerSecurityContext {
    #[prost(message, optional, tag = "1")]
    capabilities: Option<Capability>,
    #[prost(message, optional, tag = "3")]
    namespace_options: Option<NamespaceOption>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Capability {
    #[prost(string, repeated, tag = "1")]
    add_capabilities: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CreateContainerResponse {
    #[prost(string, tag = "1")]
    container_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ContainerRequest {
    #[prost(string, tag = "1")]
    container_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct SandboxRequest {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Empty {}

/// A containerd with a state of its own, which goes with this value and takes all pods with it.
pub struct Containerd {
    sandboxes: Vec<String>,
    client: Client,
    runtime: Runtime,
    _daemon: Process,
    scratch: TempDir,
    cgroup: TestCgroup,
}

/// A pod.
pub struct Pod {
    sandbox: String,
    config: PodSandboxConfig,
}

/// A container with a victim in it.
pub struct Container {
    /// Its whole id.
    pub id: String,
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// Where the victim reports.
    pub board: Arc<SharedBoard>,
}

fn settings(scratch: &Path) -> String {
    let scratch = scratch.display();
    // A root directory that may lie on an overlay needs a snapshotter that copies.
    format!(
        "version = 2\nroot = \"{scratch}/root\"\nstate = \"{scratch}/state\"\n[grpc]\naddress = \"{SOCKET}\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = \"{IMAGE}\"\ndisable_apparmor = true\n\
         disable_tcp_service = true\nrestrict_oom_score_adj = true\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n\
         [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc.options]\nSystemdCgroup = false\n"
    )
}

/// Runs a program to its end, and returns what it printed.
fn printed(words: &[&str]) -> Result<String> {
    Ok(run(&Place::default(), words)?.expect(0)?.out)
}

/// Puts a file among the blobs of an image; how others refer to it.
fn blob(image: &Path, file: &str, media: &str) -> Result<serde_json::Value> {
    let sum = printed(&["sha256sum", &image.join(file).display().to_string()])?;
    let digest = sum.split_whitespace().next().context("no digest")?.to_owned();
    let size = fs::metadata(image.join(file))?.len();
    fs::rename(image.join(file), image.join("blobs/sha256").join(&digest))?;
    Ok(json!({"mediaType": media, "digest": format!("sha256:{digest}"), "size": size}))
}

/// An image in the layout of the Open Container Initiative, with the victim as its only file; the archive's name.
fn make_image(scratch: &Path) -> Result<String> {
    let (image, root) = (scratch.join("image"), scratch.join("rootfs"));
    fs::create_dir_all(image.join("blobs/sha256"))?;
    fs::create_dir_all(&root)?;
    fs::copy(victim_binary()?, root.join("victim")).context("copying the victim")?;
    let text = |path: &Path| path.display().to_string();
    printed(&["tar", "-C", &text(&root), "-cf", &text(&image.join("layer.tar")), "victim"])?;
    let layer = blob(&image, "layer.tar", "application/vnd.oci.image.layer.v1.tar")?;
    let config = json!({"architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": ["/victim", "sleep"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}});
    fs::write(image.join("config"), config.to_string())?;
    let config = blob(&image, "config", "application/vnd.oci.image.config.v1+json")?;
    let media = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": media, "config": config, "layers": [layer]});
    fs::write(image.join("manifest"), manifest.to_string())?;
    let mut manifest = blob(&image, "manifest", media)?;
    manifest["annotations"] = json!({"io.containerd.image.name": IMAGE});
    fs::write(image.join("index.json"), json!({"schemaVersion": 2, "manifests": [manifest]}).to_string())?;
    fs::write(image.join("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}).to_string())?;
    let archive = text(&scratch.join("image.tar"));
    printed(&["tar", "-C", &text(&image), "-cf", &archive, "oci-layout", "index.json", "blobs"])?;
    Ok(archive)
}

impl Containerd {
    /// Starts one without pods.
    pub fn start() -> Result<Self> {
        ensure!(!Path::new(SOCKET).exists(), "{SOCKET} is there already");
        let scratch = tempfile::tempdir().context("making a directory for containerd")?;
        let cgroup = TestCgroup::new()?;
        let file = scratch.path().join("config.toml");
        fs::write(&file, settings(scratch.path()))?;
        let log = fs::File::create(scratch.path().join("log"))?;
        let mut daemon = Command::new("containerd");
        daemon.arg("--config").arg(&file).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Place::default().in_cgroup(&cgroup.child("containerd")?).apply(&mut daemon)?;
        let mut daemon = Process::start(daemon)?;
        let said = || fs::read_to_string(scratch.path().join("log")).unwrap_or_default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (client, _) = wait_for("containerd to listen", || {
            ensure!(daemon.ended()?.is_none(), "containerd has ended");
            Ok(runtime.block_on(Client::connect(SOCKET)).ok())
        })
        .with_context(said)?;
        let image = make_image(scratch.path())?;
        let import =
            ["ctr", "-a", SOCKET, "-n", "k8s.io", "images", "import", "--snapshotter", "native", &image];
        wait_for("containerd to take the image", || Ok(printed(&import).ok())).with_context(said)?;
        Ok(Self { sandboxes: vec![], client, runtime, _daemon: daemon, scratch, cgroup })
    }

    fn call<Q, A>(&mut self, method: &'static str, question: Q) -> Result<A>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        let answer = self.runtime.block_on(self.client.call(method, question));
        answer.map_err(|status| anyhow::anyhow!("{method}: {status}")).with_context(|| {
            let log = fs::read_to_string(self.scratch.path().join("log")).unwrap_or_default();
            let last: Vec<_> = log.lines().rev().take(20).collect();
            format!("containerd said at last: {last:#?}")
        })
    }

    /// Runs a pod that is called `NAMESPACE/NAME`.
    pub fn pod(&mut self, pod: &str, labels: &[(&str, &str)]) -> Result<Pod> {
        let (namespace, name) = pod.split_once('/').unwrap_or(("default", pod));
        let uid = format!("{:08x}-11aa-{:04x}", std::process::id(), self.sandboxes.len());
        let parent = self.cgroup.root().path().file_name().context("no name")?.to_string_lossy().into_owned();
        let logs = self.scratch.path().join(&uid);
        fs::create_dir_all(&logs)?;
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: uid.clone(),
                namespace: namespace.to_owned(),
            }),
            log_directory: logs.display().to_string(),
            dns_config: Some(DnsConfig { servers: vec!["192.0.2.1".to_owned()] }),
            labels,
            linux: Some(LinuxPodSandboxConfig {
                cgroup_parent: format!("/{parent}/kubepods/burstable/pod{uid}"),
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(NamespaceOption { network: NODE }),
                }),
            }),
        };
        let question = RunPodSandboxRequest { config: Some(config.clone()) };
        let made: RunPodSandboxResponse = self.call("/runtime.v1.RuntimeService/RunPodSandbox", question)?;
        self.sandboxes.push(made.pod_sandbox_id.clone());
        Ok(Pod { sandbox: made.pod_sandbox_id, config })
    }

    /// Starts a container in a pod, in which the victim runs, and waits until the victim is prepared.
    pub fn container(&mut self, pod: &Pod, name: &str, victim: &str) -> Result<Container> {
        let board_file = self.scratch.path().join(format!("board-{}-{name}", pod.sandbox));
        let board = Arc::new(SharedBoard::create_at(&board_file)?);
        let mut command = vec!["/victim".to_owned(), "--board".to_owned(), "/board".to_owned()];
        command.extend(victim.split_whitespace().map(str::to_owned));
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned() }),
            image: Some(ImageSpec { image: IMAGE.to_owned() }),
            command,
            mounts: vec![Mount {
                container_path: "/board".to_owned(),
                host_path: board_file.display().to_string(),
            }],
            log_path: format!("{name}.log"),
            // The victim makes its buffers larger than others may.
            linux: Some(LinuxContainerConfig {
                security_context: Some(LinuxContainerSecurityContext {
                    capabilities: Some(Capability { add_capabilities: vec!["NET_ADMIN".to_owned()] }),
                    namespace_options: Some(NamespaceOption { network: NODE }),
                }),
            }),
        };
        let question = CreateContainerRequest {
            pod_sandbox_id: pod.sandbox.clone(),
            config: Some(config),
            sandbox_config: Some(pod.config.clone()),
        };
        let made: CreateContainerResponse =
            self.call("/runtime.v1.RuntimeService/CreateContainer", question)?;
        let id = made.container_id;
        let start = ContainerRequest { container_id: id.clone() };
        let _: Empty = self.call("/runtime.v1.RuntimeService/StartContainer", start)?;
        let said = || {
            let log = Path::new(&pod.config.log_directory).join(format!("{name}.log"));
            format!("the victim said: {:?}", fs::read_to_string(log).unwrap_or_default())
        };
        wait_until("the victim of a container", || board.ready.load(Acquire) != 0).with_context(said)?;
        let parent =
            pod.config.linux.as_ref().map(|linux| linux.cgroup_parent.trim_start_matches('/').to_owned());
        let mount = crate::cgroup::mount_point()?;
        let cgroup = Cgroup::existing(mount.join(parent.unwrap_or_default()).join(&id));
        ensure!(cgroup.exists(), "{} is not there", cgroup.path().display());
        Ok(Container { id, cgroup, board })
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for pod_sandbox_id in std::mem::take(&mut self.sandboxes) {
            for method in
                ["/runtime.v1.RuntimeService/StopPodSandbox", "/runtime.v1.RuntimeService/RemovePodSandbox"]
            {
                let question = SandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
                if let Err(error) = self.call::<_, Empty>(method, question) {
                    eprintln!("could not remove a pod of the test: {error:#}");
                }
            }
        }
        // It would be in the way of the next one only, which says so.
        let _ignored = fs::remove_file(SOCKET);
    }
}
