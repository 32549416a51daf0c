//! Processes as /proc shows them.

use std::fs;

/// The name of a process, of at most 15 bytes.
pub fn comm(pid: i32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end_matches('\n').to_owned())
}

/// This process, its parent, and so on up to the first that can be seen.
pub fn lineage() -> Vec<i32> {
    let mut lineage = vec![std::process::id() as i32];
    while let Some(parent) = lineage.last().and_then(|pid| parent(*pid)).filter(|parent| *parent > 0) {
        // Ids are reused: whoever died meanwhile must not lead in circles.
        if lineage.contains(&parent) {
            break;
        }
        lineage.push(parent);
    }
    lineage
}

fn parent(pid: i32) -> Option<i32> {
    behind_name(&stat(pid)?)?.nth(1)?.parse().ok()
}

/// When a process started, in clock ticks since boot; none for a zombie, which holds nothing any more.
pub fn start(pid: i32) -> Option<u64> {
    let stat = stat(pid)?;
    let mut fields = behind_name(&stat)?;
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

fn stat(pid: i32) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/stat")).ok()
}

/// Field 3 and what follows. The name before them may contain anything; the last parenthesis ends it.
fn behind_name(stat: &str) -> Option<impl Iterator<Item = &str>> {
    Some(stat.rsplit_once(')')?.1.split_ascii_whitespace())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_stands_behind_the_name() {
        assert_eq!(behind_name("7 (a) b) (c) S 42 7 7 0").and_then(|mut fields| fields.nth(1)), Some("42"));
        assert!(behind_name("7 (a").is_none());
    }

    #[test]
    fn our_lineage_begins_with_us_and_our_parent() {
        let lineage = lineage();
        assert_eq!(lineage[0], std::process::id() as i32);
        assert_eq!(lineage.get(1).copied(), Some(std::os::unix::process::parent_id() as i32));
    }
}
