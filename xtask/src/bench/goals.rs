//! What was asked for, what was measured, and why a goal was missed.

use serde_json::Value;

use super::{arm, figures};

/// One goal.
pub struct Goal {
    pub what: String,
    pub goal: String,
    /// `None` if this run has no figure of it.
    pub measured: Option<(String, bool)>,
    /// Told if it was missed.
    pub cause: &'static str,
}

const HASH: &str = "a look-up in a hash table costs some 45 ns, which a filter in front spares nearly everybody; what is left is \
    the word of the filter, and one helper call per cgroup level in use";
const HOOK: &str = "the program asks for the caller's ancestor cgroup (a helper that walks to it under RCU), which is nearly \
    all that is left in it; the empty program on this hook is cheap itself, so that the ratio shows it";
const FLOW: &str = "the first program that asks for the socket's cgroup pays for what is not in the processor's cache: the one behind it \
    in the same chain, for two targets, adds less than half of that (see the table), and so does the same program by itself";
const BULK: &str = "a delayed packet goes through two veth devices and a netem of the line, a netem on the root spares the former";
const DISTRIBUTION: &str = "the machine paused while packets were in the line";
/// To what part of the whole percentiles tell a distance.
const TOLD_TO: f64 = 0.01;
const START: &str = "each tcx link takes one grace period of RCU (`tcx_entry_sync`, include/net/tcx.h), 8 to 16 ms with 250 \
    ticks a second, one after another under RTNL; the rest is the program's own start (3 ms), verification (3 ms) and maps";
const KILLED: &str = "the guardian has to get a processor; other work on this machine competes for it";
const ARRIVAL: &str = "an arriving packet has no socket yet: it is parsed (some 50 ns), its socket is looked up (some 80 ns, \
    helper) and that socket's cgroup is read from kernel memory by five fault-tolerant reads (some 100 ns); it is paid only \
    while a run delays arriving packets";

/// All goals.
pub fn all(result: &Value) -> Vec<Goal> {
    let mut goals = vec![];
    let alone = |targets: u64, rules: u64, levels: u64| {
        let mut all = figures(result, "test_run_egress").map(|(_, measure)| measure);
        all.find(|m| m["targets"] == targets && m["rules"] == rules && m["levels"] == levels)
            .and_then(|measure| arm(measure, "kchaos"))
    };
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    goals.push(Goal {
        what: "leaving packet of somebody else, one target, over an empty program (BPF_PROG_TEST_RUN)".into(),
        goal: "+12 ns".into(),
        measured: alone(1, 1, 1).map(|arm| at_most(number(&arm["added"]), 12.0, "ns")),
        cause: HASH,
    });
    let flow = figures(result, "flow_egress").next().map(|(_, measure)| measure);
    goals.push(Goal {
        what: "the same in a real flow (statistics of the kernel)".into(),
        goal: "+20 ns".into(),
        measured: flow
            .and_then(|flow| arm(flow, "kchaos, 1 targets"))
            .map(|arm| at_most(number(&arm["added"]), 20.0, "ns")),
        cause: FLOW,
    });
    let flat = alone(2, 1, 1).zip(alone(10_000, 1, 1));
    goals.push(Goal {
        what: "run of the program with 10 000 targets against 2".into(),
        goal: "2x".into(),
        measured: flat.map(|(two, many)| at_most(number(&many["min"]) / number(&two["min"]), 2.0, "x")),
        cause: HASH,
    });
    for (step, measure) in figures(result, "hooked_read") {
        let empty = arm(measure, "empty program").map(|arm| number(&arm["min"]));
        for (targets, limit) in [(1, 1.5), (1_000, 2.0)] {
            let name = format!("kchaos, {targets} targets, none of them the caller's");
            let ours = arm(measure, &name).map(|arm| number(&arm["min"]));
            goals.push(Goal {
                what: format!(
                    "hooked read of somebody else, {targets} target{}, by {} on {}, over the read with an empty program",
                    if targets == 1 { "" } else { "s" },
                    measure["way"].as_str().unwrap_or_default(),
                    step.trim_start_matches("vm "),
                ),
                goal: format!("{limit}x"),
                measured: ours.zip(empty).map(|(ours, empty)| at_most(ours / empty, limit, "x")),
                cause: HOOK,
            });
        }
    }
    for (_, measure) in figures(result, "latency") {
        let Some(goal) = measure["goal_ms"].as_array() else { continue };
        let what = measure["what"].as_str().unwrap_or_default();
        let limits: Vec<f64> = goal.iter().map(number).collect();
        let [median, worst] = limits[..] else { continue };
        let (p50, max) = (number(&measure["ms"]["p50"]), number(&measure["ms"]["max"]));
        let killed = what.starts_with("kill");
        let links = measure["links"].as_u64().unwrap_or_default();
        goals.push(Goal {
            what: format!("{what} ({links} link{})", if links == 1 { "" } else { "s" }),
            goal: if killed {
                format!("{median} ms median, {worst} ms worst")
            } else {
                format!("{median} ms median")
            },
            measured: Some((
                format!("{p50:.1} ms median, {max:.1} ms worst"),
                p50 <= median && (!killed || max <= worst),
            )),
            cause: if killed { KILLED } else { START },
        });
    }
    for (_, measure) in figures(result, "bulk_tcp") {
        let ratio = |name: &str| arm(measure, name).map(|arm| number(&arm["ratio"]));
        goals.push(Goal {
            what: format!(
                "bulk TCP of a target that is delayed by {}, to that under netem",
                measure["delay"].as_str().unwrap_or_default()
            ),
            goal: "0.9x, less what netem differs from itself".into(),
            measured: ratio("kchaos").zip(ratio("netem again")).map(|(ours, again)| {
                (format!("{ours:.2}x, netem again {again:.2}x"), ours >= 0.9 - (1.0 - again).abs())
            }),
            cause: BULK,
        });
    }
    for (_, measure) in figures(result, "delay_distribution") {
        let [own, first, second, between] = [
            &measure["kchaos_to_asked"],
            &measure["netem_to_asked"][0],
            &measure["netem_to_asked"][1],
            &measure["netem_to_netem"],
        ]
        .map(number);
        let allowed = 1.25 * first.max(second) + between + TOLD_TO;
        goals.push(Goal {
            what: format!(
                "distance of the distribution of delays from what was asked, {}",
                measure["distribution"].as_str().unwrap_or_default()
            ),
            goal: format!("{allowed:.3}: 1.25x netem's, and between two runs of netem, to {TOLD_TO}"),
            measured: Some((format!("{own:.3}"), own <= allowed)),
            cause: DISTRIBUTION,
        });
    }
    for (step, measure) in figures(result, "hooked_connect") {
        let least = |name: &str| arm(measure, name).map(|arm| number(&arm["min"]));
        let both = least("kchaos, on another cgroup").zip(least("empty program, on another cgroup"));
        goals.push(Goal {
            what: format!(
                "connect of somebody else, by the target's socket hook on {}, over the same with an empty program",
                step.trim_start_matches("vm ")
            ),
            goal: "1.5x".into(),
            measured: both.map(|(ours, empty)| at_most(ours / empty, 1.5, "x")),
            cause: HOOK,
        });
    }
    let arriving =
        figures(result, "test_run_ingress").map(|(_, measure)| measure).find(|m| m["targets"] == 1);
    goals.push(Goal {
        what: "arriving packet of somebody else, while arriving packets are delayed".into(),
        goal: "+20 ns".into(),
        measured: arriving
            .and_then(|measure| arm(measure, "kchaos"))
            .map(|arm| at_most(number(&arm["added"]), 20.0, "ns")),
        cause: ARRIVAL,
    });
    goals
}

fn at_most(figure: f64, limit: f64, unit: &str) -> (String, bool) {
    let shown = if unit == "x" { format!("{figure:.2}x") } else { format!("{figure:+.1} {unit}") };
    (shown, figure <= limit)
}
