//! Pods of a real containerd: found by name, label and container, hit, and their neighbours spared.

use std::sync::atomic::Ordering::Acquire;

use anyhow::{Result, ensure};
use integration_tests::capability::{has_tool, on_host};
use integration_tests::cgroup::TestCgroup;
use integration_tests::containerd::{Container, Containerd};
use integration_tests::kchaos::Kchaos;
use integration_tests::loss::Traffic;
use integration_tests::measure::measure;
use integration_tests::patience::wait_until;
use integration_tests::skip;
use serde_json::json;

/// Sends itself datagrams; containers share the machine's loopback device.
fn talk(port: u16) -> String {
    format!("udp-pair --to 127.0.0.1:{port} --rate-per-ms 1")
}

fn lost(container: &Container) -> u64 {
    container.board.datagrams.lost.load(Acquire)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_pod_and_a_container_of_it_are_hit_and_neighbours_are_not() -> Result<()> {
    if on_host() || !has_tool("containerd") {
        skip!("containerd is in the image of the test machines");
    }
    let mut containerd = Containerd::start()?;
    let web = containerd.pod("shop/web", &[("app", "web")])?;
    let db = containerd.pod("shop/db", &[("app", "db")])?;
    let nginx = containerd.container(&web, "nginx", &talk(7_901))?;
    let proxy = containerd.container(&web, "proxy", &talk(7_902))?;
    let other = containerd.container(&db, "nginx", &talk(7_903))?;
    let cgroup = TestCgroup::new()?;
    let runner = cgroup.runner()?;

    let path = |container: &Container| container.cgroup.path().to_string_lossy().into_owned();
    let short = &proxy.id[..12];
    let by_id = format!("--container {short}");
    for target in ["--pod shop/web:proxy", "--container proxy", "--pod-label app=web:proxy", &by_id] {
        let line = format!("inject --json {target} --loss 50% --duration 600s");
        let mut running = Kchaos::new(&line).at(&runner).start()?;
        let armed = running.armed()?;
        ensure!(armed.cgroup == path(&proxy), "{target}: {} was hit", armed.cgroup);
        let before = lost(&proxy);
        wait_until("datagrams of a container to be lost", || lost(&proxy) > before + 20)?;
        ensure!(running.interrupt()?.summary()?.rule()?.injected.events >= 20, "{target}");
    }
    // Both containers of the pod, and whatever else is in it.
    ensure!(lost(&nginx) == 0, "a sibling in the same pod lost {} datagrams", lost(&nginx));
    let mut running =
        Kchaos::new("inject --json --pod shop/web --loss 50% --duration 600s").at(&runner).start()?;
    let pod = running.armed()?.cgroup;
    ensure!(path(&nginx).starts_with(&pod) && path(&proxy).starts_with(&pod), "{pod} was hit");
    for container in [&nginx, &proxy] {
        let before = lost(container);
        wait_until("datagrams of a pod to be lost", || lost(container) > before + 20)?;
    }
    running.interrupt()?;
    let spared = Traffic::of_stopped(&other.board)?;
    spared.check_unharmed()?;
    measure("containerd", json!({"bystander_sent": spared.sent, "lost": [lost(&nginx), lost(&proxy)]}));
    // One of this name in each pod.
    let refused = Kchaos::new("plan --json --container nginx --loss 1%").at(&runner).run()?;
    let message = refused.expect_status(2)?.error()?.message;
    ensure!(message.contains(&nginx.id[..12]) && message.contains(&other.id[..12]), "{message}");
    Ok(())
}
