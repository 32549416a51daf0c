//! Running experiment files, and reading what they report.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::kchaos::{Kchaos, Running};
use crate::spawn::Place;

/// An experiment on a cgroup; `fields` has the indentation of the spec's fields.
pub fn document(target: &Path, fields: &str) -> String {
    format!(
        "apiVersion: kchaos.dev/v1alpha1\nkind: Experiment\nmetadata: {{name: test}}\nspec:\n  hypothesis: It holds.\n  targets: \
         [{{cgroup: {}}}]\n{fields}",
        target.display()
    )
}

/// An experiment's file and its reports in all forms, in a directory that goes with this value.
pub struct Reports(TempDir);

impl Reports {
    /// An empty directory.
    pub fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    /// The path of one of the files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes the file.
    pub fn write(&self, text: &str) -> Result<PathBuf> {
        let file = self.path("experiment.yaml");
        std::fs::write(&file, text)?;
        Ok(file)
    }

    /// Starts the experiment.
    pub fn start(&self, text: &str, runner: &Place) -> Result<Running> {
        let file = self.write(text)?;
        let reports: Vec<_> = ["r.json", "r.html", "r.md", "r.xml", "r.journal.json"]
            .iter()
            .map(|name| format!("--report {}", self.path(name).display()))
            .collect();
        Kchaos::new(&format!("run --json {} {}", file.display(), reports.join(" "))).at(runner).start()
    }

    /// One of the files.
    pub fn read(&self, name: &str) -> Result<String> {
        std::fs::read_to_string(self.path(name)).with_context(|| name.to_owned())
    }

    /// What was recorded; the other forms say the same.
    pub fn record(&self, outcome: &str) -> Result<Value> {
        let record: Value = serde_json::from_str(&self.read("r.json")?)?;
        ensure!(record["verdict"]["outcome"] == outcome, "{}", record["verdict"]);
        let shown = outcome.replace('_', " ");
        for name in ["r.html", "r.md"] {
            ensure!(self.read(name)?.contains(&shown), "{name} does not say {shown}");
        }
        ensure!(self.read("r.xml")?.contains(&format!("value=\"{outcome}\"")), "{}", self.read("r.xml")?);
        let journal: Value = serde_json::from_str(&self.read("r.journal.json")?)?;
        ensure!(journal["deviated"] == (outcome == "deviated"), "{journal}");
        Ok(record)
    }
}
