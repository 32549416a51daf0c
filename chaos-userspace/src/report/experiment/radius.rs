//! Whom it was about and whom it reached, the bystander, and what is left.

use crate::{experiment::record::Record, plan::explain::paths, report::restarts::Restarts};
use serde::Deserialize as _;

/// Headings of [`compared`].
pub const COLUMNS: [&str; 3] = ["", "planned", "actual"];

/// Blast radius: what was planned beside what came about. Empty if nothing was injected.
pub fn compared(record: &Record) -> Vec<[String; 3]> {
    let Some(summary) = &record.summary else { return vec![] };
    let (hit, spared) = record.targets();
    let planned = match spared.len() {
        0 => format!("all {} that were found", hit.len()),
        _ => format!("{} of {} that were found", hit.len(), hit.len() + spared.len()),
    };
    let planned =
        if hit.len() == 1 && spared.is_empty() { "the one that was named".to_owned() } else { planned };
    let mut rows = vec![["targets".to_owned(), planned, paths(&hit)]];
    if !spared.is_empty() {
        rows.push(["spared".to_owned(), spared.len().to_string(), paths(&spared)]);
    }
    if let Some((from, to)) = record.faults_interval() {
        let planned = record.planned_s.map_or_else(|| "-".to_owned(), |planned| format!("{planned} s"));
        rows.push(["time under fault".to_owned(), planned, format!("{:.1} s", to - from)]);
    }
    for fault in &record.faults {
        let hit =
            format!("{} of {} that matched, of {} that were seen", fault.injected, fault.matched, fault.seen);
        rows.push([fault.name.clone(), fault.asked.clone(), hit]);
    }
    let felt = &summary["bystander"];
    let felt = match felt.is_object() {
        true => format!(
            "{} of {} packets lost, {} of {} calls failed",
            felt["lost"], felt["packets"], felt["failed"], felt["calls"]
        ),
        false => "nobody was watched".to_owned(),
    };
    rows.push(["bystander in a sibling cgroup".to_owned(), "feels nothing".to_owned(), felt]);
    let undone = &summary["undone"];
    let left = format!(
        "{} links, {} programs left, {:.1} ms after the end",
        undone["links"],
        undone["programs"],
        undone["took_ms"].as_f64().unwrap_or(0.0)
    );
    rows.push(["rollback".to_owned(), "nothing is left".to_owned(), left]);
    if let Some(recovery) = record.recovery {
        let took =
            recovery.took_s.map_or_else(|| "it was not".to_owned(), |took| format!("after {took:.3} s"));
        rows.push(["steady state back".to_owned(), format!("within {} s", recovery.limit_s), took]);
    }
    rows
}

/// What else there is to say of it.
pub fn remarks(record: &Record) -> Vec<String> {
    let Some(summary) = &record.summary else { return vec!["Nothing was injected.".to_owned()] };
    let mut lines = vec![];
    for restarted in summary["restarted"].as_array().into_iter().flatten() {
        lines.extend(Restarts::deserialize(restarted).map(|restarts| restarts.to_string()));
    }
    let overtaken =
        summary["rules"].as_array().into_iter().flatten().flat_map(|rule| rule["overtaken"].as_array());
    for function in overtaken.flatten().filter_map(|function| function.as_str()) {
        lines.push(format!(
            "INCONCLUSIVE: somebody put a trampoline on {function}, past which kprobes have no effect."
        ));
    }
    if let Some(escaped) = summary["escaped"].as_u64() {
        lines.push(match escaped {
            0 => "No packet of the target escaped the hooks.".to_owned(),
            count => {
                format!("INCONCLUSIVE: {count} packets of the target came to no device that was watched.")
            }
        });
    }
    for problem in summary["undone"]["problems"].as_array().into_iter().flatten() {
        lines.push(format!("NOT UNDONE: {}", problem.as_str().unwrap_or_default()));
    }
    if let Some(abort) = &record.abort {
        lines.push(format!(
            "Given up because {}: nothing acted any more {:.2} ms later; the last fault came {}.",
            abort.condition,
            abort.disarmed_ms,
            match abort.last_fault_within_ms {
                Some(within) => format!("at most {within:.2} ms after the condition"),
                None => "before the programs were taken away".to_owned(),
            }
        ));
    }
    lines
}
