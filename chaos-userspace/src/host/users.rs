//! Users of this host.

use std::{fs, path::Path};

/// Number of a user by name, from `etc/passwd` below `root`. Users of a directory service are known there only where it
/// is copied to the file.
pub fn uid(root: &Path, name: &str) -> Option<u32> {
    let text = fs::read(root.join("etc/passwd")).ok()?;
    text.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':');
        let uid = (fields.next()? == name.as_bytes()).then(|| fields.nth(1))??;
        std::str::from_utf8(uid).ok()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_looked_up() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        assert_eq!(uid(root.path(), "root"), None);
        fs::write(
            root.path().join("etc/passwd"),
            b"root:x:0:0::/:/bin/sh\n\xff:x:1:\nbad\nwww-data:x:33:33\n",
        )
        .unwrap();
        assert_eq!((uid(root.path(), "root"), uid(root.path(), "www-data")), (Some(0), Some(33)));
        assert_eq!((uid(root.path(), "bad"), uid(root.path(), "www")), (None, None));
    }
}
