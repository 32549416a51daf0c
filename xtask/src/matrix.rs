//! `tests/matrix.toml`: the kernels we test on, what they need, and which skips each may have.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::paths;

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matrix {
    pub image: Image,
    /// Modules loaded at start; names that a kernel has built in or lacks are left out there.
    pub modules: Vec<String>,
    pub host: Host,
    #[serde(rename = "kernel")]
    pub kernels: Vec<Kernel>,
    /// Who runs what takes long.
    #[serde(rename = "share", default)]
    shares: Vec<Share>,
}

/// Tests that small samples run on some kernels only, since what they show does not differ between these and the others.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Share {
    /// `file::function`
    tests: Vec<String>,
    /// Those that run them.
    kernels: Vec<String>,
}

/// The software under which the tests run.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    pub suite: String,
    pub size_mib: u32,
    pub packages: Vec<String>,
}

/// The machine that runs the matrix.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Tests that may be skipped here: hosts differ, so none of them has to be.
    #[serde(default)]
    pub skips: BTreeMap<String, String>,
}

/// One kernel, booted in one way.
#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    pub name: String,
    /// A stock kernel: the package of this suite, with what it depends on.
    #[serde(default)]
    pub package: Option<Package>,
    /// A kernel built by `cargo xtask kernel` from a source package and our fragment.
    #[serde(default)]
    pub source: Option<Package>,
    /// Additions to the kernel command line.
    #[serde(default)]
    pub cmdline: String,
    /// Only tests whose name contains one of these; all if empty.
    #[serde(default)]
    pub tests: Vec<String>,
    /// Test (`file::function`, or a beginning with `*`) to the reason why it is skipped. A skip that does not
    /// happen is an error, like one that is not listed.
    #[serde(default)]
    pub skips: BTreeMap<String, String>,
    /// About how long a run with small samples takes, in seconds: the longest begin first.
    #[serde(default)]
    pub takes_s: u64,
    /// Time limit of one run, in seconds.
    #[serde(default = "limit_s")]
    pub limit_s: u64,
}

/// A Debian package, newest version of a suite.
#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
pub struct Package {
    pub suite: String,
    pub name: String,
}

fn limit_s() -> u64 {
    2400
}

/// Reads the file and checks it.
pub fn read() -> Result<Matrix> {
    let path = file();
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let matrix: Matrix = toml::from_str(&text).with_context(|| format!("{}", path.display()))?;
    let mut names = BTreeSet::new();
    for kernel in &matrix.kernels {
        if kernel.package.is_some() == kernel.source.is_some() {
            bail!("{}: kernel {}: give one of `package` and `source`", path.display(), kernel.name);
        }
        if !names.insert(&kernel.name) {
            bail!("{}: kernel {} is there twice", path.display(), kernel.name);
        }
    }
    let problems = matrix.problems_of_shares();
    if !problems.is_empty() {
        bail!("{}: {}", path.display(), problems.join("; "));
    }
    Ok(matrix)
}

fn file() -> PathBuf {
    paths::root().join("tests/matrix.toml")
}

impl Matrix {
    /// The kernels of these names; all for none.
    pub fn select(&self, names: &[String]) -> Result<Vec<Kernel>> {
        if names.is_empty() {
            return Ok(self.kernels.clone());
        }
        names
            .iter()
            .map(|name| {
                self.kernels.iter().find(|kernel| kernel.name == *name).cloned().with_context(|| {
                    let known: Vec<&str> = self.kernels.iter().map(|kernel| kernel.name.as_str()).collect();
                    format!("no kernel {name} in tests/matrix.toml; there are {}", known.join(", "))
                })
            })
            .collect()
    }

    /// Tests that this kernel leaves to others with small samples, and those others. `file::*` are those of a file that are not
    /// shared by their own name.
    pub fn left_by<'a>(&'a self, kernel: &'a str) -> impl Iterator<Item = (&'a str, String)> {
        let others = self.shares.iter().filter(move |share| !share.kernels.iter().any(|name| name == kernel));
        others.flat_map(|share| share.tests.iter().map(|test| (test.as_str(), share.kernels.join(", "))))
    }

    /// Tests that this kernel runs for others.
    pub fn shared_with(&self, kernel: &str) -> impl Iterator<Item = &str> {
        let shares = self.shares.iter().filter(move |share| share.kernels.iter().any(|name| name == kernel));
        shares.flat_map(|share| share.tests.iter().map(String::as_str))
    }

    /// A shared test that nobody runs, or that stands in two shares, would be lost without a word.
    fn problems_of_shares(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut seen = BTreeSet::new();
        for share in &self.shares {
            for name in &share.kernels {
                if !self.kernels.iter().any(|kernel| kernel.name == *name) {
                    problems.push(format!("a share names the kernel {name}, which there is not"));
                }
            }
            for test in &share.tests {
                if !seen.insert(test) {
                    problems.push(format!("{test} is shared twice"));
                }
                if test.contains('*') && !test.ends_with("::*") {
                    problems.push(format!("{test}: a share has whole names and `file::*` only"));
                }
                let runs = |name: &&String| {
                    let kernel = self.kernels.iter().find(|kernel| kernel.name == **name);
                    kernel.is_some_and(|kernel| {
                        kernel.tests.is_empty() && !kernel.skips.keys().any(|skip| covers(skip, test))
                    })
                };
                let idle: Vec<_> =
                    share.kernels.iter().filter(|name| !runs(name)).map(String::as_str).collect();
                // Of a whole file it is enough if one of them runs it: others have their reasons test by test.
                let allowed = if test.ends_with('*') { share.kernels.len().saturating_sub(1) } else { 0 };
                if share.kernels.is_empty() || idle.len() > allowed {
                    problems.push(format!("{test} is left to {}, which does not run it", idle.join(", ")));
                }
            }
        }
        problems
    }
}

/// Whether a listed name (which may end in `*`) means this test.
pub fn covers(listed: &str, test: &str) -> bool {
    match listed.strip_suffix('*') {
        Some(beginning) => test.starts_with(beginning),
        None => listed == test,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_valid() {
        assert!(read().is_ok_and(|matrix| matrix.kernels.len() >= 6));
    }

    #[test]
    fn a_star_covers_what_begins_alike() {
        assert!(covers("fail::*", "fail::openat"));
        assert!(covers("fail::openat", "fail::openat"));
        assert!(!covers("fail::open", "fail::openat"));
        assert!(!covers("loss::*", "fail::openat"));
    }

    fn matrix(shares: &str) -> Matrix {
        let kernel =
            |name: &str, skips: &str| format!("[[kernel]]\nname = \"{name}\"\n[kernel.skips]\n{skips}\n");
        let text = format!(
            "modules = []\n[image]\nsuite = \"s\"\nsize_mib = 1\npackages = []\n[host]\n{}{}{shares}",
            kernel("old", "\"delay::*\" = \"no tcx links\""),
            kernel("new", "")
        );
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn a_shared_test_is_left_by_all_but_its_kernels() {
        let matrix = matrix("[[share]]\ntests = [\"loss::long\"]\nkernels = [\"new\"]\n");
        assert_eq!(matrix.problems_of_shares(), [""; 0]);
        assert_eq!(matrix.left_by("old").collect::<Vec<_>>(), [("loss::long", "new".to_owned())]);
        assert_eq!(matrix.left_by("new").count(), 0);
        assert_eq!(matrix.shared_with("new").collect::<Vec<_>>(), ["loss::long"]);
    }

    #[test]
    fn a_share_has_whole_names_and_whole_files() {
        let problems = |test: &str| {
            matrix(&format!("[[share]]\ntests = [\"{test}\"]\nkernels = [\"new\"]\n")).problems_of_shares()
        };
        assert_eq!(problems("loss::*"), [""; 0]);
        let delay = |kernels: &str| {
            matrix(&format!("[[share]]\ntests = [\"delay::*\"]\nkernels = [{kernels}]\n"))
                .problems_of_shares()
        };
        assert_eq!(delay("\"old\", \"new\""), [""; 0]);
        assert_eq!(delay("\"old\"").len(), 1);
        assert!(problems("loss::udp*").iter().any(|problem| problem.contains("whole names")));
        assert!(problems("l*").iter().any(|problem| problem.contains("whole names")));
    }

    #[test]
    fn a_shared_test_that_nobody_runs_is_told() {
        let shares = "[[share]]\ntests = [\"delay::long\", \"delay::long\"]\nkernels = [\"old\", \"gone\"]\n";
        let problems = matrix(shares).problems_of_shares();
        assert!(problems.iter().any(|problem| problem.contains("gone, which there is not")), "{problems:?}");
        assert!(problems.iter().any(|problem| problem.contains("left to old, gone")), "{problems:?}");
        assert!(problems.iter().any(|problem| problem.contains("shared twice")), "{problems:?}");
    }
}
