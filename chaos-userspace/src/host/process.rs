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
    parent_in(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The name, in parentheses, may contain anything.
fn parent_in(stat: &str) -> Option<i32> {
    let (_, behind) = stat.rsplit_once(')')?;
    behind.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_stands_behind_the_name() {
        assert_eq!(parent_in("7 (a) b) (c) S 42 7 7 0"), Some(42));
        assert_eq!(parent_in("7 (a"), None);
    }

    #[test]
    fn our_lineage_begins_with_us_and_our_parent() {
        let lineage = lineage();
        assert_eq!(lineage[0], std::process::id() as i32);
        assert_eq!(lineage.get(1).copied(), Some(std::os::unix::process::parent_id() as i32));
    }
}
