//! Asking the owners, and the kernel about them.

use crate::runs::{
    client::{self, Run},
    message::{Answer, Request, Status},
};
use nix::unistd::{SysconfVar, sysconf};
use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

/// An owner answers at once; a stopped one does not hold up what is shown of the others for longer than this.
const PATIENCE: Duration = Duration::from_millis(800);

/// What is known of a run.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The owner's answer.
    pub status: Status,
    /// Processes of each target, descendants included.
    pub processes: Vec<usize>,
    /// Processor time that the owner has used so far.
    pub cpu: Option<Duration>,
    /// Bytes of memory that the owner holds.
    pub memory: Option<u64>,
}

/// What all owners answered to one question.
#[derive(Debug)]
pub struct Round {
    /// When.
    pub at: Instant,
    /// Of those that answered.
    pub samples: Vec<Sample>,
    /// Ids of those that did not, and why.
    pub problems: Vec<(String, String)>,
}

impl Round {
    /// Asks all live runs of this host, or those whose id begins with `only`.
    ///
    /// # Errors
    /// If the directory of the sockets cannot be read.
    pub fn ask(only: &str) -> Result<Self, client::Error> {
        let runs = client::all()?.into_iter().filter(|run| run.id.starts_with(only));
        let answers: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = runs.map(|run| (run.id.clone(), scope.spawn(move || ask(run)))).collect();
            threads.into_iter().map(|(id, thread)| (id, thread.join())).collect()
        });
        let mut round = Self { at: Instant::now(), samples: vec![], problems: vec![] };
        for (id, answer) in answers {
            match answer {
                Ok(Ok(sample)) => round.samples.push(sample),
                // It ended meanwhile.
                Ok(Err(client::Error::Ended(_))) => {}
                Ok(Err(problem)) => round.problems.push((id, problem.to_string())),
                Err(_) => round.problems.push((id, "the thread that asked it died".to_owned())),
            }
        }
        Ok(round)
    }
}

fn ask(run: Run) -> Result<Sample, client::Error> {
    let id = run.id.clone();
    match run.ask(&Request::Status, Some(PATIENCE))? {
        Answer::Status(status) => Ok(Sample {
            processes: status.chosen.iter().map(|path| processes(path)).collect(),
            cpu: cpu(status.pid),
            memory: memory(status.pid),
            status,
        }),
        // Its last word.
        _ => Err(client::Error::Ended(id)),
    }
}

/// Processes of a cgroup and its descendants; none if it is gone.
fn processes(cgroup: &Path) -> usize {
    let own = fs::read_to_string(cgroup.join("cgroup.procs")).map_or(0, |list| list.lines().count());
    let Ok(entries) = fs::read_dir(cgroup) else { return own };
    let below = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    own + below.map(|entry| processes(&entry.path())).sum::<usize>()
}

/// User and system time (proc_pid_stat(5), fields 14 and 15, in ticks).
fn cpu(pid: u32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let ticks_per_second = sysconf(SysconfVar::CLK_TCK).ok()??;
    ticks(&text).map(|ticks| Duration::from_secs_f64(ticks as f64 / ticks_per_second as f64))
}

fn ticks(stat: &str) -> Option<u64> {
    // The name in parentheses may hold anything.
    let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').collect();
    Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
}

/// Resident memory (proc_pid_statm(5), field 2, in pages).
fn memory(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let page = u64::try_from(sysconf(SysconfVar::PAGE_SIZE).ok()??).ok()?;
    text.split(' ').nth(1)?.parse::<u64>().ok().map(|pages| pages * page)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_of_a_process_is_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 1 0 9 10 11";
        assert_eq!(ticks(stat), Some(300));
        assert_eq!(ticks("7 (a"), None);
        let own = std::process::id();
        assert!(cpu(own).is_some() && memory(own).is_some_and(|bytes| bytes > 1 << 20));
        assert_eq!(cpu(u32::MAX), None);
    }
}
