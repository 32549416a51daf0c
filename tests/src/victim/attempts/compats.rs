//! Calls by 32-bit callers.

use anyhow::{Result, ensure};

use super::arguments::v4;
use super::{Felt, close, open, repeat};
use crate::victim::compat::{self, CONNECT, FSTATAT64, FSYNC, Low, MKDIRAT, OPENAT, READ, WRITE};
use crate::victim::syscall_table::raw;

const HERE: u32 = libc::AT_FDCWD as u32;

/// Calls on `hit` and `miss` below the directory, and others.
pub fn make(scratch: &str) -> Result<Vec<(String, Felt)>> {
    let mut low = Low::new()?;
    let mut all = vec![];
    let mut add = |label: String, make: &dyn Fn() -> i64| all.push((label, repeat(make)));
    let stat = low.put(&[], 128)?;
    for name in ["hit", "miss"] {
        let path = format!("{scratch}/{name}/a.txt\0");
        let file = open(&std::ffi::CString::new(path.trim_end_matches('\0'))?, libc::O_RDWR);
        ensure!(file >= 0, "opening {path}: {file}");
        let path = low.put(path.as_bytes(), 0)?;
        let opened = |result: i64| {
            close(result);
            result
        };
        add(format!("openat {name}"), &|| opened(compat::call(OPENAT, [HERE, path, 0, 0, 0])));
        add(format!("newfstatat {name}"), &|| compat::call(FSTATAT64, [HERE, path, stat, 0, 0]));
        let new = format!("{scratch}/{name}/new\0");
        let new_low = low.put(new.as_bytes(), 0)?;
        add(format!("mkdirat {name}"), &|| {
            let made = compat::call(MKDIRAT, [HERE, new_low, 0o700, 0, 0]);
            raw(libc::SYS_rmdir, [new.as_ptr() as usize, 0, 0, 0, 0, 0]);
            made
        });
        let byte = low.put(&[0], 0)?;
        add(format!("read {name}"), &|| compat::call(READ, [file as u32, byte, 1, 0, 0]));
        add(format!("write {name}"), &|| compat::call(WRITE, [file as u32, byte, 1, 0, 0]));
        add(format!("fsync {name}"), &|| compat::call(FSYNC, [file as u32, 0, 0, 0, 0]));
    }
    for (label, address) in [("hit", v4([127, 0, 0, 1], 9)), ("miss", v4([127, 0, 0, 2], 9))] {
        let address = low.put(&address, 0)?;
        add(format!("connect {label}"), &|| {
            let socket =
                raw(libc::SYS_socket, [libc::AF_INET as usize, libc::SOCK_DGRAM as usize, 0, 0, 0, 0]);
            let connected = compat::call(CONNECT, [socket as u32, address, 16, 0, 0]);
            close(socket);
            connected
        });
    }
    Ok(all)
}
