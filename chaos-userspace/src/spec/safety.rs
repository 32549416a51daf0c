//! Names of the safety nets: targets that nobody means to hit, each of which has to be allowed by name.

use std::str::FromStr;

/// What is refused unless it is allowed by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Net {
    /// The first process of the host.
    Init,
    /// kchaos itself.
    Own,
    /// The processes that kchaos was started from: the shell, the terminal, the login.
    Login,
    /// The server of remote logins.
    Sshd,
    /// The node agent of Kubernetes.
    Kubelet,
    /// What runs containers.
    ContainerRuntime,
    /// Services that the rest of the system cannot do without.
    SystemService,
    /// All services, all users, all containers or all pods at once.
    WholeSlice,
    /// More than an hour.
    LongRun,
    /// Nearly all that fit a pattern.
    MostTargets,
}

impl Net {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Init,
        Self::Own,
        Self::Login,
        Self::Sshd,
        Self::Kubelet,
        Self::ContainerRuntime,
        Self::SystemService,
        Self::WholeSlice,
        Self::LongRun,
        Self::MostTargets,
    ];

    /// Its name, for `--allow`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Own => "self",
            Self::Login => "login",
            Self::Sshd => "sshd",
            Self::Kubelet => "kubelet",
            Self::ContainerRuntime => "container-runtime",
            Self::SystemService => "system-service",
            Self::WholeSlice => "whole-slice",
            Self::LongRun => "long-run",
            Self::MostTargets => "most-targets",
        }
    }
}

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = || Self::ALL.map(Self::name).join(", ");
        (Self::ALL.into_iter().find(|net| net.name() == text))
            .ok_or_else(|| format!("'{text}' is neither a system call nor a safety net ({})", names()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_where_one_is_wrong() {
        assert!("ssh".parse::<Net>().unwrap_err().contains("whole-slice"));
        assert_eq!("self".parse::<Net>(), Ok(Net::Own));
    }
}
