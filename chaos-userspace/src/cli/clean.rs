//! `kchaos clean`: removes what an owner killed together with its guardian left behind.

use super::{console, exit, failure::Failure, run};
use crate::{
    host::cgroup::{self, Hierarchy},
    inject::journal::{self, Journal},
    runs,
};
use std::path::{Path, PathBuf};

/// Runs the command.
pub fn run(json: bool) -> Result<u8, Failure> {
    run::check_privileges(true)?;
    let (mut removed, mut left) = (vec![], vec![]);
    let mut in_use: Vec<PathBuf> = vec![];
    for journal in Journal::all() {
        let journal = match journal {
            Ok(journal) => journal,
            Err(path) => {
                left.push(format!("journal {}: unreadable, remove it by hand", path.display()));
                continue;
            }
        };
        if journal.owner.is_alive() {
            in_use.extend(journal.cgroup.clone());
            continue;
        }
        let problems = journal.undo_filters(&[]);
        if problems.is_empty() {
            removed.extend(
                journal.filters.iter().map(|filter| format!("clsact filter on device {}", filter.device)),
            );
        }
        let clean = problems.is_empty();
        left.extend(problems);
        match &journal.cgroup {
            Some(path) => {
                let gone = try_remove(path, &mut removed, &mut left);
                if gone && clean {
                    journal.erase();
                }
            }
            None if clean => journal.erase(),
            None => {}
        }
    }
    removed.extend(runs::sweep().into_iter().map(|run| format!("socket of run {run}")));
    let unfinished = runs::sweep_unfinished(Path::new(journal::DIRECTORY));
    removed.extend(unfinished.into_iter().map(|file| format!("unfinished file {}", file.display())));
    // Cgroups of runs that never got as far as a journal.
    if let Ok(hierarchy) = Hierarchy::find() {
        for path in hierarchy.fresh() {
            let is_ours = in_use.iter().any(|used| path.starts_with(used) || is_bystander_of(&path, used));
            let told = left.iter().any(|line| line.contains(&*path.to_string_lossy()));
            if !is_ours && !told {
                try_remove(&path, &mut removed, &mut left);
            }
        }
    }
    if json {
        console::out(format_args!(
            "{}",
            serde_json::json!({"event": "clean", "removed": removed, "left": left})
        ));
    } else {
        for line in &removed {
            console::out(format_args!("removed {line}"));
        }
        for line in &left {
            console::out(format_args!("left {line}"));
        }
        if removed.is_empty() && left.is_empty() {
            console::out(format_args!("nothing to clean"));
        }
    }
    Ok(if left.is_empty() { exit::DONE } else { exit::ROLLBACK_INCOMPLETE })
}

fn is_bystander_of(path: &Path, used: &Path) -> bool {
    path.to_string_lossy().strip_prefix(&*used.to_string_lossy()) == Some("-bystander")
}

fn try_remove(path: &Path, removed: &mut Vec<String>, left: &mut Vec<String>) -> bool {
    if !path.exists() {
        return true;
    }
    match cgroup::remove(path) {
        Ok(()) => {
            removed.push(format!("cgroup {}", path.display()));
            true
        }
        Err(error) => {
            left.push(format!("cgroup {}: {error}; it goes when its last process does", path.display()));
            false
        }
    }
}
