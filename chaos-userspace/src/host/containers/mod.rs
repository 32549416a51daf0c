//! From the names of containers and pods to ids: those who run containers are asked, and more than one answer is none.

mod api;
mod conmon;
pub mod cri;
pub mod messages;
mod node;
mod unix_http;

use crate::{
    plan::explain::escaped,
    spec::{
        pod::{Pods, Which},
        target::{ContainerId, ContainerName},
    },
};
use api::{Known, RUNTIMES};
use cri::Said;
use node::{Container, Node, Pod};
use std::{collections::BTreeSet, io};

pub use node::Hit;

/// Why a name leads to no container.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// Nobody knows it.
    #[error(
        "container {0}: none of Docker, Podman, containerd and CRI-O runs one of this name as root; list them with docker ps, \
         podman ps or crictl ps, or give an id"
    )]
    Unknown(String),
    /// It is known, but does not run.
    #[error("container {name}: it does not run ({runtime} says {:?}): start it first", escaped(status))]
    Stopped {
        /// Its name.
        name: String,
        /// Who knows it.
        runtime: &'static str,
        /// As the runtime says.
        status: String,
    },
    /// More than one is called so.
    #[error(
        "container {name}: several are called so; name one by its id, or by its pod, as in --pod NAMESPACE/NAME:{name}: {}",
        ids.join(", ")
    )]
    Several {
        /// Their name.
        name: String,
        /// Their ids.
        ids: Vec<String>,
    },
    /// There is no such pod.
    #[error("{pods}: {runtimes} of this node runs none; list them with crictl pods")]
    NoPod {
        /// Who was looked for.
        pods: String,
        /// Who was asked.
        runtimes: String,
    },
    /// Nothing of the pods can be hit.
    #[error("{pods}: {}", problems.join("; "))]
    NothingInPods {
        /// Who was looked for.
        pods: String,
        /// Of each pod that was found.
        problems: Vec<String>,
    },
    /// Two pods have the same name, as one that ends and its successor.
    #[error(
        "{pods}: several are called so; name a container by its id: {}",
        found.iter().map(|(uid, runtime)| format!("uid {} of {runtime}", escaped(uid))).collect::<Vec<_>>().join(", ")
    )]
    SeveralPods {
        /// Their name.
        pods: String,
        /// Their unique ids, and whose they are.
        found: Vec<(String, &'static str)>,
    },
    /// Nobody could know a pod.
    #[error("{pods}: pods are known by CRI v1, which nobody speaks here: {}", tried.join("; "))]
    NoCri {
        /// Who was looked for.
        pods: String,
        /// What became of the question to each.
        tried: Vec<String>,
    },
    /// One might be called so, but that cannot be known.
    #[error("{runtime} could not be asked by name at {socket}: {problem}; give the container's id instead")]
    Unanswered {
        /// Who was asked.
        runtime: &'static str,
        /// Where.
        socket: &'static str,
        /// What happened, with control characters escaped.
        problem: String,
    },
}

/// The id of the one running container of this name. `has_cgroup` tells of an id whether there is a cgroup for it: a conmon
/// outlives its container by what it has to clear away.
pub fn id(name: &ContainerName, has_cgroup: impl Fn(&ContainerId) -> bool) -> Result<ContainerId, Problem> {
    let answers: Result<Vec<_>, _> =
        RUNTIMES.iter().map(|runtime| Ok((runtime.name, runtime.ask(name)?))).collect();
    let mut answers = answers?;
    for runtime in &cri::RUNTIMES {
        if let Said::All(node) = runtime.ask()? {
            answers.extend(node.called(name.text()).map(|container| (runtime.name, known(container))));
        }
    }
    judge(name, answers, conmon::ids(name).into_iter().filter(has_cgroup).collect())
}

fn known(container: &Container) -> Known {
    if container.runs() {
        Known::Running(container.id.clone())
    } else {
        Known::Stopped(format!("{:?}", container.state).to_lowercase())
    }
}

/// What is meant of the pods of this node: one pod by its name, or all with some labels of which anything runs.
pub fn pods(pods: &Pods) -> Result<Vec<Hit>, Problem> {
    let (mut nodes, mut tried): (Vec<(&str, Node)>, Vec<String>) = (vec![], vec![]);
    for runtime in &cri::RUNTIMES {
        match runtime.ask()? {
            Said::All(node) => nodes.push((runtime.name, node)),
            Said::Nothing => tried.push(format!("{} does not listen at {}", runtime.name, runtime.socket)),
            Said::OtherLanguage => tried.push(format!(
                "{} at {} does not know it: it is older than 1.6, or its CRI is disabled",
                runtime.name, runtime.socket
            )),
        }
    }
    if nodes.is_empty() {
        return Err(Problem::NoCri { pods: pods.to_string(), tried });
    }
    among(pods, &nodes)
}

fn among(pods: &Pods, nodes: &[(&'static str, Node)]) -> Result<Vec<Hit>, Problem> {
    let found: Vec<(&'static str, &Pod)> = nodes
        .iter()
        .flat_map(|(runtime, node)| node.pods_of(&pods.which).map(move |pod| (*runtime, pod)))
        .collect();
    if found.is_empty() {
        let runtimes = nodes.iter().map(|(runtime, _)| *runtime).collect::<Vec<_>>().join(" and ");
        return Err(Problem::NoPod { pods: pods.to_string(), runtimes });
    }
    if matches!(pods.which, Which::Named { .. }) && found.len() > 1 {
        let found = found.into_iter().map(|(runtime, pod)| (pod.uid.clone(), runtime)).collect();
        return Err(Problem::SeveralPods { pods: pods.to_string(), found });
    }
    let (mut hits, mut problems) = (vec![], vec![]);
    for (_, pod) in found {
        match pod.hit(pods) {
            Ok(hit) => hits.push(hit),
            Err(problem) => problems.push(problem),
        }
    }
    if hits.is_empty() { Err(Problem::NothingInPods { pods: pods.to_string(), problems }) } else { Ok(hits) }
}

/// Whether an error means that nobody listens at a socket.
fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotADirectory
    )
}

/// The one id in all answers; Podman's containers may be in two of them.
fn judge(
    name: &ContainerName,
    answers: Vec<(&'static str, Known)>,
    mut ids: BTreeSet<ContainerId>,
) -> Result<ContainerId, Problem> {
    let (name, mut stopped) = (name.text().to_owned(), None);
    for (runtime, known) in answers {
        match known {
            Known::Nothing => {}
            Known::Running(id) => drop(ids.insert(id)),
            Known::Stopped(status) => stopped = Some((runtime, status)),
        }
    }
    let mut all: Vec<_> = ids.into_iter().collect();
    match (all.pop(), stopped) {
        (Some(id), _) if all.is_empty() => Ok(id),
        (None, None) => Err(Problem::Unknown(name)),
        (None, Some((runtime, status))) => Err(Problem::Stopped { name, runtime, status }),
        (Some(last), _) => {
            all.push(last);
            Err(Problem::Several { name, ids: all.iter().map(|id| id.digits().to_owned()).collect() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn an_id(digit: char) -> ContainerId {
        ContainerId::whole(&digit.to_string().repeat(64)).unwrap()
    }

    #[test]
    fn one_answer_is_one_however_often_it_is_given() {
        let name = "web".parse().unwrap();
        let judge = |answers, ids: &[ContainerId]| judge(&name, answers, ids.iter().cloned().collect());
        let running = |digit| ("Podman", Known::Running(an_id(digit)));
        assert_eq!(judge(vec![running('a')], &[an_id('a')]).unwrap(), an_id('a'));
        assert_eq!(judge(vec![("Docker", Known::Nothing)], &[an_id('b')]).unwrap(), an_id('b'));
        let several = judge(vec![running('a')], &[an_id('b')]).unwrap_err().to_string();
        assert!(several.contains(an_id('a').digits()) && several.contains(an_id('b').digits()), "{several}");
        let unknown = judge(vec![("Docker", Known::Nothing)], &[]).unwrap_err().to_string();
        assert!(unknown.contains("container web") && unknown.contains("podman ps"), "{unknown}");
        let stopped = || ("Docker", Known::Stopped("exi\x1bted".to_owned()));
        let said = judge(vec![stopped()], &[]).unwrap_err().to_string();
        assert!(said.contains("start it first") && !said.contains('\x1b'), "{said}");
        assert_eq!(judge(vec![stopped(), running('a')], &[]).unwrap(), an_id('a'));
    }
}
