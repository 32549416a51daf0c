//! Asking the owners, and the kernel about them.

use crate::{
    host::{cgroup, process},
    runs::{
        client::{self, Run},
        message::{Answer, Request, Status},
    },
};
use std::time::{Duration, Instant};

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

impl Sample {
    /// What an owner says, and what the kernel says of its targets and of itself.
    pub fn of(status: Status) -> Self {
        Self {
            processes: status.chosen.iter().map(|path| cgroup::processes(path).len()).collect(),
            cpu: process::processor_time(status.pid as i32),
            memory: process::resident_bytes(status.pid as i32),
            status,
        }
    }
}

fn ask(run: Run) -> Result<Sample, client::Error> {
    let id = run.id.clone();
    match run.ask(&Request::Status, Some(PATIENCE))? {
        Answer::Status(status) => Ok(Sample::of(status)),
        // Its last word.
        _ => Err(client::Error::Ended(id)),
    }
}
