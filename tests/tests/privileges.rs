//! What kchaos needs to do its work, and where it must not have it from.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use chaos_userspace::host::privilege::{INSTEAD, NEEDED, Needed};
use chaos_userspace::inject::engine::Engine;
use chaos_userspace::spec::{Fault, network};
use integration_tests::capability::{file_errors_missing, has_tcx};
use integration_tests::cgroup::TestCgroup;
use integration_tests::engine_scene::{Scene, fault, place, planned_of, target};
use integration_tests::kchaos::{Kchaos, binary};
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::measure::measure;
use integration_tests::netns::NetNs;
use integration_tests::patience::wait_until;
use integration_tests::spawn::{Place, Victim};
use integration_tests::tasks::read_tasks;
use serde_json::json;

/// [`NEEDED`], a bit each, or those of them that faults of calls need.
fn needed(packets: bool) -> u64 {
    NEEDED.iter().filter(|needed| packets || !needed.for_packets).fold(0, |all, needed| all | 1 << needed.bit)
}

/// What is enough for calls as well.
fn instead() -> u64 {
    INSTEAD.iter().fold(0, |all, bit| all | 1 << bit)
}

/// With all of them faults are felt, and without any one of them a run is refused by its name.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn the_capabilities_that_are_asked_for_suffice() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    // Of somebody with all capabilities, elsewhere.
    let netns = NetNs::new()?.with_clsact_where_needed()?;
    let (talker, caller) = (cgroup.child("talker")?, cgroup.child("caller")?);
    let talking = Victim::talking_to_itself(&talker, &netns, 7501)?;
    let objects = KernelObjects::now()?;
    let runner = cgroup.runner()?;
    let line = format!("inject --json --cgroup {} --loss 50% --duration 600s", talker.path().display());
    for Needed { name, bit, .. } in NEEDED {
        let without = runner.clone().with_capabilities(needed(true) & !(1 << bit));
        let finished = Kchaos::new(&line).at(&without).run()?;
        let message = finished.expect_status(8)?.error()?.message;
        ensure!(message.contains(name) && message.lines().count() == 1, "without {name}: {message:?}");
        let others = NEEDED.iter().filter(|other| other.name != name);
        ensure!(!others.into_iter().any(|other| message.contains(other.name)), "without {name}: {message:?}");
    }
    let mut running = Kchaos::new(&line).at(&runner.clone().with_capabilities(needed(true))).start()?;
    running.armed()?;
    let lost = &talking.board.datagrams.lost;
    let before = lost.load(Acquire);
    wait_until("datagrams to be lost", || lost.load(Acquire) > before + 50)?;
    running.interrupt()?.expect_status(130)?;
    if file_errors_missing()?.is_none() {
        let place = Place::default().in_cgroup(&caller);
        let calling = Victim::start(&place, "calls --call openat --wait --no-controls --pause-us 100")?;
        let failed = || read_tasks(&calling.board).first().map_or(0, |task| task.errno("EIO"));
        for capabilities in [needed(false), instead()] {
            let runner = runner.clone().with_capabilities(capabilities);
            let faults = "--fail openat=EIO@100%";
            let mut running = Kchaos::inject(faults, caller.path()).at(&runner).start()?;
            running.armed()?;
            calling.board.go.store(1, Release);
            let before = failed();
            wait_until("calls to fail", || failed() > before + 50)?;
            running.interrupt()?.expect_status(130)?;
        }
    }
    KernelObjects::now()?.since(&objects).wait_gone().map(drop)
}

/// Leaves this thread these capabilities (a bit each), of those that it has.
fn keep(capabilities: u64) -> Result<()> {
    // struct __user_cap_header_struct and two of struct __user_cap_data_struct (include/uapi/linux/capability.h).
    let header = [0x2008_0522u32, 0];
    let (low, high) = (capabilities as u32, (capabilities >> 32) as u32);
    let data = [low, low, 0, high, high, 0];
    // SAFETY: both are as long as the kernel reads.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) };
    ensure!(result == 0, "capset: {}", std::io::Error::last_os_error());
    Ok(())
}

/// What a target feels within this time is felt.
const FELT_WITHIN: Duration = Duration::from_secs(5);

/// Whether the engine makes `felt` grow with these capabilities, and why not. What is loaded goes with it.
fn inflicts(
    scene: &Scene,
    cgroup: &Path,
    fault: &Fault,
    felt: &(dyn Fn() -> u64 + Sync),
    capabilities: u64,
) -> Result<(), String> {
    let attempt = || -> Result<()> {
        keep(capabilities)?;
        let plan = planned_of(vec![fault.clone()], None)?;
        let target = target(cgroup)?;
        let engine = Engine::open(&[place(&plan, &target)], scene.options())?;
        engine.arm(0);
        let (begin, before) = (Instant::now(), felt());
        while felt() < before + 10 && begin.elapsed() < FELT_WITHIN {
            std::thread::sleep(Duration::from_millis(5));
        }
        ensure!(felt() >= before + 10, "armed, but nobody felt it");
        let closed = engine.close();
        ensure!(closed.problems.is_empty(), "{:?}", closed.problems);
        Ok(())
    };
    // Capabilities are a thread's.
    let end = std::thread::scope(|scope| scope.spawn(attempt).join());
    end.map_err(|_| "panicked".to_owned())?.map_err(|error| format!("{error:#}"))
}

/// What this kernel itself refuses without some of the capabilities, beyond kchaos' own check: loss of packets in another network
/// namespace, and failing calls.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn the_kernel_asks_for_the_same_capabilities() -> Result<()> {
    let scene = Scene::new()?;
    let (talker, caller) = (scene.cgroup.child("talker")?, scene.cgroup.child("caller")?);
    let talking = scene.victim(&talker, 7502)?;
    let calling = Victim::start(
        &Place::default().in_cgroup(&caller),
        "calls --call openat --no-controls --pause-us 100",
    )?;
    let loss = fault(network::Effect::Loss, "50%", network::Match::default(), false)?;
    let failure = Fault::Syscall(Box::new("openat=EIO@100%".parse()?));
    let lost = || talking.board.datagrams.lost.load(Acquire);
    let failed = || read_tasks(&calling.board).iter().map(|task| task.errno("EIO")).sum();
    let packets = |capabilities| {
        inflicts(&scene, talker.path(), &Fault::Network(Box::new(loss.clone())), &lost, capabilities)
    };
    let calls = |capabilities| inflicts(&scene, caller.path(), &failure, &failed, capabilities);
    let bit = |name: &str| {
        NEEDED.iter().filter(|needed| needed.name == name).map(|needed| 1 << needed.bit).sum::<u64>()
    };
    let programs = instead();
    let all = needed(true);
    for (without, capabilities, is_enough) in [
        ("none", all, true),
        ("CAP_SYS_ADMIN, but with CAP_BPF and CAP_PERFMON", all & !bit("CAP_SYS_ADMIN") | programs, false),
        ("CAP_SYS_PTRACE", all & !bit("CAP_SYS_PTRACE"), false),
        // Filters below 6.6.
        ("CAP_NET_ADMIN", all & !bit("CAP_NET_ADMIN"), has_tcx()),
    ] {
        let result = packets(capabilities);
        measure(
            "capability",
            json!({"fault": "packets", "without": without, "refused": result.as_ref().err()}),
        );
        ensure!(result.is_ok() == is_enough, "without {without}: {result:?}");
    }
    if file_errors_missing()?.is_none() {
        // The self-test makes a cgroup below the own one, which is the root cgroup here: its mode is 0555 (CAP_DAC_OVERRIDE).
        let writing = 1 << 1;
        for (with, capabilities, is_enough) in [
            ("CAP_SYS_ADMIN", needed(false) | writing, true),
            ("CAP_BPF and CAP_PERFMON", programs | writing, true),
            ("nothing", writing, false),
        ] {
            let result = calls(capabilities);
            measure("capability", json!({"fault": "calls", "with": with, "refused": result.as_ref().err()}));
            ensure!(result.is_ok() == is_enough, "with {with}: {result:?}");
        }
    }
    KernelObjects::now()?.since(&scene.objects).wait_gone().map(drop)
}

/// `struct vfs_cap_data` of revision 2 (include/uapi/linux/capability.h): these are permitted and effective.
fn file_capabilities(capabilities: u64) -> Vec<u8> {
    let (low, high) = (capabilities as u32, (capabilities >> 32) as u32);
    [0x0200_0001, low, 0, high, 0].iter().flat_map(|word: &u32| word.to_le_bytes()).collect()
}

fn set_file_capabilities(path: &Path, value: &[u8]) -> Result<()> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: two texts that end in 0 and a slice with its length.
    let result = unsafe {
        libc::setxattr(path.as_ptr(), c"security.capability".as_ptr(), value.as_ptr().cast(), value.len(), 0)
    };
    ensure!(result == 0, "security.capability: {}", std::io::Error::last_os_error());
    Ok(())
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_program_that_lends_its_rights_refuses_to_run() -> Result<()> {
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), PermissionsExt::from_mode(0o755))?;
    let copy = directory.path().join("kchaos");
    let as_nobody = || -> Result<(Option<i32>, String)> {
        let mut command = Command::new(&copy);
        command.arg("list");
        Place::default().as_nobody().apply(&mut command)?;
        let output = command.output().context("running the copy")?;
        Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let set_up = |mode: u32| -> Result<()> {
        let _first = fs::remove_file(&copy);
        fs::copy(binary()?, &copy)?;
        Ok(fs::set_permissions(&copy, PermissionsExt::from_mode(mode))?)
    };
    // Lent by nobody it says who may list runs, or lists none.
    set_up(0o755)?;
    let (status, said) = as_nobody()?;
    ensure!(status != Some(6) && !said.contains("set-user-ID"), "{status:?} {said}");
    for mode in [0o4755, 0o2755] {
        set_up(mode)?;
        let (status, said) = as_nobody()?;
        ensure!(status == Some(6) && said.contains("set-user-ID"), "{mode:o}: {status:?} {said}");
    }
    set_up(0o755)?;
    set_file_capabilities(&copy, &file_capabilities(needed(true)))?;
    let (status, said) = as_nobody()?;
    ensure!(status == Some(6) && said.contains("ambient"), "with capabilities: {status:?} {said}");
    Ok(())
}
