//! Different calls on the same few files: what is hit of a class.

use std::ffi::CString;

use anyhow::{Result, ensure};

use super::{Felt, HERE, close, open, openat, pointer, read, repeat};
use crate::victim::syscall_table::raw;

/// Calls on `hit` and `miss` below the directory, in this order, and no other calls on `hit`.
pub fn make(scratch: &str) -> Result<Vec<(String, Felt)>> {
    let mut all = vec![];
    let mut add = |label: &str, make: &dyn Fn() -> i64| all.push((label.to_owned(), repeat(make)));
    let mut stat = [0u64; 32];
    let stat = stat.as_mut_ptr() as usize;
    for name in ["hit", "miss"] {
        let file = CString::new(format!("{scratch}/{name}/a.txt"))?;
        let new = CString::new(format!("{scratch}/{name}/new"))?;
        add(&format!("openat {name}"), &|| openat(HERE, &file));
        add(&format!("newfstatat {name}"), &|| {
            raw(libc::SYS_newfstatat, [HERE, pointer(&file), stat, 0, 0, 0])
        });
        add(&format!("truncate {name}"), &|| raw(libc::SYS_truncate, [pointer(&file), 8, 0, 0, 0, 0]));
        add(&format!("faccessat {name}"), &|| raw(libc::SYS_faccessat, [HERE, pointer(&file), 0, 0, 0, 0]));
        add(&format!("mkdirat and rmdir {name}"), &|| {
            let made = raw(libc::SYS_mkdirat, [HERE, pointer(&new), 0o700, 0, 0, 0]);
            if made < 0 { made } else { raw(libc::SYS_rmdir, [pointer(&new), 0, 0, 0, 0, 0]) }
        });
    }
    add("getppid", &|| raw(libc::SYS_getppid, [0; 6]));
    add("getcwd", &|| {
        let mut path = [0u8; 4096];
        raw(libc::SYS_getcwd, [path.as_mut_ptr() as usize, path.len(), 0, 0, 0, 0])
    });
    let fd = open(c"/dev/zero", libc::O_RDONLY);
    ensure!(fd >= 0, "opening /dev/zero: {fd}");
    add("read", &|| read(fd as usize));
    close(fd);
    Ok(all)
}
