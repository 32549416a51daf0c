//! IOChaos: operations of a file system as the system calls that lead to them.

use super::{
    Options,
    chaos_mesh::read_common,
    draft::{Draft, Out},
    source::Fields,
    table::Table,
    units,
};

/// An operation of FUSE: the system calls for it, and what differs.
struct Method {
    name: &'static str,
    calls: &'static [&'static str],
    differs: &'static str,
    /// Whether its calls can be held back.
    sleeps: bool,
}

const fn method(
    name: &'static str,
    calls: &'static [&'static str],
    differs: &'static str,
    sleeps: bool,
) -> Method {
    Method { name, calls, differs, sleeps }
}

const OPENS: &[&str] = &["open", "openat", "openat2"];
const NO_CALL: &str = "it is no system call of its own";

/// What their helper can intercept. Operations without calls are refused with the reason.
const METHODS: &[Method] = &[
    method("lookup", &[], "it is part of every call with a path: name the calls' methods", false),
    method("forget", &[], NO_CALL, false),
    method("getattr", &["stat", "lstat", "fstat", "newfstatat", "statx"], "", true),
    method(
        "setattr",
        &[
            "chmod",
            "fchmod",
            "fchmodat",
            "chown",
            "fchown",
            "lchown",
            "fchownat",
            "truncate",
            "ftruncate",
            "utimensat",
        ],
        "",
        false,
    ),
    method("readlink", &["readlink", "readlinkat"], "", false),
    method("mknod", &["mknod", "mknodat"], "", false),
    method("mkdir", &["mkdir", "mkdirat"], "", false),
    method("unlink", &["unlink", "unlinkat"], "unlinkat removes directories too", false),
    method("rmdir", &["rmdir"], "unlinkat with AT_REMOVEDIR is spared", false),
    method("symlink", &["symlink", "symlinkat"], "", false),
    method("rename", &["rename", "renameat", "renameat2"], "", false),
    method("link", &["link", "linkat"], "", false),
    method("open", OPENS, "directories are opened by the same calls", true),
    method("read", &["read", "pread64", "readv", "preadv", "preadv2"], "of every call, cached or not", false),
    method("write", &["write", "pwrite64", "writev", "pwritev", "pwritev2"], "", false),
    method("flush", &[], "it is close, which must not fail: leave it out", false),
    method("release", &[], NO_CALL, false),
    method("fsync", &["fsync", "fdatasync"], "", false),
    method("opendir", OPENS, "files are opened by the same calls", true),
    method("readdir", &["getdents64"], "", false),
    method("releasedir", &[], NO_CALL, false),
    method("fsyncdir", &["fsync", "fdatasync"], "files are synced by the same calls", false),
    method("statfs", &["statfs", "fstatfs"], "", false),
    method("setxattr", &["setxattr", "lsetxattr", "fsetxattr"], "", false),
    method("getxattr", &["getxattr", "lgetxattr", "fgetxattr"], "", false),
    method("listxattr", &["listxattr", "llistxattr", "flistxattr"], "", false),
    method("removexattr", &["removexattr", "lremovexattr", "fremovexattr"], "", false),
    method("access", &["access", "faccessat", "faccessat2"], "", false),
    method("create", OPENS, "opening what exists is the same call", true),
    method("getlk", &[], "fcntl does more than locks", false),
    method("setlk", &[], "fcntl does more than locks", false),
    method("bmap", &[], NO_CALL, false),
];

/// Reads `spec`.
pub fn read(mut spec: Fields<'_>, options: &Options, draft: &mut Draft, table: &mut Table) {
    let action = spec.text("action", table);
    read_common(&mut spec, options, draft, table);
    spec.without("containerNames", "--target names whom it hits: name the container there", table);
    let action = match action {
        Some((path, action @ ("latency" | "fault"))) => {
            table.exact(&path, "syscall");
            action
        }
        Some((path, action @ ("attrOverride" | "mistake"))) => {
            let why = if action == "mistake" {
                "data that is read or written cannot be changed by kchaos: use fault (EIO), or a device of dm-flakey"
            } else {
                "attributes cannot be changed by kchaos: use fault on getattr (EACCES, ENOENT)"
            };
            table.refused(&path, why);
            ""
        }
        Some((path, other)) => {
            table.refused(&path, format!("'{other}' is not one of latency, fault, attrOverride, mistake"));
            ""
        }
        None => {
            table.refused(&spec.path("action"), "it is missing");
            ""
        }
    };
    for name in ["attr", "mistake"] {
        spec.refuse(name, "kchaos can change neither attributes nor data: see action", table);
    }
    let effect = read_effect(&mut spec, action, draft, table);
    let path = read_path(&mut spec, table);
    let mut narrow = path.is_some();
    let probability = spec.text("percent", table).and_then(|(path, text)| match units::percent(text) {
        Ok(share) => {
            table.exact(&path, format!("probability: {share}"));
            Some(share)
        }
        Err(why) => {
            narrow = false;
            table.refused(&path, why);
            None
        }
    });
    let calls = read_methods(&mut spec, action, table);
    table.approximated(
        "(calls)",
        "system calls of the target; theirs are operations of a file system, also those of mmap, sendfile and io_uring",
    );
    spec.rest(table);
    // Without its path or its share a fault would hit more than was asked for.
    let (Some(effect), false, true) = (effect, calls.is_empty(), narrow) else { return };
    let mut fields = vec![("calls".to_owned(), Out::texts(calls))];
    fields.extend(path.map(|path| ("match".to_owned(), Out::map([("path", Out::texts([path]))]))));
    fields.push(effect);
    fields.extend(probability.map(|share| ("probability".to_owned(), Out::text(share))));
    draft.faults.push((action.to_owned(), "syscall", Out::Map(fields)));
}

fn read_effect(
    spec: &mut Fields<'_>,
    action: &str,
    draft: &mut Draft,
    table: &mut Table,
) -> Option<(String, Out)> {
    let delay = spec.text("delay", table);
    let errno = spec.text("errno", table);
    for (name, given, of) in [("delay", &delay, "latency"), ("errno", &errno, "fault")] {
        match given {
            Some((path, _)) if action != of => {
                table.refused(path, format!("it belongs to action {of}: take it out"));
            }
            None if action == of => table.refused(&spec.path(name), "it is missing: the action needs it"),
            _ => {}
        }
    }
    match action {
        "latency" => {
            let (path, text) = delay?;
            match units::go_duration(text) {
                Ok(time) => {
                    table.exact(&path, format!("latency: {{time: {time}}}, mechanism: lsm_sleep"));
                    draft.mechanism = Some("lsm_sleep");
                    Some(("latency".to_owned(), Out::map([("time", Out::text(time))])))
                }
                Err(why) => {
                    table.refused(&path, why);
                    None
                }
            }
        }
        "fault" => {
            let (path, text) = errno?;
            if !text.parse::<u32>().is_ok_and(|number| (1..4096).contains(&number)) {
                table.refused(&path, format!("'{text}' is no number of an error: write 5 for EIO"));
                return None;
            }
            table.exact(&path, format!("error: {text}"));
            Some(("error".to_owned(), Out::Bare(text.to_owned())))
        }
        _ => None,
    }
}

/// The pattern of paths: our star stands for slashes too.
fn read_path(spec: &mut Fields<'_>, table: &mut Table) -> Option<String> {
    let volume = spec.text("volumePath", table);
    let glob = spec.text("path", table);
    let Some((volume_path, volume)) = volume else {
        table.refused(&spec.path("volumePath"), "it is missing");
        if let Some((path, _)) = glob {
            table.refused(&path, "it lies below volumePath");
        }
        return None;
    };
    let below = format!("{}/*", volume.trim_end_matches('/'));
    let Some((glob_path, glob)) = glob else {
        table.approximated(
            &volume_path,
            format!("match.path: {below}: what is below it, without the directory itself"),
        );
        return Some(below);
    };
    table.exact(&volume_path, "path lies below it");
    if !format!("{}/", glob.trim_end_matches('/')).starts_with(&format!("{}/", volume.trim_end_matches('/')))
    {
        table.refused(&glob_path, format!("'{glob}' does not lie below {volume}"));
        return None;
    }
    let ours = glob.replace("/**/*", "/*").replace("/**", "/*");
    if ours.matches('*').count() > 1 || ours.contains(['?', '[', '{', '\\']) {
        table.refused(
            &glob_path,
            "a pattern of kchaos has one star and nothing else: write /dir/**/* or a path of its own",
        );
        return None;
    }
    if ours == glob && glob.contains('*') {
        table.approximated(&glob_path, format!("match.path: {ours}, whose star stands for slashes too"));
    } else {
        table.exact(&glob_path, format!("match.path: {ours}"));
    }
    Some(ours)
}

fn read_methods(spec: &mut Fields<'_>, action: &str, table: &mut Table) -> Vec<&'static str> {
    let sleeps = action == "latency";
    let mut calls: Vec<&'static str> = vec![];
    let mut add = |method: &Method| {
        for call in method.calls {
            if !calls.contains(call) {
                calls.push(call);
            }
        }
    };
    let methods = spec.texts("methods", table).unwrap_or_default();
    for (path, name) in &methods {
        let Some(method) = METHODS.iter().find(|method| method.name.eq_ignore_ascii_case(name)) else {
            table.refused(path, format!("'{name}' is no method of IOChaos"));
            continue;
        };
        if method.calls.is_empty() {
            table.refused(path, method.differs);
        } else if sleeps && !method.sleeps {
            table.refused(
                path,
                "its calls have no hook that may sleep: only open, create, opendir and getattr can be held back",
            );
        } else {
            let named = method.calls.join(", ");
            if method.differs.is_empty() {
                table.exact(path, named);
            } else {
                table.approximated(path, format!("{named}: {}", method.differs));
            }
            add(method);
        }
    }
    if methods.is_empty() && !action.is_empty() {
        METHODS.iter().filter(|method| method.sleeps || !sleeps).for_each(&mut add);
        let note = if sleeps {
            "all are meant; those that can be held back are: open, create, opendir, getattr"
        } else {
            "all are meant: all calls with a path or a descriptor, but for close, and lookups on the way"
        };
        table.approximated(&format!("({})", spec.path("methods")), note);
    }
    calls
}
