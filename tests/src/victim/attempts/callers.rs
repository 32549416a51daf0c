//! Calls by threads that differ in name or user.

use anyhow::{Result, anyhow};

use super::{Felt, repeat};
use crate::victim::syscall_table::raw;

/// Opens the root directory from threads with another name or user each.
pub fn make() -> Result<Vec<(String, Felt)>> {
    let names: [&[u8]; 7] = [
        b"kc-worker\0",
        b"kc-worker-2\0",
        b"kc-work\0",
        b"fifteen-bytes-x\0",
        b"fifteen-bytes-y\0",
        b"a,b\0",
        b"\xff\xfe\0",
    ];
    let by_name = names.into_iter().map(|name| {
        let label = String::from_utf8_lossy(&name[..name.len() - 1]).into_owned();
        (label, libc::SYS_prctl, [libc::PR_SET_NAME as usize, name.as_ptr() as usize, 0, 0, 0, 0])
    });
    // The bare call changes this thread alone; the effective user keeps the right to open.
    let users = [0usize, 33, 1234];
    let by_user = users
        .into_iter()
        .map(|uid| (format!("uid {uid}"), libc::SYS_setresuid, [uid, usize::MAX, usize::MAX, 0, 0, 0]));
    let all = by_name.chain(by_user).map(|(label, number, arguments)| {
        let felt = std::thread::spawn(move || {
            raw(number, arguments);
            repeat(|| {
                let flags = (libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) as usize;
                let fd = raw(libc::SYS_openat, [0, c"/".as_ptr() as usize, flags, 0, 0, 0]);
                if fd >= 0 {
                    raw(libc::SYS_close, [fd as usize, 0, 0, 0, 0, 0]);
                }
                fd
            })
        });
        Ok((label, felt.join().map_err(|_| anyhow!("a thread panicked"))?))
    });
    all.collect()
}
