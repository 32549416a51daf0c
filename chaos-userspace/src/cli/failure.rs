//! A failure with its exit code.

use super::exit;
use crate::{
    host::{cgroup, containers},
    inject::engine,
    plan::{self, explain::escaped},
    runs::client,
    spec::Problems,
};
use std::fmt;

/// Why a command failed.
#[derive(Debug)]
pub struct Failure {
    /// Exit code by its meaning.
    pub code: u8,
    /// For people and machines.
    pub message: String,
    /// What `exec` exits with instead of [`exit::EXEC_FAILED`].
    pub exec_status: Option<u8>,
}

impl Failure {
    /// With a code. What was typed is part of many messages: nothing of it may steer a terminal.
    pub fn new(code: u8, message: impl fmt::Display) -> Self {
        let lines: Vec<_> = message.to_string().split('\n').map(escaped).collect();
        Self { code, message: lines.join("\n"), exec_status: None }
    }

    /// Something that should not happen.
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(exit::INTERNAL, message)
    }
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Self {
        Self::new(exit::USAGE, problems)
    }
}

impl From<plan::Error> for Failure {
    fn from(error: plan::Error) -> Self {
        let code = match error {
            plan::Error::Spec(_) => exit::USAGE,
            plan::Error::Unable(_) => exit::UNABLE,
        };
        Self::new(code, error)
    }
}

impl From<cgroup::Error> for Failure {
    fn from(error: cgroup::Error) -> Self {
        let code = match error {
            cgroup::Error::NotMounted
            | cgroup::Error::Container(
                containers::Problem::Unanswered { .. } | containers::Problem::NoCri { .. },
            ) => exit::UNABLE,
            cgroup::Error::Io { .. } => exit::INTERNAL,
            _ => exit::USAGE,
        };
        Self::new(code, error)
    }
}

impl From<Vec<cgroup::Error>> for Failure {
    /// All of them, with the code of the first.
    fn from(errors: Vec<cgroup::Error>) -> Self {
        let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        let code = errors.into_iter().next().map_or(exit::INTERNAL, |error| Self::from(error).code);
        Self::new(code, texts.join("\n"))
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Self {
        let code = match error {
            client::Error::Unknown(_) | client::Error::Ambiguous(..) => exit::USAGE,
            client::Error::Ended(_)
            | client::Error::Silent(_)
            | client::Error::Stopped { .. }
            | client::Error::Io { .. } => exit::UNABLE,
        };
        Self::new(code, error)
    }
}

impl From<engine::Error> for Failure {
    fn from(error: engine::Error) -> Self {
        let code = match error {
            engine::Error::Encode(_) | engine::Error::NotLive | engine::Error::Unshareable { .. } => {
                exit::USAGE
            }
            engine::Error::Conflict { .. } => exit::REFUSED,
            engine::Error::Program(_) | engine::Error::Attach { .. } => exit::UNABLE,
            engine::Error::Object(_) | engine::Error::Io { .. } => exit::INTERNAL,
        };
        Self::new(code, error)
    }
}
