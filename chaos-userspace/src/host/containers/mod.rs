//! From a container's name to its id: those who run containers are asked, and more than one answer is none.

mod api;
mod conmon;
mod unix_http;

use crate::{
    plan::explain::escaped,
    spec::target::{ContainerId, ContainerName},
};
use api::{Known, RUNTIMES};
use std::collections::BTreeSet;

/// Why a name leads to no container.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// Nobody knows it.
    #[error(
        "container {0}: neither Docker nor Podman nor CRI-O runs one of this name as root; list them with docker ps, \
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
    #[error("container {name}: several are called so; name one by its id: {}", ids.join(", "))]
    Several {
        /// Their name.
        name: String,
        /// Their ids.
        ids: Vec<String>,
    },
    /// One might be called so, but that cannot be known.
    #[error(
        "{runtime} could not be asked for a container's name at {socket}: {problem}; give the container's id instead"
    )]
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
    judge(name, answers?, conmon::ids(name).into_iter().filter(has_cgroup).collect())
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
