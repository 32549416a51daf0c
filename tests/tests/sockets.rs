//! Traffic of the target that its faults do not reach: sockets that it uses but did not create, as socket activation passes
//! them on, and ways past the hooks. Both are told, and neither is where there is none.

use std::net::UdpSocket;
use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering::Acquire;

use anyhow::{Context as _, Result, ensure};
use integration_tests::board::Role;
use integration_tests::cgroup::{TestCgroup, mount_point};
use integration_tests::kchaos::{Kchaos, binary};
use integration_tests::loss::Traffic;
use integration_tests::netns::NetNs;
use integration_tests::patience::wait_until;
use integration_tests::plan::plan;
use integration_tests::spawn::{Place, Process, Victim};
use serde_json::{Value, json};

/// Path of the cgroup of this test, where it creates its sockets.
fn own_cgroup() -> Result<String> {
    let table = std::fs::read_to_string("/proc/self/cgroup")?;
    let path = table.lines().find_map(|line| line.strip_prefix("0::/")).context("no cgroup v2")?;
    let full = if path.is_empty() { mount_point()? } else { mount_point()?.join(path) };
    Ok(full.display().to_string())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn sockets_that_were_passed_on_are_told_and_not_hit() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let netns = NetNs::new()?.with_clsact_where_needed()?;
    let runner = cgroup.runner()?.in_netns(&netns);
    let target = cgroup.child("target")?;
    let flags = format!("--cgroup {} --loss 100%", target.path().display());
    let mut own = Victim::talking_to_itself(&target, &netns, 7401)?;
    let ordinary = plan(&flags)?;
    ensure!(ordinary["foreign_sockets"]["count"] == 0 && ordinary["warnings"] == json!([]), "{ordinary}");

    // As a manager does: it opens the socket, and the service is started with it.
    let (receiver, passed_on) = netns.enter(|| {
        let receiver = UdpSocket::bind("127.0.0.1:7402")?;
        receiver.set_nonblocking(true)?;
        let passed_on = UdpSocket::bind("127.0.0.1:7403")?;
        passed_on.connect("127.0.0.1:7402")?;
        Ok((receiver, passed_on))
    })?;
    let mut service = Command::new("sh");
    service.args(["-c", "while :; do echo activated >&0; sleep 0.01; done"]);
    service.stdin(Stdio::from(OwnedFd::from(passed_on)));
    Place::default().in_cgroup(&target).in_netns(&netns).apply(&mut service)?;
    let service = Process::start(service)?;
    let arrives = || {
        let mut datagram = [0; 64];
        std::iter::from_fn(|| receiver.recv(&mut datagram).ok()).count()
    };
    wait_until("the service's datagrams", || arrives() > 0)?;

    let told = |sockets: &Value| -> Result<()> {
        let example = &sockets["examples"][0];
        ensure!(sockets["count"] == 1, "{sockets}");
        ensure!(example["protocol"] == "udp" && example["comm"] == "sh", "{sockets}");
        ensure!(example["local"] == "127.0.0.1:7403" && example["remote"] == "127.0.0.1:7402", "{sockets}");
        ensure!(example["created_in"] == json!(own_cgroup()?), "{sockets}");
        // The shell and its sleep both have it.
        ensure!(example["pid"].as_u64().is_some_and(|pid| pid >= u64::from(service.pid())), "{sockets}");
        Ok(())
    };
    let planned = plan(&flags)?;
    told(&planned["foreign_sockets"])?;
    ensure!(planned["warnings"].to_string().contains("did not create"), "{planned}");

    let mut running = Kchaos::new(&format!("inject --json {flags} --duration 600s")).at(&runner).start()?;
    running.armed()?;
    let sent = &own.board.datagrams.sent;
    let before = sent.load(Acquire);
    wait_until("the target's own datagrams", || sent.load(Acquire) > before + 100)?;
    arrives();
    let mut arrived = 0;
    wait_until("datagrams of a socket that was passed on", || {
        arrived += arrives();
        arrived > 10
    })?;
    let finished = running.interrupt()?;
    told(&finished.events("summary").first().context("no summary")?["foreign_sockets"])?;
    ensure!(finished.summary()?.rule()?.injected.events >= 50);
    own.stop(Role::Second)?;
    Traffic::read(&own.board)?.check_silent()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn ways_past_the_hooks_are_told_where_they_are_used() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let netns = NetNs::new()?;
    let (target, ordinary) = (cgroup.child("target")?, cgroup.child("ordinary")?);
    let asleep = |place: &Place, fds: Option<(OwnedFd, OwnedFd)>| -> Result<Process> {
        let mut command = Command::new("sleep");
        command.arg("3600").stdin(Stdio::null()).stdout(Stdio::null());
        if let Some((one, two)) = fds {
            command.stdin(Stdio::from(one)).stdout(Stdio::from(two));
        }
        place.apply(&mut command)?;
        Process::start(command)
    };
    let place = |cgroup| Place::default().in_cgroup(cgroup).in_netns(&netns);
    let (unix, packet, _peer) = netns.enter(|| {
        let (unix, peer) = UnixStream::pair()?;
        // SAFETY: plain numbers; the descriptor is new and nobody else's.
        let packet = unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0);
            ensure!(fd >= 0, "a packet socket: {}", std::io::Error::last_os_error());
            OwnedFd::from_raw_fd(fd)
        };
        Ok((unix, packet, peer.as_fd().try_clone_to_owned()?))
    })?;
    let _hit = asleep(&place(&target), Some((unix.into(), packet)))?;
    let _other = asleep(&place(&ordinary), None)?;
    let bypasses = |cgroup: &integration_tests::cgroup::Cgroup, fault: &str| -> Result<Value> {
        let planned = plan(&format!("--cgroup {} {fault}", cgroup.path().display()))?;
        Ok(planned["bypasses"].clone())
    };
    let found = bypasses(&target, "--loss 1%")?;
    let ways: Vec<_> = found.as_array().context("no array")?.iter().map(|bypass| &bypass["way"]).collect();
    ensure!(ways == ["unix", "packet"], "{found}");
    ensure!(found[0]["count"] == 1 && found[1]["examples"][0] == "of sleep", "{found}");
    ensure!(bypasses(&ordinary, "--loss 1%")? == json!([]), "{found}");
    let words = ["plan", "--loss", "1%", "--cgroup"];
    let output = Command::new(binary()?).args(words).arg(target.path()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(text.contains("Not hit: the target has 1 packet sockets (of sleep)"), "{text}");
    Ok(())
}
