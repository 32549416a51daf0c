//! Every form of the same record.

use super::*;
use crate::{
    experiment::{
        record::{
            AbortRecord, DoseRecord, Environment, FORMAT, FaultRecord, Finding, Note, Phase, ProbeRecord,
            Record, Recovery, StageOutcome, StageRecord,
        },
        share::Achieved,
        verdict::Verdict,
    },
    steady::{
        abort::Tally,
        ask::Answer,
        value::{Unit, Value},
    },
};

fn answer(at_s: f64, value: Option<f64>, holds: bool) -> Answer {
    Answer {
        at_s,
        took_s: 0.01,
        value: value.map(Value::Number),
        shown: value.map_or("no answer".into(), |value| Unit::Time.show(value)),
        holds,
        problem: (!holds).then(|| "<b>late</b> & \"lost\"".to_owned()),
        attempts: 1,
    }
}

fn record() -> Record {
    let tally = Tally { answers: 3, failures: 1, in_a_row: 0 };
    let sentence = "The hypothesis of <x> is refuted: shop failed.".to_owned();
    Record {
        format: FORMAT,
        version: "0",
        name: "<x> | a_b".into(),
        hypothesis: "It </style><script>alert(1)</script> holds.".into(),
        labels: [("team".to_owned(), "shop".to_owned())].into(),
        annotations: [].into(),
        run: "abc".into(),
        started_unix_ms: 951_827_696_789,
        took_s: 12.0,
        verdict: Verdict {
            code: 4,
            outcome: "deviated",
            sentence,
            deviations: vec!["shop failed 1 of 3".into()],
        },
        command: vec!["kchaos".into(), "run".into(), "it's.yaml".into()],
        seed: Some(42),
        environment: Environment { host: "h".into(), kernel: "6.12".into(), processors: 2 },
        plan: vec!["Target: x.".into()],
        planned_s: Some(8.0),
        schedule_seed: None,
        stages: vec![],
        phases: vec![
            Phase { name: "before", from_s: 0.0, to_s: 1.0 },
            Phase { name: "faults", from_s: 1.0, to_s: 9.0 },
            Phase { name: "after", from_s: 9.0, to_s: 12.0 },
        ],
        events: vec![Note { at_s: 1.0, text: "faults act <now>".into() }],
        probes: vec![ProbeRecord {
            name: "shop".into(),
            stage: None,
            kind: "http",
            asks: "latency of GET http://x/".into(),
            tolerated: "at most 300 ms".into(),
            unit: Unit::Time,
            at_least: None,
            at_most: Some(0.3),
            error_budget: 0.0,
            before: vec![answer(0.5, Some(0.02), true)],
            during: vec![
                answer(2.0, Some(0.1), true),
                answer(4.0, Some(0.9), false),
                answer(6.0, None, false),
            ],
            after: vec![answer(11.0, Some(0.02), true)],
            tally,
        }],
        faults: vec![FaultRecord {
            name: "loss".into(),
            asked: "lose 5% of egress packets".into(),
            asked_percent: 5.0,
            achieved: Achieved::of(50, 1000),
            mechanisms: vec!["tcx"],
            limits: vec![],
            seen: 2000,
            matched: 1000,
            injected: 50,
            spared_by_draw: 950,
            finding: Finding::Confirmed,
            stage: None,
            course: vec![],
        }],
        abort: Some(AbortRecord {
            condition: "shop failed".into(),
            at_s: 9.0,
            disarmed_ms: 0.1,
            last_fault_within_ms: Some(0.2),
        }),
        recovery: Some(Recovery { limit_s: 30.0, took_s: Some(1.5) }),
        summary: Some(serde_json::json!({
            "chosen": ["/a"], "spared": ["/b"], "escaped": 0,
            "bystander": {"lost": 0, "packets": 100, "failed": 0, "calls": 200},
            "undone": {"links": 0, "programs": 0, "took_ms": 3.5, "problems": []},
        })),
    }
}

#[test]
fn forms_follow_from_names() {
    assert_eq!(Form::of(Path::new("a.journal.json")), Ok(Form::Journal));
    assert_eq!(Form::of(Path::new("a.JSON")), Ok(Form::Json));
    assert_eq!(Form::of(Path::new("dir.html/x.md")), Ok(Form::Markdown));
    assert!(Form::of(Path::new("x.pdf")).is_err() && Form::of(Path::new("html")).is_err());
}

#[test]
fn a_page_needs_nothing_else_and_runs_nothing() {
    let page = Form::Html.write(&record());
    for foreign in ["<script", "src=", "@import", "url(", "<link", "href="] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    for shown in [
        "deviated",
        "&lt;x&gt; | a_b",
        "class=\"fault\"",
        "class=\"bound\"",
        "at most 300 ms",
        "5.00% (3.81% to 6.53%)",
        "2000-02-29T12:34:56.789Z",
        "&lt;b&gt;late&lt;/b&gt;",
        "kchaos run &#39;it&#39;\\&#39;&#39;s.yaml&#39;",
        "bystander",
        "0 links, 0 programs left",
        "at most 0.20 ms after the condition",
    ] {
        assert!(page.contains(shown), "{shown} is missing in\n{page}");
    }
    for tag in ["svg", "section", "table", "g", "figure"] {
        let (open, close) =
            (page.matches(&format!("<{tag}")).count(), page.matches(&format!("</{tag}>")).count());
        // <g also begins other names.
        assert!(if tag == "g" { open >= close } else { open == close }, "{tag}: {open} and {close}");
    }
}

#[test]
fn what_was_found_out_is_said_with_its_uncertainty_and_what_was_not_as_well() {
    let mut record = record();
    for shown in [
        "loss was inflicted on 50 of 1000 matching events; of those whose turn it was 5.00% (3.81% to 6.53%), where 5% were asked for",
        "shop failed in 1 of 3 answers under fault: 33.3% (6.1% to 79.2%).",
        "1.50 s after the faults; 30 s were allowed",
        "| time under fault | 8 s | 8.0 s |",
        "| targets | 1 of 2 that were found | /a |",
        "other faults and more targets were not",
    ] {
        let text = Form::Markdown.write(&record);
        assert!(text.contains(shown), "{shown} is missing in\n{text}");
        assert!(Form::Html.write(&record).contains(shown.trim_matches(['|', ' '])) || shown.starts_with('|'));
    }
    // A few good answers are no proof.
    record.probes[0].tally = Tally { answers: 10, failures: 0, in_a_row: 0 };
    let text = Form::Markdown.write(&record);
    assert!(
        text.contains(
            "shop held in all of 10 answers under fault: that rules out (95%) that more than 27.8%"
        ),
        "{text}"
    );
    record.probes[0].error_budget = 50.0;
    record.probes[0].tally = Tally { answers: 4, failures: 1, in_a_row: 0 };
    let page = Form::Html.write(&record);
    for shown in [
        "failed 1 of 4 under fault, as tolerated",
        "50% of its answers under fault may fail",
        "held at the end",
    ] {
        assert!(page.contains(shown), "{shown} is missing in\n{page}");
    }
    // Who watched nothing and hit nothing has found out nothing.
    record.probes[0].tally = Tally::default();
    record.faults[0].injected = 0;
    record.faults[0].finding = Finding::NoMatch;
    record.recovery = None;
    let text = Form::Markdown.write(&record);
    for shown in [
        "Nothing: no fault was inflicted.",
        "Nothing was watched while the faults acted",
        "Of loss nothing was found out: the target did nothing that it is about (no match).",
    ] {
        assert!(text.contains(shown), "{shown} is missing in\n{text}");
    }
}

#[test]
fn what_was_not_reached_is_not_blamed_on_the_target() {
    let mut record = scheduled();
    record.faults[0].stage = Some("late".into());
    record.faults[0].injected = 0;
    let limits = |record: &Record| {
        let text = Form::Markdown.write(record);
        text.split("## Limits of the measurement").nth(1).unwrap().to_owned()
    };
    for (finding, stage, why) in [
        (Finding::NoMatch, "late", "Of loss nothing was found out: its stage was not reached (no match)."),
        (
            Finding::Inconclusive,
            "calm",
            "Of loss nothing was found out: it matched, but its turn did not come (inconclusive).",
        ),
    ] {
        record.faults[0].finding = finding;
        record.faults[0].stage = Some(stage.into());
        let limits = limits(&record);
        assert!(limits.contains(why) && limits.contains("It was cut short"), "{limits}");
    }
    record.abort = None;
    assert!(!limits(&record).contains("cut short"));
    record.verdict.code = 130;
    assert!(limits(&record).contains("cut short"));
}

#[test]
fn lines_are_drawn_where_something_was_measured_between() {
    let lines = |record: &Record| {
        let page = Form::Html.write(record);
        let path =
            page.split("<path class=\"line\" d=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        (path.matches('M').count(), path.matches('L').count())
    };
    let mut record = record();
    record.probes[0].during.push(answer(8.0, Some(0.1), true));
    // Before, two under fault, one behind the answer that did not come, and afterwards.
    assert_eq!(lines(&record), (4, 1));
    // Between 200 and 503 there is nothing.
    record.probes[0].unit = Unit::Number;
    assert_eq!(lines(&record), (0, 0));
    let page = Form::Html.write(&record);
    assert!(
        page.contains("Answers of shop over time: 2 of 6 are not tolerated; they range from 0.02 to 0.9"),
        "{page}"
    );
    assert_eq!(page.matches("class=\"miss\"").count(), 2, "one in the plot, one in the legend");
}

#[test]
fn a_record_that_came_to_nothing_is_told_too() {
    let mut record = record();
    record.summary = None;
    record.faults.clear();
    record.phases.truncate(1);
    record.probes[0].during.clear();
    record.probes[0].after.clear();
    record.recovery = None;
    record.abort = None;
    for form in [Form::Html, Form::Markdown, Form::Junit, Form::Journal, Form::Json] {
        assert!(!form.write(&record).is_empty());
    }
    assert!(Form::Markdown.write(&record).contains("Nothing was injected."));
}

#[test]
fn junit_has_a_case_for_everything() {
    let xml = Form::Junit.write(&record());
    assert!(xml.contains("tests=\"3\" failures=\"2\"") && xml.contains("name=\"fault: loss\""), "{xml}");
    assert!(xml.contains("<failure type=\"deviated\"") && !xml.contains("<script"), "{xml}");
    assert_eq!(xml.matches("<testcase").count(), 3);
    assert!(!escape("a\u{0}b\u{1b}").contains(['\u{0}', '\u{1b}']));
}

#[test]
fn a_journal_is_chaos_toolkits() {
    let journal: serde_json::Value = serde_json::from_str(&Form::Journal.write(&record())).unwrap();
    for field in [
        "chaoslib-version",
        "platform",
        "node",
        "experiment",
        "start",
        "end",
        "duration",
        "status",
        "deviated",
        "steady_states",
        "run",
        "rollbacks",
    ] {
        assert!(!journal[field].is_null(), "{field}");
    }
    assert_eq!((&journal["status"], &journal["deviated"]), (&"completed".into(), &true.into()));
    assert_eq!(journal["steady_states"]["before"]["steady_state_met"], true);
    assert_eq!(journal["steady_states"]["during"].as_array().unwrap().len(), 3);
    assert_eq!(journal["end"], "2000-02-29T12:35:08.789Z");
}

#[test]
fn markdown_is_no_markup_where_it_is_text() {
    let text = Form::Markdown.write(&record());
    assert!(text.contains("# \\<x\\> \\| a\\_b: deviated") && text.contains("| loss |"), "{text}");
    assert!(!text.contains("<script>"));
}

/// With a pulse in the second of three stages.
fn scheduled() -> Record {
    let mut record = record();
    let dose = |from_s: f64, to_s: f64, share_percent: f64, injected| DoseRecord {
        from_s,
        to_s,
        share_percent,
        injected,
        drawn: 1000,
        achieved: Achieved::of(injected, 1000),
    };
    let stage = |name: &str, from_s: Option<f64>, outcome| StageRecord {
        name: name.into(),
        planned_s: 4.0,
        from_s,
        to_s: from_s.map(|from| from + 4.0),
        outcome,
        deviations: if outcome == StageOutcome::Deviated {
            vec!["shop failed <here>".into()]
        } else {
            vec![]
        },
    };
    record.faults[0].follow(
        Some("storm & rain".into()),
        vec![
            dose(1.0, 3.0, 0.0, 0),
            dose(3.0, 5.0, 10.0, 100),
            dose(5.0, 7.0, 0.0, 0),
            dose(7.0, 9.0, 20.0, 210),
        ],
    );
    record.stages = vec![
        stage("calm", Some(1.0), StageOutcome::Held),
        stage("storm & rain", Some(5.0), StageOutcome::Deviated),
        stage("late", None, StageOutcome::NotReached),
    ];
    record.probes[0].stage = Some("storm & rain".into());
    record
}

#[test]
fn stages_and_shares_over_time_are_told_in_every_form() {
    let record = scheduled();
    let fault = &record.faults[0];
    assert_eq!((fault.asked_percent, fault.achieved), (15.0, Achieved::of(310, 2000)));
    assert_eq!(record.acting(), [(3.0, 5.0, 0.5), (7.0, 9.0, 1.0)]);
    let page = Form::Html.write(&record);
    assert_eq!(page.matches("class=\"fault\"").count(), 2, "{page}");
    for shown in [
        "storm &amp; rain",
        "shop failed &lt;here&gt;",
        "not reached",
        "asked 10%, achieved 10.00%",
        "in stage storm &amp; rain",
    ] {
        assert!(page.contains(shown), "{shown} is missing in\n{page}");
    }
    let text = Form::Markdown.write(&record);
    assert!(
        text.contains("| calm | 1.0 s to 5.0 s, 4.0 s of 4 s |") && text.contains("3 s to 5 s: asked 10%"),
        "{text}"
    );
    assert!(text.contains("at rest, 0 injected"), "{text}");
    let xml = Form::Junit.write(&record);
    assert!(
        xml.contains("name=\"stage: storm &amp; rain\"") && xml.contains("message=\"not reached\""),
        "{xml}"
    );
    let journal: serde_json::Value = serde_json::from_str(&Form::Journal.write(&record)).unwrap();
    let names: Vec<_> =
        journal["run"].as_array().unwrap().iter().map(|run| &run["activity"]["name"]).collect();
    assert_eq!(names, ["loss at 10%", "loss at 20%"]);
    assert_eq!(journal["experiment"]["extensions"][0]["stages"][2]["outcome"], "not_reached");
}
