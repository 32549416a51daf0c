//! What kchaos needs to do its work, and where it must not have it from.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering::{Acquire, Release};

use anyhow::{Context as _, Result, ensure};
use chaos_userspace::host::privilege::NEEDED;
use chaos_userspace::inject::engine::Engine;
use chaos_userspace::spec::{Fault, network};
use integration_tests::capability::file_errors_missing;
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

/// All of [`NEEDED`], a bit each.
fn needed() -> u64 {
    NEEDED.iter().fold(0, |all, (_, bit, _)| all | 1 << bit)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn the_capabilities_that_are_asked_for_suffice_and_each_is_needed() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    // Of somebody with all capabilities, elsewhere.
    let netns = NetNs::new()?.with_clsact_where_needed()?;
    let (talker, caller) = (cgroup.child("talker")?, cgroup.child("caller")?);
    let talking = Victim::talking_to_itself(&talker, &netns, 7501)?;
    let objects = KernelObjects::now()?;
    let runner = cgroup.runner()?;
    let line = format!("inject --json --cgroup {} --loss 50% --duration 600s", talker.path().display());
    for (name, bit, _) in NEEDED {
        let without = runner.clone().with_capabilities(needed() & !(1 << bit));
        let finished = Kchaos::new(&line).at(&without).run()?;
        let message = finished.expect_status(8)?.error()?.message;
        ensure!(message.contains(name) && message.lines().count() == 1, "without {name}: {message:?}");
        let others = NEEDED.iter().filter(|(other, ..)| *other != name);
        ensure!(
            !others.into_iter().any(|(other, ..)| message.contains(other)),
            "without {name}: {message:?}"
        );
    }
    let runner = runner.with_capabilities(needed());
    let mut running = Kchaos::new(&line).at(&runner).start()?;
    running.armed()?;
    let lost = &talking.board.datagrams.lost;
    let before = lost.load(Acquire);
    wait_until("datagrams to be lost", || lost.load(Acquire) > before + 50)?;
    running.interrupt()?.expect_status(130)?;
    if file_errors_missing()?.is_none() {
        let place = Place::default().in_cgroup(&caller);
        let calling = Victim::start(&place, "calls --call openat --wait --no-controls --pause-us 100")?;
        let faults = "--fail openat=EIO@100%";
        let mut running = Kchaos::inject(faults, caller.path()).at(&runner).start()?;
        running.armed()?;
        calling.board.go.store(1, Release);
        wait_until("calls to fail", || {
            read_tasks(&calling.board).first().is_some_and(|task| task.errno("EIO") > 50)
        })?;
        running.interrupt()?.expect_status(130)?;
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

/// Whether the engine inflicts `faults` on `cgroup` with these capabilities, and why not. What is loaded goes with it.
fn inflicts(scene: &Scene, cgroup: &Path, fault: &Fault, capabilities: u64) -> Result<(), String> {
    let attempt = || -> Result<()> {
        keep(capabilities)?;
        let plan = planned_of(vec![fault.clone()], None)?;
        let target = target(cgroup)?;
        let engine = Engine::open(&[place(&plan, &target)], scene.options())?;
        engine.arm(0);
        let closed = engine.close();
        ensure!(closed.problems.is_empty(), "{:?}", closed.problems);
        Ok(())
    };
    // Capabilities are a thread's.
    let end = std::thread::scope(|scope| scope.spawn(attempt).join());
    end.map_err(|_| "panicked".to_owned())?.map_err(|error| format!("{error:#}"))
}

/// What this kernel itself refuses without each of the capabilities, beyond kchaos' own check.
#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn what_the_kernel_refuses_without_each_capability() -> Result<()> {
    let scene = Scene::new()?;
    let (talker, caller) = (scene.cgroup.child("talker")?, scene.cgroup.child("caller")?);
    let _talking = scene.victim(&talker, 7502)?;
    let loss = fault(network::Effect::Loss, "50%", network::Match::default(), false)?;
    let mut faults = vec![("packets", talker.path(), Fault::Network(Box::new(loss)))];
    if file_errors_missing()?.is_none() {
        faults.push(("calls", caller.path(), Fault::Syscall(Box::new("openat=EIO@100%".parse()?))));
    }
    for (what, cgroup, fault) in &faults {
        inflicts(&scene, cgroup, fault, needed()).map_err(|error| anyhow::anyhow!("{what}: {error}"))?;
    }
    for (name, bit, _) in NEEDED {
        let without = needed() & !(1 << bit);
        let refused: BTreeMap<_, _> = faults
            .iter()
            .filter_map(|(what, cgroup, fault)| {
                Some((*what, inflicts(&scene, cgroup, fault, without).err()?))
            })
            .collect();
        measure("capability", json!({"capability": name, "refused_without": refused}));
        ensure!(!refused.is_empty(), "this kernel needs no {name}, for which kchaos asks");
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
    set_file_capabilities(&copy, &file_capabilities(needed()))?;
    let (status, said) = as_nobody()?;
    ensure!(status == Some(6) && said.contains("ambient"), "with capabilities: {status:?} {said}");
    Ok(())
}
