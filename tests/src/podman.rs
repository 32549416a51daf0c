//! Containers of Podman. Each has a root directory made here, with nothing in it but the victim and its board: no registry
//! is asked.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering::Acquire;

use anyhow::{Context as _, Result, ensure};
use tempfile::TempDir;

use crate::board::SharedBoard;
use crate::capability::has_tool;
use crate::cgroup::{Cgroup, TestCgroup, mount_point};
use crate::patience::wait_until;
use crate::spawn::{Place, Process, victim_binary};

/// Why containers cannot be started here, if they cannot.
pub fn missing() -> Result<Option<String>> {
    if !has_tool("podman") {
        return Ok(Some("no podman".into()));
    }
    // It executes itself anew, from memory, before it looks for what it is to run.
    let empty = tempfile::tempdir().context("making a directory for crun")?;
    let mut crun = Command::new("crun");
    crun.arg("--root").arg(empty.path()).arg("run").arg("--bundle").arg(empty.path()).arg("nothing");
    let output = crun.stdin(Stdio::null()).output().context("running crun")?;
    let said = String::from_utf8_lossy(&output.stderr);
    Ok(said.contains("re-execute").then(|| format!("crun does not start here: {}", said.trim())))
}

/// Podman with a state of its own, which goes with this value and takes all containers with it.
pub struct Podman {
    scratch: TempDir,
    /// Of its containers, and of itself: a service that finds itself in the root cgroup moves everybody who is there.
    cgroup: TestCgroup,
    own: Place,
}

impl Podman {
    /// Makes one without containers.
    pub fn new() -> Result<Self> {
        let scratch = tempfile::tempdir().context("making a directory for podman")?;
        let cgroup = TestCgroup::new()?;
        let own = Place::default().in_cgroup(&cgroup.child("podman")?);
        Ok(Self { scratch, cgroup, own })
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new("podman");
        for (flag, name) in [("--root", "root"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(flag).arg(self.scratch.path().join(name));
        }
        command
            .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"])
            .args(["--runtime", "crun", "--log-level", "error"])
            .stdin(Stdio::null());
        self.own.apply(&mut command)?;
        Ok(command)
    }

    /// Runs podman with these words, and returns what it printed.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        let output = self.command()?.args(words).output().context("running podman")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "podman {words:?}: {}: {}", output.status, said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Starts a container of this name, in a network namespace with nothing but loopback, in which the victim runs, and waits
    /// until the victim is prepared.
    pub fn container(&self, name: &str, victim: &str) -> Result<Container<'_>> {
        let root = self.scratch.path().join(name);
        // What is mounted there; without them they would be made, which is as good.
        fs::create_dir_all(root.join("tmp")).with_context(|| root.display().to_string())?;
        fs::copy(victim_binary()?, root.join("victim")).context("copying the victim")?;
        let board = Arc::new(SharedBoard::create_at(&root.join("board"))?);
        let pid_file = root.with_extension("pid");
        let (root_text, pid_text) = (root.display().to_string(), pid_file.display().to_string());
        let parent = format!("/{}", name_of(self.cgroup.root().path())?);
        let log = format!("path={}", root.with_extension("log").display());
        let mut words =
            vec!["run", "--detach", "--name", name, "--network", "none", "--cgroup-parent", &parent];
        // The victim makes its buffers larger than others may.
        words.extend(["--cap-add", "NET_ADMIN", "--log-driver", "k8s-file", "--log-opt", &log]);
        words.extend(["--pidfile", &pid_text, "--rootfs", &root_text, "/victim", "--board", "/board"]);
        words.extend(victim.split_whitespace());
        let id = self.run(&words)?;
        let container = Container { podman: self, name: name.to_owned(), id, root, pid_file, board };
        container.ready()?;
        Ok(container)
    }

    /// Serves podman's API where kchaos looks for it.
    pub fn serve(&self) -> Result<Service> {
        let socket = Path::new("/run/podman/podman.sock");
        ensure!(!socket.exists(), "{} is there already", socket.display());
        fs::create_dir_all("/run/podman").context("making /run/podman")?;
        let mut command = self.command()?;
        command.args(["system", "service", "--time=0", "unix:///run/podman/podman.sock"]);
        let service = Service { _process: Process::start(command)?, socket: socket.to_owned() };
        wait_until("podman's service", || socket.exists())?;
        Ok(service)
    }
}

fn name_of(path: &Path) -> Result<String> {
    let name = path.file_name().with_context(|| path.display().to_string())?;
    Ok(name.to_string_lossy().into_owned())
}

impl Drop for Podman {
    fn drop(&mut self) {
        if let Err(error) = self.run(&["rm", "--all", "--force", "--time", "0"]) {
            eprintln!("could not remove the test's containers: {error:#}");
        }
    }
}

/// Podman's API, ended with this value.
pub struct Service {
    _process: Process,
    socket: PathBuf,
}

impl Drop for Service {
    fn drop(&mut self) {
        // It would be in the way of the next one only, which says so.
        let _ignored = fs::remove_file(&self.socket);
    }
}

/// A container with a victim in it.
pub struct Container<'a> {
    podman: &'a Podman,
    name: String,
    /// Its whole id.
    pub id: String,
    root: PathBuf,
    pid_file: PathBuf,
    /// Where the victim reports.
    pub board: Arc<SharedBoard>,
}

impl Container<'_> {
    fn ready(&self) -> Result<()> {
        let what = format!("the victim in container {}", self.name);
        let ready = wait_until(&what, || self.board.ready.load(Acquire) != 0);
        let said = || fs::read_to_string(self.root.with_extension("log")).unwrap_or_default();
        ready.map(drop).with_context(|| format!("the victim said: {:?}", said()))
    }

    /// Process id of the victim, in the namespace of this test.
    pub fn pid(&self) -> Result<u32> {
        let text = fs::read_to_string(&self.pid_file)
            .with_context(|| format!("reading {}", self.pid_file.display()))?;
        text.trim().parse().with_context(|| format!("{} has {text:?}", self.pid_file.display()))
    }

    /// The cgroup that the victim is in.
    pub fn cgroup(&self) -> Result<Cgroup> {
        let table = fs::read_to_string(format!("/proc/{}/cgroup", self.pid()?))
            .with_context(|| format!("container {} does not run", self.name))?;
        let path = table.lines().find_map(|line| line.strip_prefix("0::/")).context("no cgroup v2")?;
        Ok(Cgroup::existing(mount_point()?.join(path)))
    }

    /// Ends the victim and keeps the container, without its cgroup.
    pub fn stop(&self) -> Result<()> {
        let cgroup = self.cgroup()?;
        self.podman.run(&["stop", "--time", "0", &self.name])?;
        wait_until("a stopped container's cgroup to go", || !cgroup.exists()).map(drop)
    }

    /// Starts the container again, with a new board, and waits until the victim is prepared.
    pub fn start(&mut self) -> Result<()> {
        let board = self.root.join("board");
        fs::remove_file(&board).with_context(|| board.display().to_string())?;
        self.board = Arc::new(SharedBoard::create_at(&board)?);
        self.podman.run(&["start", &self.name])?;
        self.ready()
    }
}
