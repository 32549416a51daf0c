//! Process 1 of a test machine: mounts the usual file systems, puts the software image below a writable layer,
//! runs the tests and powers off.
//!
//! The runner reads everything from the second serial port, one line at a time: the first carries the kernel's
//! own messages, which would otherwise break into the results.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::termios::{self, SetArg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, chdir, chroot};
use serde::Deserialize;
use serde_json::json;

/// What the runner packed for us, in `/kchaos/run.json`.
#[derive(Deserialize)]
struct Orders {
    /// Files in `/modules`, dependencies first.
    modules: Vec<String>,
    tests: Vec<Test>,
    environment: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Test {
    /// File in `/kchaos/tests`.
    program: String,
    arguments: Vec<String>,
}

/// The line to the runner; lines of several writers stay whole.
#[derive(Clone)]
struct Port(Arc<Mutex<File>>);

impl Port {
    fn open() -> Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open("/dev/ttyS1").context("/dev/ttyS1")?;
        let mut settings = termios::tcgetattr(file.as_fd())?;
        termios::cfmakeraw(&mut settings);
        termios::tcsetattr(file.as_fd(), SetArg::TCSANOW, &settings)?;
        Ok(Self(Arc::new(Mutex::new(file))))
    }

    fn line(&self, line: &[u8]) {
        let mut whole = line.to_vec();
        whole.push(b'\n');
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // There is nobody else to tell.
        let _ignored = file.write_all(&whole);
    }

    fn report(&self, what: &serde_json::Value) {
        self.line(what.to_string().as_bytes());
    }

    fn drain(&self) {
        let file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ignored = termios::tcdrain(file.as_fd());
    }
}

fn main() {
    let port = early_mounts().and_then(|()| Port::open());
    match &port {
        Ok(port) => {
            let end = match live(port) {
                Ok(()) => json!({"vm": "end"}),
                Err(error) => json!({"vm": "error", "message": format!("{error:#}")}),
            };
            port.report(&end);
            port.drain();
        }
        Err(error) => eprintln!("vm-init: {error:#}"),
    }
    nix::unistd::sync();
    // Returning from process 1 would be a kernel panic, which ends the machine as well.
    let _ignored = reboot(RebootMode::RB_POWER_OFF);
}

fn live(port: &Port) -> Result<()> {
    let kernel = nix::sys::utsname::uname()?;
    port.report(&json!({"vm": "booted", "uname": kernel.release().to_string_lossy()}));
    let orders: Orders = serde_json::from_slice(&fs::read("/kchaos/run.json").context("/kchaos/run.json")?)?;
    for module in &orders.modules {
        load(module)?;
    }
    enter_image().context("the software image")?;
    late_mounts()?;
    run_quietly("ip", &["link", "set", "lo", "up"])?;
    for test in &orders.tests {
        run_test(port, &orders, test)?;
    }
    Ok(())
}

fn special(kind: &str, at: &str) -> Result<()> {
    fs::create_dir_all(at).with_context(|| at.to_owned())?;
    mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("{kind} on {at}"))
}

fn early_mounts() -> Result<()> {
    special("devtmpfs", "/dev")?;
    special("proc", "/proc")?;
    special("sysfs", "/sys")
}

fn load(module: &str) -> Result<()> {
    let file = File::open(Path::new("/modules").join(module)).with_context(|| module.to_owned())?;
    match nix::kmod::finit_module(&file, c"", nix::kmod::ModuleInitFlags::empty()) {
        // EEXIST: another module pulled it in. ENODEV: for hardware that is not there.
        Ok(()) | Err(nix::Error::EEXIST | nix::Error::ENODEV) => Ok(()),
        Err(error) => bail!("module {module}: {error}"),
    }
}

/// The image, writable through a layer in memory, becomes the root.
fn enter_image() -> Result<()> {
    wait_for_file("/dev/vda")?;
    for dir in ["/image", "/layer", "/root"] {
        fs::create_dir_all(dir)?;
    }
    mount(Some("/dev/vda"), "/image", Some("ext4"), MsFlags::MS_RDONLY, None::<&str>)
        .context("ext4 on /dev/vda")?;
    mount(Some("layer"), "/layer", Some("tmpfs"), MsFlags::empty(), None::<&str>).context("tmpfs")?;
    fs::create_dir("/layer/upper")?;
    fs::create_dir("/layer/work")?;
    let layers = "lowerdir=/image,upperdir=/layer/upper,workdir=/layer/work";
    mount(Some("overlay"), "/root", Some("overlay"), MsFlags::empty(), Some(layers)).context("overlay")?;
    fs::create_dir_all("/root/kchaos")?;
    mount(Some("/kchaos"), "/root/kchaos", None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .context("/kchaos")?;
    for dir in ["dev", "proc", "sys"] {
        let (from, to) = (format!("/{dir}"), format!("/root/{dir}"));
        fs::create_dir_all(&to)?;
        mount(Some(from.as_str()), to.as_str(), None::<&str>, MsFlags::MS_MOVE, None::<&str>)
            .context(from)?;
    }
    chdir("/root")?;
    mount(Some("."), "/", None::<&str>, MsFlags::MS_MOVE, None::<&str>).context("switch root")?;
    chroot(".")?;
    chdir("/")?;
    Ok(())
}

fn late_mounts() -> Result<()> {
    for (kind, at) in [
        ("devpts", "/dev/pts"),
        ("tmpfs", "/dev/shm"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
        ("cgroup2", "/sys/fs/cgroup"),
        ("securityfs", "/sys/kernel/security"),
        ("debugfs", "/sys/kernel/debug"),
        ("tracefs", "/sys/kernel/tracing"),
        ("bpf", "/sys/fs/bpf"),
    ] {
        special(kind, at)?;
    }
    fs::create_dir_all("/run/netns")?;
    fs::write("/proc/sys/kernel/hostname", "kchaos-vm")?;
    Ok(())
}

fn wait_for_file(path: &str) -> Result<()> {
    let start = Instant::now();
    while !Path::new(path).exists() {
        if start.elapsed() > Duration::from_secs(30) {
            bail!("no {path} after 30 s; which driver is missing?");
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn path() -> &'static str {
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

fn run_quietly(program: &str, args: &[&str]) -> Result<()> {
    // The standard library looks a program up in the PATH given to the child.
    let status =
        Command::new(program).args(args).env("PATH", path()).status().with_context(|| program.to_owned())?;
    if !status.success() {
        bail!("{program} {args:?}: {status}");
    }
    Ok(())
}

fn run_test(port: &Port, orders: &Orders, test: &Test) -> Result<()> {
    let name = &test.program;
    port.report(&json!({"vm": "started", "binary": name}));
    let mut child = Command::new(format!("/kchaos/tests/{name}"))
        .args(&test.arguments)
        .env_clear()
        .env("PATH", path())
        .env("HOME", "/root")
        .env("LANG", "C.UTF-8")
        .envs(&orders.environment)
        .current_dir("/tmp")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| name.clone())?;
    let readers = [forward(port, child.stdout.take()), forward(port, child.stderr.take())];
    let status = reap_until(&child)?;
    // A process left behind by a test may hold the pipes open: its output is not waited for.
    let start = Instant::now();
    while readers.iter().flatten().any(|reader| !reader.is_finished())
        && start.elapsed() < Duration::from_secs(2)
    {
        thread::sleep(Duration::from_millis(5));
    }
    port.report(&json!({"vm": "done", "binary": name, "status": status}));
    Ok(())
}

/// Passes whole lines on.
fn forward(port: &Port, from: Option<impl Read + Send + 'static>) -> Option<thread::JoinHandle<()>> {
    let port = port.clone();
    from.map(|from| {
        thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while from.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                port.line(line.strip_suffix(b"\n").unwrap_or(&line));
                line.clear();
            }
        })
    })
}

/// Waits for one child; as process 1 we also collect the orphans of all others.
fn reap_until(child: &Child) -> Result<String> {
    let wanted = i32::try_from(child.id())?;
    loop {
        match waitpid(None::<Pid>, Some(WaitPidFlag::empty())) {
            Ok(WaitStatus::Exited(pid, code)) if pid.as_raw() == wanted => return Ok(format!("exit {code}")),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid.as_raw() == wanted => {
                return Ok(format!("signal {signal}"));
            }
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => bail!("waitpid: {error}"),
        }
    }
}
