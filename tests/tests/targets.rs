//! Targets by the names that people have for them: units, processes, containers. The right cgroup is hit, its neighbour
//! is not, and what is not one target is refused.

use std::path::Path;
use std::sync::atomic::Ordering::Acquire;

use anyhow::{Result, ensure};
use integration_tests::board::Role;
use integration_tests::cgroup::TestCgroup;
use integration_tests::kchaos::Kchaos;
use integration_tests::kernel_objects::KernelObjects;
use integration_tests::loss::Traffic;
use integration_tests::netns::NetNs;
use integration_tests::patience::wait_until;
use integration_tests::spawn::Victim;

/// A container's id that no other test or container has.
fn container_id(last: char) -> String {
    format!("{:x}{}", std::process::id(), "5".repeat(64)).chars().take(63).chain([last]).collect()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn units_processes_and_containers_are_found_and_hit() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let netns = NetNs::new()?.with_clsact_where_needed()?;
    let runner = cgroup.runner()?.in_netns(&netns);
    let beside = cgroup.child(&format!("crio-conmon-{}.scope", container_id('c')))?;
    let mut other = Victim::talking_to_itself(&beside, &netns, 7100)?;
    let unit = format!("kctest{}", std::process::id());
    let targets = [
        (format!("{unit}.service"), format!("--unit {unit}")),
        (format!("_{unit}.scope"), format!("--unit {unit}.scope")),
        (format!("crio-{}.scope", container_id('c')), format!("--container {}", container_id('c'))),
        (container_id('d'), format!("--container containerd://{}", container_id('d'))),
        ("process".to_owned(), "--pid".to_owned()),
    ];
    for (port, (name, flags)) in (7101..).zip(targets) {
        // Where systemd and the kubelet put them: not at the top.
        let target = cgroup.child(&format!("slice-{port}"))?.child(&name)?;
        let mut victim = Victim::talking_to_itself(&target, &netns, port)?;
        let flags = if flags == "--pid" { format!("--pid {}", victim.pid()) } else { flags };
        let line = format!("inject --json {flags} --loss 100% --duration 600s");
        let mut running = Kchaos::new(&line).at(&runner).start()?;
        let armed = running.armed()?;
        ensure!(Path::new(&armed.cgroup) == target.path(), "{flags}: {} was hit", armed.cgroup);
        let sent = &victim.board.datagrams.sent;
        let before = sent.load(Acquire);
        wait_until("datagrams", || sent.load(Acquire) > before + 20)?;
        let finished = running.interrupt()?;
        ensure!(finished.summary()?.rule()?.injected.events >= 20, "{flags}: nothing was hit");
        victim.stop(Role::Second)?;
    }
    other.stop(Role::Second)?;
    Traffic::read(&other.board)?.check_unharmed()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn what_is_not_one_target_is_refused() -> Result<()> {
    let cgroup = TestCgroup::new()?;
    let runner = cgroup.runner()?;
    let objects = KernelObjects::now()?;
    let unit = format!("kctest{}.service", std::process::id());
    let (one, two) = (cgroup.child("a.slice")?, cgroup.child("b.slice")?);
    for slice in [&one, &two] {
        slice.child(&unit)?;
    }
    one.child(&format!("docker-{}.scope", container_id('a')))?;
    two.child(&format!("docker-{}.scope", container_id('b')))?;
    let prefix: String = container_id('a').chars().take(12).collect();
    let (of_one, of_two) = (one.path().display().to_string(), two.path().display().to_string());
    let cases: [(String, &[&str]); 10] = [
        (format!("--unit {unit}"), &[&unit, &of_one, &of_two, "--cgroup"]),
        (format!("--container {prefix}"), &[&prefix, &of_one, &of_two, "--cgroup"]),
        ("--unit kctest-is-not-there".into(), &["kctest-is-not-there.service", "systemctl"]),
        (format!("--container {}", "e".repeat(64)), &["docker ps"]),
        // Above the highest there can be (`PID_MAX_LIMIT`, include/linux/threads.h).
        ("--pid 4194305".into(), &["4194305"]),
        ("--pid 0".into(), &["0"]),
        ("--unit ../../etc".into(), &["../../etc"]),
        ("--container a/b".into(), &["a/b", "hexadecimal"]),
        ("--container kctest-is-not-there".into(), &["kctest-is-not-there", "podman ps"]),
        (String::new(), &["--unit", "--cgroup", "--pid", "--container"]),
    ];
    for (flags, named) in cases {
        for command in ["inject --duration 9s", "plan"] {
            if flags.is_empty() && command == "plan" {
                // It then explains what `exec` would do.
                continue;
            }
            let finished = Kchaos::new(&format!("{command} --json {flags} --loss 1%")).at(&runner).run()?;
            finished.expect_status(2)?;
            let error = finished.error()?;
            for name in named {
                ensure!(error.message.contains(name), "{flags}: {} does not name {name}", error.message);
            }
        }
    }
    let both = format!("inject --json --cgroup {of_one} --unit {unit} --loss 1% --duration 9s");
    Kchaos::new(&both).at(&runner).run()?.expect_status(2)?;
    KernelObjects::now()?.since(&objects).wait_gone()?;
    Ok(())
}
