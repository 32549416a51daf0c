//! JUnit XML: a test case for each probe, stage and fault, and one for the verdict.

use super::{escape, time::rfc3339};
use crate::{
    cli::exit,
    experiment::record::{Finding, Record, StageOutcome},
};
use std::fmt::Write as _;

/// One case: its name, seconds, and why it failed or was skipped.
struct Case {
    name: String,
    seconds: f64,
    failure: Option<(&'static str, String)>,
    skipped: Option<String>,
}

/// The file.
pub fn xml(record: &Record) -> String {
    let cases = cases(record);
    let failures = cases.iter().filter(|case| case.failure.is_some()).count();
    let skipped = cases.iter().filter(|case| case.skipped.is_some()).count();
    let name = escape(&record.name);
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(
        xml,
        "<testsuites name=\"kchaos\" tests=\"{0}\" failures=\"{failures}\" errors=\"0\" time=\"{1:.3}\">\n  <testsuite \
         name=\"{name}\" tests=\"{0}\" failures=\"{failures}\" errors=\"0\" skipped=\"{skipped}\" time=\"{1:.3}\" \
         timestamp=\"{2}\" hostname=\"{3}\">",
        cases.len(),
        record.took_s,
        rfc3339(record.started_unix_ms),
        escape(&record.environment.host),
    );
    for (property, value) in [
        ("hypothesis", record.hypothesis.as_str()),
        ("outcome", record.verdict.outcome),
        ("run", &record.run),
        ("kernel", &record.environment.kernel),
    ] {
        let (first, last) = (
            if property == "hypothesis" { "    <properties>\n" } else { "" },
            if property == "kernel" { "    </properties>\n" } else { "" },
        );
        let _ =
            write!(xml, "{first}      <property name=\"{property}\" value=\"{}\"/>\n{last}", escape(value));
    }
    for case in &cases {
        let _ = write!(
            xml,
            "    <testcase classname=\"kchaos.{name}\" name=\"{}\" time=\"{:.3}\"",
            escape(&case.name),
            case.seconds
        );
        match (&case.failure, &case.skipped) {
            (Some((kind, text)), _) => {
                let text = escape(text);
                let _ = writeln!(
                    xml,
                    ">\n      <failure type=\"{kind}\" message=\"{text}\">{text}</failure>\n    </testcase>"
                );
            }
            (None, Some(why)) => {
                let _ = writeln!(xml, ">\n      <skipped message=\"{}\"/>\n    </testcase>", escape(why));
            }
            (None, None) => xml.push_str("/>\n"),
        }
    }
    xml + "  </testsuite>\n</testsuites>\n"
}

fn cases(record: &Record) -> Vec<Case> {
    let verdict = &record.verdict;
    let failure = (verdict.code != exit::DONE).then(|| (verdict.outcome, verdict.sentence.clone()));
    let mut cases = vec![Case {
        name: format!("hypothesis: {}", record.hypothesis),
        seconds: record.took_s,
        failure,
        skipped: None,
    }];
    for probe in &record.probes {
        let of_probe =
            |text: &&String| text.strip_prefix(&probe.name).is_some_and(|rest| rest.starts_with([' ', ':']));
        let deviation = verdict.deviations.iter().find(of_probe);
        let asked = probe.answers().next().is_some();
        cases.push(Case {
            name: format!("probe: {}", probe.name),
            seconds: probe.answers().map(|answer| answer.took_s).sum(),
            failure: deviation.map(|text| ("deviated", text.clone())),
            skipped: (!asked && deviation.is_none()).then(|| "it was not asked".to_owned()),
        });
    }
    for stage in &record.stages {
        let is_cut = matches!(stage.outcome, StageOutcome::Cut | StageOutcome::NotReached);
        let failure =
            (stage.outcome == StageOutcome::Deviated).then(|| ("deviated", stage.deviations.join("; ")));
        cases.push(Case {
            name: format!("stage: {}", stage.name),
            seconds: stage.from_s.zip(stage.to_s).map_or(0.0, |(from, to)| to - from),
            failure,
            skipped: is_cut.then(|| stage.outcome.in_words().to_owned()),
        });
    }
    let lasted = record.faults_interval().map_or(0.0, |(from, to)| to - from);
    for fault in &record.faults {
        cases.push(Case {
            name: format!("fault: {}", fault.name),
            seconds: lasted,
            failure: None,
            skipped: (fault.finding != Finding::Confirmed).then(|| fault.finding.in_words().to_owned()),
        });
    }
    cases
}
