//! Packages of any Debian suite, downloaded and unpacked without touching the system's own package sources.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{read, run};
use crate::{apt, paths};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The mirror: KCHAOS_DEBIAN_MIRROR, else the one a Debian system uses itself, else the project's public name.
pub fn mirror() -> String {
    if let Ok(mirror) = env::var("KCHAOS_DEBIAN_MIRROR") {
        return mirror;
    }
    let format = "$(LABEL)|$(REPO_URI)";
    let own =
        read(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]));
    own.ok()
        .and_then(|targets| targets.lines().find_map(|line| line.strip_prefix("Debian|").map(str::to_owned)))
        .unwrap_or_else(|| "http://deb.debian.org/debian".to_owned())
}

/// The keys that sign Debian's suites, which Ubuntu does not have by itself.
pub fn ensure_keyring() -> Result<()> {
    if Path::new(KEYRING).is_file() { Ok(()) } else { apt::install(&["debian-archive-keyring"]) }
}

/// One suite, with package lists of its own.
pub struct Suite {
    name: String,
    dir: PathBuf,
}

impl Suite {
    /// Fetches the suite's package lists.
    pub fn open(name: &str) -> Result<Self> {
        ensure_keyring()?;
        let dir = paths::cache()?.join("apt").join(name);
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(dir.join(part)).with_context(|| format!("cannot create {}", dir.display()))?;
        }
        fs::write(dir.join("sources.list"), format!("deb [signed-by={KEYRING}] {} {name} main\n", mirror()))?;
        let suite = Self { name: name.to_owned(), dir };
        run(suite.apt("apt-get").args(["update", "-qq"])).with_context(|| {
            format!("cannot fetch the package lists of {name}; KCHAOS_DEBIAN_MIRROR names a mirror")
        })?;
        Ok(suite)
    }

    fn apt(&self, program: &str) -> Command {
        let dir = self.dir.display();
        let mut command = Command::new(program);
        for option in [
            format!("Dir::Etc::sourcelist={dir}/sources.list"),
            "Dir::Etc::sourceparts=/dev/null".to_owned(),
            format!("Dir::State::lists={dir}/lists"),
            "Dir::State::status=/dev/null".to_owned(),
            format!("Dir::Cache={dir}/cache"),
            "APT::Architecture=amd64".to_owned(),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::Languages=none".to_owned(),
            // Hooks of the system are about the system's lists.
            "APT::Update::Post-Invoke=".to_owned(),
            "APT::Update::Post-Invoke-Success=".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }

    /// The package and those of its dependencies whose names satisfy `wanted`, dependencies of dependencies included.
    pub fn closure(&self, package: &str, wanted: impl Fn(&str) -> bool) -> Result<Vec<String>> {
        let mut found = BTreeSet::from([package.to_owned()]);
        let mut open = vec![package.to_owned()];
        while let Some(package) = open.pop() {
            let depends = read(self.apt("apt-cache").args(["depends", "--important", &package]))
                .with_context(|| format!("{} has no package {package}", self.name))?;
            for line in depends.lines() {
                let name = line.trim_start_matches([' ', '|']).strip_prefix("Depends: ");
                if let Some(name) = name.filter(|name| wanted(name))
                    && found.insert(name.to_owned())
                {
                    open.push(name.to_owned());
                }
            }
        }
        Ok(found.into_iter().collect())
    }

    /// Downloads packages and unpacks them below `root`; nothing is installed.
    pub fn unpack(&self, packages: &[String], root: &Path) -> Result<()> {
        let debs = root.with_extension("debs");
        fs::create_dir_all(&debs)?;
        run(self.apt("apt-get").args(["download", "-q"]).args(packages).current_dir(&debs))
            .with_context(|| format!("cannot download {} from {}", packages.join(", "), self.name))?;
        let mut unpacked = 0;
        for deb in fs::read_dir(&debs)? {
            run(Command::new("dpkg").arg("-x").arg(deb?.path()).arg(root))?;
            unpacked += 1;
        }
        if unpacked < packages.len() {
            bail!("{} of {} packages were downloaded", unpacked, packages.len());
        }
        fs::remove_dir_all(&debs)?;
        Ok(())
    }
}
