//! Embeds the kernel programs that `cargo xtask build` made, if they are there. Without them everything still builds
//! and the unit tests run; only injecting is refused.

#![allow(clippy::expect_used, reason = "a build script has no better way to fail")]

use std::{env, fs, path::Path};

fn main() {
    println!("cargo:rerun-if-env-changed=KCHAOS_BPF_OBJECT");
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    let copy = Path::new(&out).join("kchaos.bpf.o");
    let object = env::var_os("KCHAOS_BPF_OBJECT").unwrap_or_default();
    let object = Path::new(&object);
    println!("cargo:rerun-if-changed={}", object.display());
    let bytes = fs::read(object).unwrap_or_default();
    fs::write(copy, bytes).expect("the build directory is writable");
}
