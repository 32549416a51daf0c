//! `diskFailure` of a Disruption: calls of openat below some paths.

use super::{
    draft::{Draft, Out},
    source::Fields,
    table::Table,
    units,
};

/// What their helper can make openat return.
const ERRNOS: [&str; 22] = [
    "EACCES",
    "EDQUOT",
    "EEXIST",
    "EFAULT",
    "EFBIG",
    "EINTR",
    "EISDIR",
    "ELOOP",
    "EMFILE",
    "ENAMETOOLONG",
    "ENFILE",
    "ENODEV",
    "ENOENT",
    "ENOMEM",
    "ENOSPC",
    "ENOTDIR",
    "ENXIO",
    "EOVERFLOW",
    "EPERM",
    "EROFS",
    "ETXTBSY",
    "EWOULDBLOCK",
];

/// Reads `spec.diskFailure`.
pub fn read(mut disk: Fields<'_>, draft: &mut Draft, table: &mut Table) {
    let mut is_sound = true;
    let mut paths = vec![];
    let given = disk.texts("paths", table).unwrap_or_default();
    if given.is_empty() {
        table.refused(&disk.path("paths"), "it is missing or empty: write at least one beginning of a path");
        is_sound = false;
    }
    for (at, text) in given {
        let prefix = text.trim();
        if !prefix.starts_with('/') || prefix.contains(['*', '?', '[']) {
            table.refused(&at, format!("'{prefix}' is no beginning of an absolute path"));
            is_sound = false;
            continue;
        }
        table.approximated(
            &at,
            format!("match.path: {prefix}*, which relative paths that lead there match as well"),
        );
        paths.push(format!("{prefix}*"));
    }
    let mut error = "ENOENT";
    match disk.map("openat", table) {
        None => table.exact("(spec.diskFailure.openat)", "error: ENOENT, which is theirs if nothing is said"),
        Some(mut openat) => {
            match openat.text("exitCode", table) {
                Some((at, name)) => match ERRNOS.iter().find(|known| known.eq_ignore_ascii_case(name)) {
                    Some(known) => {
                        // The same number.
                        error = if *known == "EWOULDBLOCK" { "EAGAIN" } else { known };
                        table.exact(&at, format!("error: {error}"));
                    }
                    None => {
                        table.refused(&at, format!("'{name}' is not one of {}", ERRNOS.join(", ")));
                        is_sound = false;
                    }
                },
                None => table.exact(
                    "(spec.diskFailure.openat.exitCode)",
                    "error: ENOENT, which is theirs if nothing is said",
                ),
            }
            openat.rest(table);
        }
    }
    let mut share = None;
    if let Some((at, text)) = disk.text("probability", table) {
        match text.strip_suffix('%').map(units::percent) {
            Some(Ok(percent)) if percent != "0%" => {
                if percent == "100%" {
                    table.exact(&at, "every call");
                } else {
                    table.approximated(
                        &at,
                        format!(
                            "probability: {percent}, drawn for each call; theirs fails calls until more than that share of them has failed, beginning with the first, for each path by itself"
                        ),
                    );
                    share = Some(percent);
                }
            }
            _ => {
                table.refused(&at, format!("'{text}' is not a share from 1% to 100%"));
                is_sound = false;
            }
        }
    }
    table.approximated(
        "(spec.diskFailure)",
        "all processes of the target are hit; theirs are the container's first process and its children",
    );
    disk.rest(table);
    // Without its paths or its share a fault would hit more than was asked for.
    if !is_sound {
        return;
    }
    let mut fields = vec![
        ("calls".to_owned(), Out::texts(["openat"])),
        ("match".to_owned(), Out::map([("path", Out::texts(paths))])),
        ("error".to_owned(), Out::text(error)),
    ];
    fields.extend(share.map(|share| ("probability".to_owned(), Out::text(share))));
    draft.faults.push(("disk-failure".to_owned(), "syscall", Out::Map(fields)));
}
