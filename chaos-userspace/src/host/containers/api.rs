//! The HTTP API of Docker, which Podman speaks as well.

use super::{Problem, is_absence, unix_http};
use crate::spec::target::{ContainerId, ContainerName};
use serde::Deserialize;
use std::{path::Path, time::Duration};

/// How long a runtime may take to answer. Podman's service may have to be started first, by its socket.
const LIMIT: Duration = Duration::from_secs(10);

/// A runtime that listens on a socket.
pub struct Runtime {
    /// Its name.
    pub name: &'static str,
    /// Where it listens.
    pub socket: &'static str,
}

/// Runtimes that know containers by name, where they listen for root.
pub const RUNTIMES: [Runtime; 2] = [
    Runtime { name: "Docker", socket: "/run/docker.sock" },
    Runtime { name: "Podman", socket: "/run/podman/podman.sock" },
];

/// What is read of a container's description.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    id: String,
    name: String,
    state: State,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    running: bool,
    #[serde(default)]
    status: String,
}

/// What a runtime knows of a name.
#[derive(Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing.
    Nothing,
    /// The id of a running container.
    Running(ContainerId),
    /// A container that does not run, but is, in the runtime's word, `exited` or the like.
    Stopped(String),
}

impl Runtime {
    /// Asks for a name. A runtime that is not there or does not listen knows nothing.
    pub fn ask(&self, name: &ContainerName) -> Result<Known, Problem> {
        let failed =
            |problem: String| Problem::Unanswered { runtime: self.name, socket: self.socket, problem };
        // Letters, digits and _.- need no escapes in a path.
        let path = format!("/containers/{}/json", name.text());
        match unix_http::get(Path::new(self.socket), &path, LIMIT) {
            Ok(answer) => read(answer.status, &answer.body, name).map_err(failed),
            Err(ureq::Error::Timeout(_)) => Err(failed(format!("no answer within {} s", LIMIT.as_secs()))),
            Err(ureq::Error::Io(error)) if is_absence(&error) => Ok(Known::Nothing),
            Err(error) => Err(failed(error.to_string())),
        }
    }
}

/// Reads an answer. Runtimes take beginnings of ids for names, too: only a container with just this name is meant.
fn read(status: u16, body: &str, name: &ContainerName) -> Result<Known, String> {
    match status {
        200 => {}
        404 => return Ok(Known::Nothing),
        _ => {
            let message = serde_json::from_str(body)
                .ok()
                .and_then(|said: serde_json::Value| said["message"].as_str().map(str::to_owned));
            return Err(format!("status {status}: {:?}", message.as_deref().unwrap_or("no message")));
        }
    }
    let container: Container =
        serde_json::from_str(body).map_err(|error| format!("the answer describes no container: {error}"))?;
    if container.name.strip_prefix('/').unwrap_or(&container.name) != name.text() {
        return Ok(Known::Nothing);
    }
    if !container.state.running {
        return Ok(Known::Stopped(container.state.status));
    }
    let id = ContainerId::whole(&container.id);
    id.map(Known::Running).ok_or_else(|| format!("{:?} is no id of a container", container.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "8f1f2c3d4e5f60718293a4b5c6d7e8f90123456789abcdef0123456789abcdef";

    /// The parts of a description that tell containers apart, with others around them as Docker 27 has them.
    fn docker(name: &str, running: bool) -> String {
        format!(
            r#"{{"Id":"{ID}","Created":"2026-01-02T03:04:05.6Z","Path":"nginx","Args":["-g","daemon off;"],"State":{{
            "Status":"{}","Running":{running},"Paused":false,"Restarting":false,"Dead":false,"Pid":4711,"Error":""}},
            "Image":"sha256:00","Name":"{name}","RestartCount":0,"HostConfig":{{"CgroupParent":""}}}}"#,
            if running { "running" } else { "exited" }
        )
    }

    fn asked(status: u16, body: &str) -> Result<Known, String> {
        read(status, body, &"web".parse().unwrap())
    }

    #[test]
    fn a_running_container_is_known_by_its_whole_name() {
        let id = || Known::Running(ContainerId::whole(ID).unwrap());
        assert_eq!(asked(200, &docker("/web", true)), Ok(id()));
        // As Podman writes it where it is not compatible.
        assert_eq!(asked(200, &docker("web", true)), Ok(id()));
        assert_eq!(asked(200, &docker("/web-2", true)), Ok(Known::Nothing));
        assert_eq!(asked(200, &docker("/web", false)), Ok(Known::Stopped("exited".to_owned())));
        assert_eq!(asked(404, r#"{"message":"No such container: web"}"#), Ok(Known::Nothing));
    }

    #[test]
    fn other_answers_are_told_with_escapes() {
        let said = asked(500, "{\"message\":\"bad\\u001b[31m\"}").unwrap_err();
        assert_eq!(said, "status 500: \"bad\\u{1b}[31m\"");
        assert_eq!(asked(403, "<html>"), Err("status 403: \"no message\"".to_owned()));
        assert!(asked(200, "[]").unwrap_err().contains("describes no container"));
        let odd = docker("/web", true).replace(ID, "../../x");
        assert!(asked(200, &odd).unwrap_err().contains("\"../../x\""));
    }

    #[test]
    fn a_runtime_that_is_not_there_knows_nothing() {
        let runtime = Runtime { name: "Docker", socket: "/nonexistent/docker.sock" };
        assert_eq!(runtime.ask(&"web".parse().unwrap()).ok(), Some(Known::Nothing));
    }
}
