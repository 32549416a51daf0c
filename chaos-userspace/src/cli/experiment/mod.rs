//! `kchaos run`: an experiment file to its verdict.

mod after;
mod before;
mod course;
mod during;
mod follow;
mod reports;
mod stages;
mod view;

use super::{Common, exit, failure::Failure, file, run, safety, target::Chosen};
use crate::{
    experiment::record::Record,
    host::cgroup::Hierarchy,
    plan::{self, explain::explain, watch},
    probe::kernel::Kernel,
    report::event::Sink,
};
use clap::Args;
use course::Course;
use reports::Reports;
use std::{
    ffi::OsString,
    hash::{BuildHasher as _, RandomState},
    path::PathBuf,
};

/// Arguments of `kchaos run`.
#[derive(Args, Debug)]
pub struct Run {
    /// The experiment file; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Write a report; its form follows from its name: .json (the record), .html, .md, .xml (JUnit) or .journal.json (Chaos
    /// Toolkit); repeat for more
    #[arg(long, value_name = "FILE")]
    report: Vec<PathBuf>,

    /// On a terminal too, tell what happens line by line instead of in a live view
    #[arg(long)]
    plain: bool,
}

/// Runs the command.
pub fn run(arguments: &Run, words: &[OsString], common: &Common, sink: &mut Sink) -> Result<u8, Failure> {
    let experiment = file::read(&arguments.file)?;
    let reports = Reports::open(&arguments.report)?;
    run::check_privileges(true)?;
    super::halt::check()?;
    let hierarchy = Hierarchy::find()?;
    let chosen = Chosen::find(&hierarchy, &experiment.spec)?;
    let processes = chosen.processes();
    let allowed = safety::check(&chosen, &processes, &experiment.spec)?;
    let kernel = Kernel::default();
    let plan = experiment.named(plan::make(&experiment.spec, &kernel)?);
    let warnings = run::look_at_devices(&plan, &processes)?;
    let watched = watch::watch(experiment.watched_calls(), &plan, &kernel)?;
    let sentences =
        explain(&plan, &chosen.in_words(), &warnings) + &experiment.explain() + &watch::explain(&watched);
    let command = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let record = Record::new(&experiment, &plan, command, &sentences);
    for warning in warnings {
        log::warn!("{warning}");
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::internal)?;
    let record = runtime.block_on(async {
        let mut course = Course::new(&experiment, &plan, &chosen, &watched, record, common.verbose)?;
        if !experiment.script.is_plain() {
            let seed = experiment.spec.seed.unwrap_or_else(fresh_seed);
            let length = experiment.spec.duration.unwrap_or_default();
            course
                .follow(experiment.script.timetable(length, seed), experiment.script.draws().then_some(seed));
        }
        if !arguments.plain {
            course.open_view(sink);
        }
        course.run(allowed, sink).await;
        Ok::<_, Failure>(course.finish())
    })?;
    // Requests that are still waited for must not hold up the end.
    runtime.shutdown_background();
    let code = record.verdict.code;
    let written = reports.write(&record);
    reports::tell(&record, &written, sink);
    match written.problems.is_empty() {
        false if code == exit::DONE => Ok(exit::INTERNAL),
        _ => Ok(code),
    }
}

/// A seed that nobody has chosen.
fn fresh_seed() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
