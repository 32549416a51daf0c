//! Figures for the runner: one `MEASURE {json}` line each, collected into the result of a soak.

use std::io::Write as _;

/// Prints a measurement past the capture of the test framework.
pub fn measure(name: &str, mut figures: serde_json::Value) {
    if let Some(object) = figures.as_object_mut() {
        object.insert("name".into(), name.into());
    }
    let mut out = std::io::stdout().lock();
    // A closed stdout must not fail the test whose figures nobody reads.
    let _ignored = writeln!(out, "\nMEASURE {figures}").and_then(|()| out.flush());
}
