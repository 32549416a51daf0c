//! Pods and containers as a runtime of Kubernetes tells them by CRI v1: found by name and label, hit with what is started in
//! them later, and their neighbours spared. The runtime is one of the tests, its containers are cgroups with victims in them.

use std::sync::atomic::Ordering::Acquire;

use anyhow::{Result, ensure};
use chaos_userspace::host::containers::messages::{ContainerState, PodSandboxState};
use integration_tests::board::Role;
use integration_tests::cgroup::{Cgroup, TestCgroup};
use integration_tests::cri::{Listing, Manner, Runtime, SOCKET};
use integration_tests::kchaos::Kchaos;
use integration_tests::loss::Traffic;
use integration_tests::netns::NetNs;
use integration_tests::patience::wait_until;
use integration_tests::plan::plan;
use integration_tests::spawn::{Place, Victim};
use serde_json::json;

/// Pods with cgroups as the node agent and containerd make them with systemd.
struct Scene {
    cgroup: TestCgroup,
    netns: NetNs,
    listing: Listing,
    containers: u32,
}

impl Scene {
    fn new() -> Result<Self> {
        let netns = NetNs::new()?.with_clsact_where_needed()?;
        Ok(Self { cgroup: TestCgroup::new()?, netns, listing: Listing::default(), containers: 0 })
    }

    fn pod(&mut self, pod: &str, labels: &[(&str, &str)]) -> Result<Pod> {
        let number = self.listing.sandboxes.len();
        let uid = format!("{:08x}-11aa-{number:04x}", std::process::id());
        let slice = self.cgroup.child(&format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_")))?;
        // One of the same name that ended.
        self.listing.add_pod(pod, "an-older-uid", labels, PodSandboxState::NotReady);
        let sandbox = self.listing.add_pod(pod, &uid, labels, PodSandboxState::Ready);
        Ok(Pod { slice, sandbox })
    }

    /// A container with its cgroup; the runtime knows it by its name.
    fn container(&mut self, pod: &Pod, name: &str) -> Result<(String, Cgroup)> {
        self.containers += 1;
        let id = format!("{:08x}{:056x}", std::process::id(), self.containers);
        self.listing.add_container(&pod.sandbox, name, &id, ContainerState::Running);
        let cgroup = pod.slice.child(&format!("cri-containerd-{id}.scope"))?;
        Ok((id, cgroup))
    }

    fn victim(&self, cgroup: &Cgroup, port: u16) -> Result<Victim> {
        Victim::talking_to_itself(cgroup, &self.netns, port)
    }

    fn runner(&self) -> Result<Place> {
        Ok(self.cgroup.runner()?.in_netns(&self.netns))
    }
}

struct Pod {
    slice: Cgroup,
    sandbox: String,
}

fn wait_for_loss(victim: &Victim) -> Result<()> {
    let lost = &victim.board.datagrams.lost;
    let before = lost.load(Acquire);
    wait_until("datagrams to be lost", || lost.load(Acquire) > before + 20).map(drop)
}

fn check_unharmed(mut victim: Victim) -> Result<()> {
    victim.stop(Role::Second)?;
    Traffic::read(&victim.board)?.check_unharmed()
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_pod_is_hit_with_what_is_started_in_it_and_its_neighbour_is_not() -> Result<()> {
    let mut scene = Scene::new()?;
    let (web, db) = (scene.pod("shop/web", &[("app", "web")])?, scene.pod("shop/db", &[("app", "db")])?);
    let (nginx, proxy) = (scene.container(&web, "nginx")?.1, scene.container(&web, "proxy")?.1);
    let other = scene.container(&db, "nginx")?.1;
    let (nginx, proxy) = (scene.victim(&nginx, 7301)?, scene.victim(&proxy, 7302)?);
    let other = scene.victim(&other, 7303)?;
    let _runtime = Runtime::start(Manner::Answers(scene.listing.clone()))?;
    let line = "inject --json --pod shop/web --loss 50% --duration 600s";
    let mut running = Kchaos::new(line).at(&scene.runner()?).start()?;
    let armed = running.armed()?;
    ensure!(armed.cgroup == web.slice.path().to_string_lossy(), "{} was hit", armed.cgroup);
    wait_for_loss(&nginx)?;
    wait_for_loss(&proxy)?;
    let again = scene.container(&web, "nginx")?.1;
    wait_for_loss(&scene.victim(&again, 7304)?)?;
    ensure!(running.interrupt()?.summary()?.rule()?.injected.events >= 60);
    check_unharmed(other)
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn one_container_of_a_pod_is_hit_and_its_sibling_is_not() -> Result<()> {
    let mut scene = Scene::new()?;
    let web = scene.pod("shop/web", &[("app", "web")])?;
    let nginx = scene.container(&web, "nginx")?.1;
    let proxy = scene.container(&web, "proxy")?.1;
    let sibling = scene.victim(&nginx, 7305)?;
    let hit = scene.victim(&proxy, 7306)?;
    let (_runtime, runner) = (Runtime::start(Manner::Answers(scene.listing.clone()))?, scene.runner()?);
    for target in ["--pod shop/web:proxy", "--container proxy", "--pod-label app=web:proxy"] {
        let line = format!("inject --json {target} --loss 50% --duration 600s");
        let mut running = Kchaos::new(&line).at(&runner).start()?;
        let armed = running.armed()?;
        ensure!(armed.cgroup == proxy.path().to_string_lossy(), "{target}: {} was hit", armed.cgroup);
        wait_for_loss(&hit)?;
        ensure!(running.interrupt()?.summary()?.rule()?.injected.events >= 20, "{target}");
    }
    check_unharmed(sibling)
}

fn refused(words: &str, status: i32, named: &[&str]) -> Result<()> {
    let finished = Kchaos::new(&format!("plan --json {words} --loss 1%")).run()?;
    let message = finished.expect_status(status)?.error()?.message;
    named.iter().try_for_each(|word| {
        ensure!(message.contains(word), "{words}: {message:?} does not name {word}");
        ensure!(!message.contains('\u{1b}'), "{words}: {message:?}");
        Ok(())
    })
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn labels_choose_pods_and_what_is_not_one_is_refused() -> Result<()> {
    let mut scene = Scene::new()?;
    let labels = [("app", "web"), ("tier", "front")];
    let (one, two) = (scene.pod("shop/web-0", &labels)?, scene.pod("shop/web-1", &labels)?);
    let other = scene.pod("shop/web-2", &labels[..1])?;
    let ids: Vec<_> = [&one, &two, &other]
        .into_iter()
        .map(|pod| Ok(scene.container(pod, "nginx")?.0))
        .collect::<Result<_>>()?;
    let gone = scene.pod("shop/gone", &[("app", "gone")])?;
    scene.listing.add_container(&gone.sandbox, "nginx", &"e".repeat(64), ContainerState::Exited);
    let runtime = Runtime::start(Manner::Answers(scene.listing.clone()))?;
    let chosen = |words: &str| Ok::<_, anyhow::Error>(plan(&format!("{words} --loss 1%"))?["chosen"].clone());
    ensure!(
        chosen("--pod-label tier=front,app=web --allow most-targets")?
            == json!([one.slice.path(), two.slice.path()])
    );
    ensure!(chosen("--pod-label app=web --select 2")?.as_array().is_some_and(|chosen| chosen.len() == 2));
    let file = std::env::temp_dir().join(format!("kctest-pods-{}.yaml", std::process::id()));
    let document = "apiVersion: kchaos.dev/v1alpha1\nkind: Experiment\nmetadata: {name: a}\nspec:\n  hypothesis: b\n  \
                    duration: 9s\n  allow: [most-targets]\n  targets: [{podLabel: 'tier=front:nginx'}, {pod: 'shop/web-2'}]\n  \
                    faults: [{name: c, network: {loss: 1%}}]\n";
    std::fs::write(&file, document)?;
    let planned = plan(&file.display().to_string());
    std::fs::remove_file(&file)?;
    let planned = planned?;
    ensure!(planned["chosen"].as_array().is_some_and(|chosen| chosen.len() == 3), "{planned}");

    refused("--container nginx", 2, &["several", &ids[0], &ids[1], &ids[2], "--pod NAMESPACE/NAME:nginx"])?;
    refused("--pod shop/web", 2, &["shop/web", "crictl pods"])?;
    refused("--pod-label app=web,tier=back", 2, &["tier=back", "crictl pods"])?;
    refused("--pod shop/web-0:proxy", 2, &["shop/web-0", "proxy", "\"nginx\""])?;
    refused("--pod-label app=gone", 2, &["shop/gone", "none of its containers runs"])?;
    refused("--pod web-0", 2, &["NAMESPACE/NAME", "default/web-0"])?;
    scene.listing.add_pod("shop/web-0", "another-uid", &[], PodSandboxState::Ready);
    runtime.set(Manner::Answers(scene.listing.clone()));
    refused("--pod shop/web-0", 2, &["several", "another-uid", "CRI-O"])?;
    // Known, but not of this host's hierarchy.
    scene.listing.add_pod("shop/far", "far-uid", &[], PodSandboxState::Ready);
    let sandbox = scene.listing.sandboxes.last().map(|sandbox| sandbox.id.clone()).unwrap_or_default();
    scene.listing.add_container(&sandbox, "nginx", &"f".repeat(64), ContainerState::Running);
    runtime.set(Manner::Answers(scene.listing.clone()));
    refused("--pod shop/far", 2, &["shop/far", &"f".repeat(64)])
}

#[test]
#[ignore = "needs root and BPF: run by cargo xtask test"]
fn a_runtime_that_does_not_answer_as_it_should_is_an_error() -> Result<()> {
    refused("--pod shop/web", 8, &["CRI", "containerd", SOCKET])?;
    let mut odd = Listing::default();
    odd.add_container("", "web", "../\u{1b}[31m", ContainerState::Running);
    let runtime = Runtime::start(Manner::Answers(odd))?;
    for words in ["--pod shop/web", "--container web"] {
        refused(words, 8, &["CRI-O", SOCKET, "no id of a container"])?;
    }
    let manners = [
        (Manner::Refuses(2, "database is locked"), "database is locked"),
        (Manner::Babbles, "CRI-O"),
        (Manner::Shouts, "CRI-O"),
        (Manner::Silent, "no answer within 10 s"),
    ];
    for (manner, said) in manners {
        runtime.set(manner);
        refused("--container web", 8, &[SOCKET, said])?;
    }
    // As containerd beside Docker: whoever does not speak it has no container of that name.
    runtime.set(Manner::Refuses(12, "unknown service runtime.v1.RuntimeService"));
    refused("--container kctest-is-not-there", 2, &["kctest-is-not-there", "crictl ps"])?;
    refused("--pod shop/web", 8, &["older than 1.6", SOCKET])
}
