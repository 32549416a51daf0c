//! Calls on different paths.

use std::ffi::CString;

use anyhow::{Context as _, Result, ensure};

use super::{Felt, HERE, close, expecting, open, openat, pointer, read, repeat, write};
use crate::victim::syscall_table::raw;

/// Calls on paths below the directory, in all ways of naming them.
pub fn make(scratch: &str) -> Result<Vec<(String, Felt)>> {
    ensure!(raw(libc::SYS_chdir, [pointer(&CString::new(scratch)?), 0, 0, 0, 0, 0]) == 0, "chdir {scratch}");
    let directory = open(c".", libc::O_RDONLY | libc::O_DIRECTORY);
    ensure!(directory >= 0, "opening {scratch}: {directory}");
    let directory = directory as usize;
    let below = |path: &[u8]| CString::new([scratch.as_bytes(), b"/", path].concat()).context("a zero byte");
    let mut all = vec![];
    let mut add = |label: &str, make: &dyn Fn() -> i64| all.push((label.to_owned(), repeat(make)));

    let longest = |bytes: usize| {
        let mut path = [scratch.as_bytes(), b"/hit/"].concat();
        while path.len() + 2 + 5 <= bytes {
            path.extend(b"./");
        }
        while path.len() + 5 < bytes {
            path.push(b'/');
        }
        path.extend(b"a.txt");
        CString::new(path).context("a zero byte")
    };
    let deep = |levels: usize| below(&[b"deep/".repeat(levels), b"a.txt".to_vec()].concat());
    for (label, path) in [
        ("hit", below(b"hit/a.txt")?),
        ("miss", below(b"miss/a.txt")?),
        ("sibling of a prefix", below(b"hit2")?),
        ("exception", below(b"hit/not/a.txt")?),
        ("suffix", below(b"miss/b.log")?),
        ("whole", below(b"whole")?),
        ("longer than whole", below(b"whole2")?),
        ("not UTF-8", below(b"\xff\xfe")?),
        ("not that byte", below(b"\xfd\xfe")?),
        ("begin and end", below(b"be/gin.end")?),
        ("only begin", below(b"be/gin.fin")?),
        ("dot dot", below(b"miss/../hit/a.txt")?),
        ("link", below(b"link/a.txt")?),
        ("4095 bytes", longest(4095)?),
        ("50 deep", deep(50)?),
        ("70 deep", deep(70)?),
        ("cwd", c"hit/a.txt".to_owned()),
        ("cwd with dot", c"./hit/a.txt".to_owned()),
        ("cwd miss", c"miss/a.txt".to_owned()),
    ] {
        add(label, &|| openat(HERE, &path));
    }
    add("dirfd", &|| openat(directory, c"hit/a.txt"));
    add("dirfd miss", &|| openat(directory, c"miss/a.txt"));
    let too_long = longest(4096)?;
    add("4096 bytes", &|| expecting(libc::ENAMETOOLONG, openat(HERE, &too_long)));
    add("bad pointer", &|| {
        expecting(libc::EFAULT, raw(libc::SYS_openat, [HERE, 8, libc::O_RDONLY as usize, 0, 0, 0]))
    });
    add("bad dirfd", &|| expecting(libc::EBADF, openat(9999, c"hit/a.txt")));

    for (label, name) in [("hit", c"hit/new"), ("miss", c"miss/new")] {
        let whole = below(name.to_bytes())?;
        let remove = || raw(libc::SYS_unlink, [pointer(&whole), 0, 0, 0, 0, 0]);
        add(&format!("unlinkat {label}"), &|| {
            close(open(&whole, libc::O_WRONLY | libc::O_CREAT));
            raw(libc::SYS_unlinkat, [directory, pointer(name), 0, 0, 0, 0])
        });
        remove();
        add(&format!("mkdirat {label}"), &|| {
            let made = raw(libc::SYS_mkdirat, [HERE, pointer(name), 0o700, 0, 0, 0]);
            raw(libc::SYS_rmdir, [pointer(&whole), 0, 0, 0, 0, 0]);
            made
        });
        add(&format!("renameat2 to {label}"), &|| {
            close(open(c"from", libc::O_WRONLY | libc::O_CREAT));
            let moved = raw(libc::SYS_renameat2, [HERE, pointer(c"from"), directory, pointer(name), 0, 0]);
            remove();
            moved
        });
    }
    let mut stat = [0u64; 32];
    let stat = stat.as_mut_ptr() as usize;
    for (label, name) in [("hit", c"hit/a.txt"), ("miss", c"miss/a.txt")] {
        let fd = open(name, libc::O_RDWR);
        ensure!(fd >= 0, "opening {name:?}: {fd}");
        let fd = fd as usize;
        add(&format!("newfstatat {label}"), &|| {
            raw(libc::SYS_newfstatat, [HERE, pointer(name), stat, 0, 0, 0])
        });
        add(&format!("newfstatat empty {label}"), &|| {
            raw(libc::SYS_newfstatat, [fd, pointer(c""), stat, libc::AT_EMPTY_PATH as usize, 0, 0])
        });
        add(&format!("truncate {label}"), &|| raw(libc::SYS_truncate, [pointer(name), 8, 0, 0, 0, 0]));
        add(&format!("read {label}"), &|| read(fd));
        add(&format!("write {label}"), &|| write(fd));
        add(&format!("fsync {label}"), &|| raw(libc::SYS_fsync, [fd, 0, 0, 0, 0, 0]));
        close(fd as i64);
    }
    let mut pipe = [0i32; 2];
    ensure!(raw(libc::SYS_pipe, [pipe.as_mut_ptr() as usize, 0, 0, 0, 0, 0]) == 0, "no pipe");
    let memory = raw(libc::SYS_memfd_create, [pointer(c"hit"), 0, 0, 0, 0, 0]) as usize;
    add("write pipe", &|| write(pipe[1] as usize));
    add("read pipe", &|| read(pipe[0] as usize));
    add("write memfd", &|| write(memory));
    Ok(all)
}
