//! Who is hit.

use super::{
    glob,
    pod::{Pods, Which},
};
use std::{fmt, os::unix::ffi::OsStrExt, path::PathBuf, str::FromStr};

/// Who is hit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A cgroup that exists, with everything below it, or all whose path fits a pattern.
    Cgroup(PathBuf),
    /// The cgroup of a systemd unit, or those of all that fit a pattern.
    Unit(Unit),
    /// The cgroup that a process is in.
    Process(u32),
    /// A process with what descends from it, and nobody else of their cgroups.
    Tree(u32),
    /// The cgroup of a container.
    Container(Container),
    /// The cgroup of a pod or of one of its containers, or those of all pods with some labels.
    Pods(Pods),
    /// A cgroup made for one command.
    Fresh,
}

impl Target {
    /// Whether it may stand for several.
    pub fn is_pattern(&self) -> bool {
        match self {
            Self::Cgroup(path) => glob::is_pattern(path.as_os_str().as_bytes()),
            Self::Unit(unit) => unit.is_pattern(),
            Self::Pods(pods) => matches!(pods.which, Which::Labelled(_)),
            Self::Process(_) | Self::Tree(_) | Self::Container(_) | Self::Fresh => false,
        }
    }
}

/// Processes that are to be hit without the others of their cgroups.
pub fn trees(targets: &[Target]) -> Vec<u32> {
    let tree = |target: &Target| match target {
        Target::Tree(pid) => Some(*pid),
        _ => None,
    };
    targets.iter().filter_map(tree).collect()
}

/// Reads the path of a cgroup or a pattern of such paths.
pub fn cgroup_path(text: &str) -> Result<PathBuf, String> {
    match text.split('/').find_map(|name| glob::problem(name.as_bytes())) {
        Some(problem) => Err(problem),
        None => Ok(PathBuf::from(text)),
    }
}

/// Name of a systemd unit that has a cgroup (a service, scope, slice, socket, mount or swap), or a pattern of names. A
/// template, which has no cgroup itself, stands for all its instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit(String);

/// Kinds of units that have cgroups (systemd.unit(5)).
const UNIT_KINDS: [&str; 6] = ["service", "scope", "slice", "socket", "mount", "swap"];
/// `UNIT_NAME_MAX` of systemd.
const UNIT_BYTES_MAX: usize = 255;

impl Unit {
    /// The name, with its kind.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Whether it may stand for several.
    pub fn is_pattern(&self) -> bool {
        glob::is_pattern(self.0.as_bytes())
    }
}

impl FromStr for Unit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usable = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@*?[]!".contains(c);
        if text.is_empty()
            || text.len() > UNIT_BYTES_MAX
            || !text.chars().all(usable)
            || text.starts_with('.')
        {
            return Err(format!(
                "{text:?} is no name of a unit: up to {UNIT_BYTES_MAX} letters, digits and :-_.\\@, as in web.service"
            ));
        }
        if let Some(problem) = glob::problem(text.as_bytes()) {
            return Err(problem);
        }
        let named = match text.rsplit_once('.') {
            Some((_, kind)) if UNIT_KINDS.contains(&kind) => Ok(Self(text.to_owned())),
            Some((_, kind @ ("target" | "timer" | "path" | "device" | "automount"))) => {
                Err(format!("{text:?}: a {kind} has no processes; name one of its services"))
            }
            _ => Ok(Self(format!("{text}.service"))),
        }?;
        // web@.service is a file on disk; what runs is web@1.service.
        Ok(Self(named.0.replacen("@.", "@*.", 1)))
    }
}

/// How a container is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Container {
    /// By its id or the beginning of it.
    Id(ContainerId),
    /// By its name, which its runtime knows.
    Name(ContainerName),
    /// By six hexadecimal digits or more, which are the beginning of an id or, if there is none such, a name.
    Either(ContainerId, ContainerName),
}

impl FromStr for Container {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // As Kubernetes writes it: containerd://ID.
        if let Some((_, digits)) = text.split_once("://") {
            return Ok(Self::Id(digits.parse()?));
        }
        match (text.parse::<ContainerId>(), text.parse::<ContainerName>()) {
            (Ok(id), _) if id.is_whole() => Ok(Self::Id(id)),
            (Ok(id), Ok(name)) => Ok(Self::Either(id, name)),
            (Ok(id), Err(_)) => Ok(Self::Id(id)),
            (Err(_), name) => name.map(Self::Name),
        }
    }
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Id(id) | Self::Either(id, _) => id.digits(),
            Self::Name(name) => name.text(),
        })
    }
}

/// A container's id or the beginning of it: 6 to 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContainerId(String);

/// Digits of a whole id.
const ID_DIGITS: usize = 64;
/// Digits that make a mistake unlikely.
const ID_DIGITS_MIN: usize = 6;

impl ContainerId {
    /// An id that a runtime gave, if it is a whole one.
    pub fn whole(text: &str) -> Option<Self> {
        text.parse().ok().filter(Self::is_whole)
    }

    /// The digits that were given.
    pub fn digits(&self) -> &str {
        &self.0
    }

    fn is_whole(&self) -> bool {
        self.0.len() == ID_DIGITS
    }
}

impl FromStr for ContainerId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hexadecimal = text.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c));
        if hexadecimal && (ID_DIGITS_MIN..=ID_DIGITS).contains(&text.len()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "{text:?} is no id of a container: give {ID_DIGITS_MIN} to {ID_DIGITS} hexadecimal digits, as docker ps, \
                 podman ps and crictl ps show them"
            ))
        }
    }
}

/// A container's name: letters, digits and `_.-`, the first a letter or a digit, as Docker and Podman have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerName(String);

/// Longer than what Docker Compose and CRI-O make of several names of Kubernetes.
const NAME_BYTES_MAX: usize = 512;

impl ContainerName {
    /// The name.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let usable = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if begins && text.len() <= NAME_BYTES_MAX && text.chars().all(usable) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!(
                "{text:?} is neither a name nor an id of a container: a name has up to {NAME_BYTES_MAX} letters, digits and \
                 _.- and begins with a letter or a digit; an id has {ID_DIGITS_MIN} to {ID_DIGITS} hexadecimal digits. See \
                 docker ps, podman ps or crictl ps"
            ))
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup(path) => write!(f, "cgroup {}", path.display()),
            Self::Unit(unit) => write!(f, "unit {}", unit.0),
            Self::Process(pid) => write!(f, "process {pid}"),
            Self::Tree(pid) => write!(f, "process {pid} and what it starts"),
            Self::Container(container) => write!(f, "container {container}"),
            Self::Pods(pods) => write!(f, "{pods}"),
            Self::Fresh => write!(f, "a fresh cgroup"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn units_have_a_kind() {
        assert_eq!("web".parse::<Unit>().unwrap().name(), "web.service");
        assert_eq!("web@1.service".parse::<Unit>().unwrap().name(), "web@1.service");
        assert_eq!("a.b".parse::<Unit>().unwrap().name(), "a.b.service");
        assert_eq!("system-foo.slice".parse::<Unit>().unwrap().name(), "system-foo.slice");
        assert_eq!("web-*".parse::<Unit>().unwrap().name(), "web-*.service");
        assert_eq!("web@".parse::<Unit>().unwrap().name(), "web@*.service");
        assert!("web@".parse::<Unit>().unwrap().is_pattern());
        assert!("web-[0-9.slice".parse::<Unit>().is_err());
        assert!("multi-user.target".parse::<Unit>().unwrap_err().contains("has no processes"));
        for bad in ["", "../x", "a/b", "a b", "a\nb", ".service", &"x".repeat(256)] {
            assert!(bad.parse::<Unit>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn containers_have_ids_and_names() {
        let (id, name) = ("0123456789ab".parse().unwrap(), "0123456789ab".parse().unwrap());
        assert_eq!("0123456789ab".parse(), Ok(Container::Either(id, name)));
        let whole = "0".repeat(64);
        for text in [whole.clone(), format!("containerd://{whole}")] {
            assert_eq!(text.parse(), Ok(Container::Id(ContainerId::whole(&whole).unwrap())));
        }
        assert!(ContainerId::whole("0123456789ab").is_none());
        // `db` and `01234` are hexadecimal, too.
        for name in ["web", "db", "01234", "0123456789AB", "k8s_web_pod-1_ns_0.1", &"0".repeat(65)] {
            assert_eq!(name.parse(), Ok(Container::Name(name.parse().unwrap())));
        }
        let bad = [
            "",
            "-web",
            ".",
            "a/b",
            "/web",
            "a b",
            "a\nb",
            "\u{e9}",
            "web?x",
            "docker://web",
            "../../01234567",
        ];
        for bad in bad.into_iter().chain([&*"x".repeat(513)]) {
            assert!(bad.parse::<Container>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        /// Nothing that is accepted leads out of a directory.
        #[test]
        fn names_are_single_names(text in "\\PC*") {
            if let Ok(unit) = text.parse::<Unit>() {
                prop_assert!(!unit.name().contains('/') && unit.name() != "." && unit.name() != "..");
            }
            if let Ok(id) = text.parse::<ContainerId>() {
                prop_assert!(id.digits().chars().all(|c| c.is_ascii_hexdigit()));
            }
            if let Ok(name) = text.parse::<ContainerName>() {
                prop_assert!(!name.text().contains(['/', '%', '?', '#']) && !name.text().starts_with('.'));
            }
        }
    }
}
