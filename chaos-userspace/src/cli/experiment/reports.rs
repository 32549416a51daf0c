//! Where reports go.

use super::super::{console, exit, failure::Failure};
use crate::{
    experiment::record::Record,
    report::{
        event::{Event, Sink},
        experiment::Form,
    },
};
use std::{
    fs::File,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// Reports to be written, each with its open file: what cannot be written is told before anything is injected.
pub struct Reports(Vec<Open>);

/// A report's file. One that was made and not written goes again.
struct Open {
    form: Form,
    path: PathBuf,
    file: File,
    is_made: bool,
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.is_made {
            // It says nothing, and nobody waits for it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// What became of them.
pub struct Written {
    /// Those that were written.
    pub files: Vec<PathBuf>,
    /// Those that were not, and why.
    pub problems: Vec<String>,
}

impl Reports {
    /// Opens the files, or tells all problems.
    pub fn open(paths: &[PathBuf]) -> Result<Self, Failure> {
        let (mut open, mut problems) = (vec![], vec![]);
        for path in paths {
            let form = match Form::of(path) {
                Ok(form) => form,
                Err(problem) => {
                    problems.push(format!("--report {}: {problem}", path.display()));
                    continue;
                }
            };
            match file(path) {
                Ok((file, is_made)) => open.push(Open { form, path: path.clone(), file, is_made }),
                Err(error) => problems.push(format!("--report: cannot write {}: {error}", path.display())),
            }
        }
        if problems.is_empty() { Ok(Self(open)) } else { Err(Failure::new(exit::USAGE, problems.join("\n"))) }
    }

    /// Writes them all; one that fails does not keep the others from being written.
    pub fn write(self, record: &Record) -> Written {
        let mut written = Written { files: vec![], problems: vec![] };
        for mut open in self.0 {
            let text = open.form.write(record);
            let file = &mut open.file;
            let result =
                file.set_len(0).and_then(|()| file.write_all(text.as_bytes())).and_then(|()| file.flush());
            match result {
                Ok(()) => {
                    open.is_made = false;
                    written.files.push(open.path.clone());
                }
                Err(error) => written.problems.push(format!("{}: {error}", open.path.display())),
            }
        }
        written
    }
}

/// Opens a file without emptying it: what was there is kept until there is something to take its place. Says whether it
/// was made.
fn file(path: &Path) -> io::Result<(File, bool)> {
    match File::options().write(true).create_new(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            File::options().write(true).open(path).map(|file| (file, false))
        }
        made => made.map(|file| (file, true)),
    }
}

/// Says what came of the experiment.
pub fn tell(record: &Record, written: &Written, sink: &mut Sink) {
    if !sink.is_stderr() {
        let mut text = format!(
            "{}: {}\n",
            record.verdict.outcome.to_uppercase().replace('_', " "),
            record.verdict.sentence
        );
        for file in &written.files {
            text += &format!("report: {}\n", file.display());
        }
        for problem in &written.problems {
            text += &format!("kchaos: the report could not be written: {problem}\n");
        }
        console::say(&text);
    }
    sink.write(&Event::Verdict {
        run: &record.run,
        verdict: &record.verdict,
        abort: record.abort.as_ref(),
        recovery: record.recovery,
        reports: &written.files,
    });
}
