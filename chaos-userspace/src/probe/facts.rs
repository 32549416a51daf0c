//! What the host says of itself, and what that means for faults: the rows of `doctor` before those that are tried.

use super::Unable;
use crate::{
    host::{
        cgroup::{self, Hierarchy},
        kernel, privilege,
    },
    inject::object::OBJECT,
};
use std::fs;

/// As read, or as a test makes it up.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The text of /proc/self/status.
    pub status: String,
    /// The text of /proc/self/mounts.
    pub mounts: String,
    /// Whether there is type information.
    pub has_btf: bool,
    /// The text of /sys/kernel/security/lockdown, if it can be read: `none [integrity] confidentiality`.
    pub lockdown: Option<String>,
    /// The active security modules, if securityfs is mounted: `lockdown,capability,bpf`.
    pub security_modules: Option<String>,
    /// Bytes of the kernel programs in this binary.
    pub programs: usize,
}

/// What works, or why not.
pub type Answer = Result<String, Unable>;

impl Facts {
    /// Those of this host. What cannot be read is not there.
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Self {
            status: text("/proc/self/status"),
            mounts: text("/proc/self/mounts"),
            has_btf: kernel::has_btf(),
            lockdown: kernel::lockdown(),
            security_modules: kernel::security_modules(),
            programs: OBJECT.len(),
        }
    }

    /// One row each: what it is about, and the answer.
    pub fn rows(&self) -> [(&'static str, Answer); 6] {
        [
            ("privileges", self.privileges()),
            ("cgroup v2", self.cgroup()),
            ("type information", self.types()),
            ("kernel programs", self.programs()),
            ("lockdown", self.lockdown()),
            ("security modules", self.security_modules()),
        ]
    }

    fn privileges(&self) -> Answer {
        let missing = privilege::missing_in(&self.status, true);
        if missing.is_empty() {
            return Ok("all that are needed".to_owned());
        }
        Err(Unable::new(
            format!("missing {}", missing.join(", ")),
            "run as root, in a container with these capabilities added",
        ))
    }

    fn cgroup(&self) -> Answer {
        let has_v1 = cgroup::has_version_1(&self.mounts);
        match Hierarchy::from_mounts(&self.mounts) {
            Ok(found) if has_v1 => Ok(format!(
                "mounted at {}, beside cgroup v1 (hybrid): targets are chosen in v2 alone",
                found.mount().display()
            )),
            Ok(found) => Ok(format!("mounted at {}", found.mount().display())),
            Err(_) if has_v1 => Err(Unable::new(
                "only cgroup v1 is mounted",
                "boot with systemd.unified_cgroup_hierarchy=1, or mount v2 beside it (mount -t cgroup2 none DIRECTORY)",
            )),
            Err(_) => Err(Unable::new(
                "no cgroup hierarchy is mounted here",
                "mount it (mount -t cgroup2 none /sys/fs/cgroup); in a container, mount the host's",
            )),
        }
    }

    fn types(&self) -> Answer {
        if self.has_btf {
            return Ok(kernel::BTF_PATH.to_owned());
        }
        Err(Unable::new(
            format!("{} is missing", kernel::BTF_PATH),
            "use a kernel with CONFIG_DEBUG_INFO_BTF",
        ))
    }

    fn programs(&self) -> Answer {
        if self.programs == 0 {
            return Err(Unable::new(
                "this kchaos was built without them",
                "build it with `cargo xtask build`",
            ));
        }
        Ok(format!("{} bytes", self.programs))
    }

    /// `LOCKDOWN_KPROBES` and `LOCKDOWN_BPF_READ_KERNEL` are of confidentiality (include/linux/security.h).
    fn lockdown(&self) -> Answer {
        let Some(text) = &self.lockdown else {
            return Ok("none, or not to be read".to_owned());
        };
        let active = text.split_ascii_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
        match active {
            Some("confidentiality") => Err(Unable::new(
                "confidentiality: programs must not read kernel memory, and there are no kprobes",
                "boot without lockdown=confidentiality; integrity is enough for secure boot",
            )),
            Some(level) => Ok(format!("{level}: nothing that kchaos needs is locked")),
            None => Ok(format!("unknown: {}", text.trim())),
        }
    }

    fn security_modules(&self) -> Answer {
        let Some(active) = &self.security_modules else {
            return Ok("not to be read (securityfs is not mounted): the rows of lsm say whether bpf is one"
                .to_owned());
        };
        if active.split(',').any(|module| module == "bpf") {
            return Ok(format!("bpf is one of {active}"));
        }
        Err(Unable::new(
            format!("bpf is none of {active}: BPF LSM programs attach and never fire"),
            format!("boot with lsm={active},bpf on the kernel command line"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = "Name:\tkchaos\nCapEff:\t000001ffffffffff\n";
    const V2: &str = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
    const V1: &str = "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n";

    fn host() -> Facts {
        Facts {
            status: FULL.into(),
            mounts: V2.into(),
            has_btf: true,
            lockdown: Some("[none] integrity confidentiality\n".into()),
            security_modules: Some("lockdown,capability,bpf".into()),
            programs: 1,
        }
    }

    fn row(facts: &Facts, what: &str) -> Answer {
        facts.rows().into_iter().find(|(row, _)| *row == what).unwrap().1
    }

    /// The reason and the remedy of the only row that says no.
    fn refusal(facts: &Facts, what: &str) -> (String, String) {
        let rows = facts.rows();
        let bad: Vec<_> = rows.iter().filter(|(_, answer)| answer.is_err()).map(|(row, _)| *row).collect();
        assert_eq!(bad, [what]);
        let unable = row(facts, what).unwrap_err();
        (unable.why, unable.remedy)
    }

    #[test]
    fn a_host_with_everything_is_fine() {
        for (what, answer) in host().rows() {
            assert!(answer.is_ok(), "{what}: {answer:?}");
        }
        let unknown = Facts { lockdown: None, security_modules: None, ..host() };
        assert!(unknown.rows().iter().all(|(_, answer)| answer.is_ok()));
    }

    #[test]
    fn missing_capabilities_are_named() {
        let without = format!("CapEff:\t{:016x}\n", 0x1ff_ffff_ffffu64 & !(1 << 21));
        let (why, remedy) = refusal(&Facts { status: without, ..host() }, "privileges");
        assert!(why.starts_with("missing CAP_SYS_ADMIN (") && !why.contains("CAP_NET_ADMIN"), "{why}");
        assert!(remedy.contains("root"), "{remedy}");
    }

    #[test]
    fn cgroup_v1_and_hybrid_are_told_apart() {
        let (why, remedy) = refusal(&Facts { mounts: V1.into(), ..host() }, "cgroup v2");
        assert_eq!(why, "only cgroup v1 is mounted");
        assert!(remedy.contains("systemd.unified_cgroup_hierarchy=1"), "{remedy}");
        let (why, _) = refusal(&Facts { mounts: "tmpfs / tmpfs rw 0 0\n".into(), ..host() }, "cgroup v2");
        assert!(why.contains("no cgroup hierarchy"), "{why}");
        let hybrid = format!("{V1}cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n");
        let told = row(&Facts { mounts: hybrid, ..host() }, "cgroup v2").unwrap();
        assert!(told.contains("/sys/fs/cgroup/unified") && told.contains("hybrid"), "{told}");
        assert_eq!(row(&host(), "cgroup v2").unwrap(), "mounted at /sys/fs/cgroup");
    }

    #[test]
    fn missing_types_and_programs_are_told() {
        let (why, remedy) = refusal(&Facts { has_btf: false, ..host() }, "type information");
        assert!(why.contains("/sys/kernel/btf/vmlinux") && remedy.contains("CONFIG_DEBUG_INFO_BTF"));
        let (_, remedy) = refusal(&Facts { programs: 0, ..host() }, "kernel programs");
        assert!(remedy.contains("cargo xtask build"));
    }

    #[test]
    fn lockdown_matters_from_confidentiality_on() {
        let locked = |text: &str| Facts { lockdown: Some(text.into()), ..host() };
        let (why, remedy) = refusal(&locked("none integrity [confidentiality]\n"), "lockdown");
        assert!(why.starts_with("confidentiality") && remedy.contains("lockdown="), "{why} {remedy}");
        let told = row(&locked("none [integrity] confidentiality\n"), "lockdown").unwrap();
        assert!(told.starts_with("integrity:"), "{told}");
        assert!(row(&locked("something else\n"), "lockdown").unwrap().contains("something else"));
    }

    #[test]
    fn bpf_has_to_be_a_security_module() {
        let modules = |text: &str| Facts { security_modules: Some(text.into()), ..host() };
        let (why, remedy) = refusal(&modules("lockdown,capability,landlock"), "security modules");
        assert!(why.contains("bpf is none of lockdown,capability,landlock"), "{why}");
        assert_eq!(remedy, "boot with lsm=lockdown,capability,landlock,bpf on the kernel command line");
        assert!(row(&modules("capability,bpfilter"), "security modules").is_err());
    }
}
