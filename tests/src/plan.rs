//! What kchaos would do.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::kchaos::binary;

/// `kchaos plan --json WORDS`: the plan.
pub fn plan(words: &str) -> Result<Value> {
    let output = Command::new(binary()?).args(["plan", "--json"]).args(words.split_whitespace()).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "plan {words}: {}", String::from_utf8_lossy(&output.stderr));
    let line = said.lines().last().with_context(|| format!("plan {words} said nothing"))?;
    serde_json::from_str(line).with_context(|| said.clone())
}
