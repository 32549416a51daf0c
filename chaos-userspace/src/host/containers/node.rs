//! Pods and containers of this node as a runtime tells them, and who among them is meant.

use super::messages::{self, ContainerState, PodSandboxState};
use crate::spec::{
    pod::{Pods, Which},
    target::ContainerId,
};
use std::collections::BTreeMap;

/// What a runtime has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// Pods that run.
    pub pods: Vec<Pod>,
    /// Containers outside of them, and those that do not run.
    pub others: Vec<Container>,
}

/// A pod that runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Where it is.
    pub namespace: String,
    /// What it is called there.
    pub name: String,
    /// What tells it from another one of this name at another time.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its containers, also those that do not run.
    pub containers: Vec<Container>,
}

/// A container.
#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// Its name in its pod.
    pub name: String,
    /// Whether it runs.
    pub state: ContainerState,
}

impl Container {
    /// Whether it runs.
    pub fn runs(&self) -> bool {
        self.state == ContainerState::Running
    }
}

impl Node {
    /// Puts together what a runtime listed.
    pub fn read(
        sandboxes: Vec<messages::PodSandbox>,
        containers: Vec<messages::Container>,
    ) -> Result<Self, String> {
        let mut of_sandbox: BTreeMap<String, Vec<Container>> = BTreeMap::new();
        for container in containers {
            let id = ContainerId::whole(&container.id)
                .ok_or_else(|| format!("{:?} is no id of a container", container.id))?;
            let (state, name) = (container.state(), container.metadata.unwrap_or_default().name);
            of_sandbox.entry(container.pod_sandbox_id).or_default().push(Container { id, name, state });
        }
        let mut pods = vec![];
        for sandbox in sandboxes {
            if sandbox.state() == PodSandboxState::Ready {
                let containers = of_sandbox.remove(&sandbox.id).unwrap_or_default();
                let metadata = sandbox.metadata.unwrap_or_default();
                let (namespace, name, uid) = (metadata.namespace, metadata.name, metadata.uid);
                pods.push(Pod { namespace, name, uid, labels: sandbox.labels, containers });
            }
        }
        Ok(Self { pods, others: of_sandbox.into_values().flatten().collect() })
    }

    /// All containers of this name.
    pub fn called<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Container> {
        let in_pods = self.pods.iter().flat_map(|pod| &pod.containers);
        in_pods.chain(&self.others).filter(move |container| container.name == name)
    }

    /// All pods that are meant.
    pub fn pods_of<'a>(&'a self, which: &'a Which) -> impl Iterator<Item = &'a Pod> {
        self.pods.iter().filter(move |pod| match which {
            Which::Named { namespace, name } => pod.namespace == *namespace && pod.name == *name,
            Which::Labelled(labels) => labels.iter().all(|(key, value)| pod.labels.get(key) == Some(value)),
        })
    }
}

/// What is hit of a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Hit {
    /// The pod, `NAMESPACE/NAME`.
    pub pod: String,
    /// If the whole pod is meant: its unique id, which its cgroup is called by.
    pub uid: Option<String>,
    /// Its containers that are meant and run; at least one.
    pub containers: Vec<ContainerId>,
}

impl Pod {
    /// What of it is meant, or why nothing is.
    pub fn hit(&self, pods: &Pods) -> Result<Hit, String> {
        let running: Vec<_> = self.containers.iter().filter(|container| container.runs()).collect();
        let pod = format!("{}/{}", self.namespace, self.name);
        let names = || -> String {
            let mut names: Vec<_> = running.iter().map(|container| format!("{:?}", container.name)).collect();
            names.sort();
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        let ids: Vec<_> = running
            .iter()
            .filter(|container| pods.container.as_ref().is_none_or(|name| container.name == *name))
            .map(|container| container.id.clone())
            .collect();
        match (&pods.container, &ids[..]) {
            (None, []) => Err(format!("pod {pod:?}: none of its containers runs")),
            (Some(name), []) => {
                Err(format!("pod {pod:?}: no container {name} runs in it; those that run: {}", names()))
            }
            (None, _) => Ok(Hit { pod, uid: Some(self.uid.clone()), containers: ids }),
            (Some(_), _) => Ok(Hit { pod, uid: None, containers: ids }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::pod::{PodLabels, PodName};

    fn sandbox(id: &str, name: &str, state: PodSandboxState) -> messages::PodSandbox {
        messages::PodSandbox {
            id: id.to_owned(),
            metadata: Some(messages::PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{id}"),
                namespace: "shop".to_owned(),
            }),
            state: state.into(),
            labels: [("app".to_owned(), name.to_owned())].into(),
        }
    }

    fn container(digit: char, sandbox: &str, name: &str, state: ContainerState) -> messages::Container {
        messages::Container {
            id: digit.to_string().repeat(64),
            pod_sandbox_id: sandbox.to_owned(),
            metadata: Some(messages::ContainerMetadata { name: name.to_owned() }),
            state: state.into(),
        }
    }

    fn node() -> Node {
        let (ready, gone) = (PodSandboxState::Ready, PodSandboxState::NotReady);
        let (running, exited) = (ContainerState::Running, ContainerState::Exited);
        let sandboxes =
            vec![sandbox("1", "web", ready), sandbox("2", "web", gone), sandbox("3", "db", ready)];
        let containers = vec![
            container('a', "1", "nginx", running),
            container('b', "1", "proxy", running),
            container('c', "1", "init", exited),
            container('d', "2", "nginx", exited),
            container('e', "3", "init", exited),
        ];
        Node::read(sandboxes, containers).unwrap()
    }

    fn hit(text: &str) -> Vec<Result<Hit, String>> {
        let pods = text.parse().map(|PodName(pods)| pods);
        let pods = pods.or_else(|_| text.parse().map(|PodLabels(pods)| pods)).unwrap();
        let node = node();
        node.pods_of(&pods.which).map(|pod| pod.hit(&pods)).collect()
    }

    #[test]
    fn pods_that_run_are_found_by_name_and_label() {
        for text in ["shop/web", "app=web"] {
            let [Ok(hit)] = &hit(text)[..] else { panic!("{text}") };
            assert_eq!((hit.pod.as_str(), hit.uid.as_deref()), ("shop/web", Some("uid-1")));
            assert_eq!(hit.containers.len(), 2);
        }
        assert_eq!(hit("other/web"), []);
        assert_eq!(hit("app=web,tier=front"), []);
        let [Err(problem)] = &hit("shop/db")[..] else { panic!() };
        assert!(problem.contains("none of its containers runs"), "{problem}");
    }

    #[test]
    fn one_container_spares_its_siblings() {
        for text in ["shop/web:proxy", "app=web:proxy"] {
            let [Ok(hit)] = &hit(text)[..] else { panic!("{text}") };
            assert_eq!((hit.uid.clone(), hit.containers.len()), (None, 1));
            assert!(hit.containers[0].digits().starts_with('b'));
        }
        let [Err(problem)] = &hit("shop/web:init")[..] else { panic!() };
        assert!(problem.contains("\"nginx\", \"proxy\""), "{problem}");
    }

    #[test]
    fn containers_have_whole_ids() {
        let mut odd = container('a', "1", "web", ContainerState::Running);
        odd.id = "../x\u{1b}".to_owned();
        let problem = Node::read(vec![], vec![odd]).unwrap_err();
        assert!(problem.contains("\"../x\\u{1b}\""), "{problem}");
        let states = [ContainerState::Running, ContainerState::Exited];
        assert_eq!(node().called("nginx").map(|container| container.state).collect::<Vec<_>>(), states);
    }
}
