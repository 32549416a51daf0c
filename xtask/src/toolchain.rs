//! A rustc that can compile the kernel programs: it needs the sources of `core`, and leave to use unstable options.
//!
//! Two ways, whichever the machine offers: a rustup nightly with rust-src, or Debian's rustc-web with its sources.

use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use crate::apt;
use crate::command::{read, say};
use crate::linker;

/// Pinned, because the linker must know the LLVM of the compiler.
const NIGHTLY: &str = "nightly-2026-05-20";

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// The compiler for the kernel programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Toolchain {
    /// Where it comes from, for people.
    pub origin: String,
    pub rustc: PathBuf,
    /// The cargo that fits, where the toolchain has one.
    pub cargo: Option<PathBuf>,
    /// Major version of its LLVM: the linker reads its bitcode.
    pub llvm: u32,
    /// First line of `rustc -vV`.
    pub version: String,
}

/// How to get a toolchain; KCHAOS_BPF_TOOLCHAIN=rustup|debian asks for one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Rustup,
    Debian,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Way::Rustup => "rustup",
            Way::Debian => "debian",
        })
    }
}

impl Toolchain {
    /// Its clippy; Debian packs that separately.
    pub fn clippy(&self) -> Result<PathBuf> {
        let driver = self.rustc.with_file_name("clippy-driver");
        if !driver.is_file() {
            if self.origin.starts_with("debian") {
                apt::install(&["rust-web-clippy"])?;
            } else {
                bail!("{} has no clippy; run: rustup component add clippy --toolchain NAME", self.origin);
            }
        }
        Ok(driver)
    }

    /// The directory of its own LLVM, for a toolchain from rustup.
    pub fn own_libraries(&self) -> Option<PathBuf> {
        self.cargo.as_ref()?;
        Some(self.rustc.parent()?.parent()?.join("lib"))
    }

    /// Lets a program we start find that LLVM.
    pub fn show_libraries(&self, command: &mut Command) {
        if let Some(directory) = self.own_libraries() {
            command.env("LD_LIBRARY_PATH", directory);
        }
    }

    /// Still there, and still what was recorded.
    pub fn is_current(&self) -> bool {
        requested().is_ok_and(|way| way.is_none_or(|way| self.origin.starts_with(&way.to_string())))
            && probe(&self.origin, &self.rustc).is_some_and(|now| now == *self)
    }
}

fn requested() -> Result<Option<Way>> {
    match env::var("KCHAOS_BPF_TOOLCHAIN").as_deref() {
        Err(_) | Ok("") => Ok(None),
        Ok("rustup") => Ok(Some(Way::Rustup)),
        Ok("debian") => Ok(Some(Way::Debian)),
        Ok(other) => bail!("KCHAOS_BPF_TOOLCHAIN={other}: expected rustup or debian"),
    }
}

/// Finds a ready toolchain, else installs one.
pub fn find_or_install() -> Result<Toolchain> {
    let ways = match requested()? {
        Some(way) => vec![way],
        None => vec![Way::Rustup, Way::Debian],
    };
    // Anything ready beats an installation; the pinned nightly beats the rest, as it is the same everywhere.
    let nightlies = if ways.contains(&Way::Rustup) { nightlies() } else { Vec::new() };
    if let Some(pinned) = nightlies.iter().find(|ready| ready.origin.contains(NIGHTLY)) {
        return Ok(pinned.clone());
    }
    if ways.contains(&Way::Debian)
        && let Some(ready) = debian()
    {
        return Ok(ready);
    }
    if let Some(ready) = nightlies.into_iter().next() {
        return Ok(ready);
    }
    let mut failures = Vec::new();
    for way in ways {
        let installed = match way {
            Way::Rustup => install_nightly(),
            Way::Debian => install_debian(),
        };
        match installed {
            Ok(toolchain) => return Ok(toolchain),
            Err(error) => {
                say(format!("{way}: {error:#}"));
                failures.push(format!("{way}: {error:#}"));
            }
        }
    }
    Err(anyhow!(
        "no compiler for the kernel programs could be had. Install a nightly with rust-src (rustup toolchain install \
         {NIGHTLY} --profile minimal --component rust-src) or, on Debian, rustc-web and rust-web-src.\n{}",
        failures.join("\n")
    ))
}

/// A usable toolchain around this rustc, or nothing.
fn probe(origin: &str, rustc: &Path) -> Option<Toolchain> {
    let verbose = read(Command::new(rustc).arg("-vV")).ok()?;
    let version = verbose.lines().next()?.to_owned();
    let llvm = verbose
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?
        .split('.')
        .next()?
        .parse()
        .ok()?;
    let sysroot = PathBuf::from(read(Command::new(rustc).args(["--print", "sysroot"])).ok()?.trim());
    if !sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").is_file() || !linker::supports(llvm) {
        return None;
    }
    let cargo =
        Some(sysroot.join("bin/cargo")).filter(|cargo| origin.starts_with("rustup") && cargo.is_file());
    Some(Toolchain { origin: origin.to_owned(), rustc: rustc.to_owned(), cargo, llvm, version })
}

fn nightlies() -> Vec<Toolchain> {
    let Ok(list) = read(Command::new("rustup").args(["toolchain", "list"])) else { return Vec::new() };
    list.lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with("nightly"))
        .filter_map(nightly)
        .collect()
}

fn nightly(name: &str) -> Option<Toolchain> {
    let rustc = read(Command::new("rustup").args(["which", "--toolchain", name, "rustc"])).ok()?;
    probe(&format!("rustup {name}"), Path::new(rustc.trim()))
}

fn install_nightly() -> Result<Toolchain> {
    say(format!("trying rustup: {NIGHTLY} with rust-src"));
    let status = Command::new("rustup")
        .args(["toolchain", "install", NIGHTLY, "--profile", "minimal", "--component", "rust-src,clippy"])
        .args(["--no-self-update"])
        // Many machines cannot reach its server; Debian's packages are then the way, so do not retry for long.
        .env("RUSTUP_MAX_RETRIES", "1")
        .stdin(Stdio::null())
        .status()
        .context("rustup is not there")?;
    if !status.success() {
        bail!("could not install {NIGHTLY} ({status})");
    }
    nightly(NIGHTLY).with_context(|| format!("{NIGHTLY} was installed but has no rust-src"))
}

fn debian() -> Option<Toolchain> {
    probe("debian rustc-web", Path::new(DEBIAN_RUSTC))
}

fn install_debian() -> Result<Toolchain> {
    apt::update()?;
    if !apt::offers("rustc-web") {
        bail!("the configured package sources offer no rustc-web");
    }
    apt::install(&["rustc-web", "rust-web-src"])?;
    debian().with_context(|| {
        format!("{DEBIAN_RUSTC} has no sources of core, or an LLVM newer than bpf-linker knows")
    })
}
