//! Experiment files: read for `plan` and `run`, and their schema.

use super::{console, exit, failure::Failure};
use crate::experiment::{self, Experiment, yaml::BYTES_MAX};
use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

/// Reads an experiment, or all problems of its file.
pub fn read(path: &Path) -> Result<Experiment, Failure> {
    let unreadable = |error| Failure::new(exit::USAGE, format!("{}: {error}", path.display()));
    let text = text(path).map_err(unreadable)?;
    let name = if path == Path::new("-") { "standard input".into() } else { path.display().to_string() };
    experiment::read(&name, &text).map_err(|problems| Failure::new(exit::USAGE, problems))
}

/// The text of a file, or of standard input for -.
pub fn text(path: &Path) -> io::Result<String> {
    let input: Box<dyn io::Read> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(path)?) };
    let mut text = String::new();
    // One more than is read, so that the reader says what is too much.
    input.take(BYTES_MAX as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}

/// Prints the schema.
pub fn schema() -> Result<u8, Failure> {
    let text = serde_json::to_string_pretty(&experiment::schema()).map_err(Failure::internal)?;
    console::print(format!("{text}\n").as_bytes()).map_err(Failure::internal)?;
    Ok(exit::DONE)
}
