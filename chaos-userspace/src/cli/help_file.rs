//! `kchaos help` on what only experiment files have.

/// Something a file can say.
pub struct Part {
    /// As the field is called.
    pub name: &'static str,
    /// What else it is looked for by.
    pub also: &'static [&'static str],
    /// What it does.
    does: &'static str,
    /// Fields, each with what it asks for.
    pub fields: &'static [(&'static str, &'static str)],
    /// What applies to all of them.
    more: &'static str,
}

/// All of them.
pub const PARTS: [Part; 4] = [
    Part {
        name: "steadyState",
        also: &["steady-state", "steady", "probe", "probes", "tolerance", "hypothesis"],
        does: "What has to hold before, while and after the faults act.",
        fields: &[
            (
                "steadyState: [{name: up, http: {url: \"http://127.0.0.1:8080/health\"}}]",
                "a status from 200 to 299, asked every second; nothing is injected where it does not hold",
            ),
            (
                "steadyState: [{name: fast, http: {url: \"http://127.0.0.1:8080/\", measure: latency, samples: 5, percentile: 90%}, \
                 tolerance: {atMost: 800ms}, errorBudget: 5%}]",
                "in time, in 95% of the answers under fault",
            ),
            (
                "steadyState: [{name: ready, http: {url: \"http://127.0.0.1:8080/health\", measure: body}, tolerance: {jsonPath: \
                 $.status, equals: up}, retries: 2}]",
                "a part of a JSON answer",
            ),
            (
                "steadyState: [{name: answers, command: {argv: [redis-cli, ping], measure: stdout}, tolerance: {equals: PONG}}]",
                "what a command says; there is no shell",
            ),
            (
                "steadyState: [{name: open, tcp: {address: \"127.0.0.1:5432\"}, tolerance: {atMost: 1s}}]",
                "a port",
            ),
            ("steadyState: [{name: names, dns: {name: db.example.org}}]", "a name"),
            (
                "steadyState: [{name: queue, prometheus: {url: \"http://127.0.0.1:9090\", query: \"max(queue_length)\"}, tolerance: \
                 {atMost: 1000}, interval: 5s}]",
                "one number of Prometheus",
            ),
            (
                "steadyState: [{name: stays, cgroup: {measure: exits}, tolerance: {atMost: 0}, mode: during}]",
                "no process of the target ends; also cpu, memory, oomKills, cpuPressure, memoryPressure, ioPressure, processes",
            ),
            (
                "steadyState: [{name: kept, network: {measure: tcpResets}, tolerance: {atMost: 5}, mode: during}]",
                "connections; also tcpRetransmits, tcpFailedConnects",
            ),
            (
                "steadyState: [{name: disk, calls: {of: [fsync], percentile: 99%}, tolerance: {atMost: 100ms}, mode: during}]",
                "how long the target's own system calls take; also failures, rate",
            ),
        ],
        more: "A tolerance has equals, oneOf, atLeast, atMost, regex, contains and jsonPath; a probe has mode, interval, timeout, \
               retries and errorBudget. What fails under fault beyond its budget refutes the hypothesis (exit code 4).",
    },
    Part {
        name: "abort",
        also: &["give-up", "stop-condition", "error-budget", "recovery", "rollback"],
        does: "When an experiment is given up: everything is taken away at once, with exit code 5.",
        fields: &[
            (
                "steadyState: [{name: up, http: {url: \"http://127.0.0.1:8080/\"}}]\n  abort: [{probe: up, consecutive: 3}]",
                "three failures in a row; also failures: 10, errorBudget: 20%",
            ),
            ("abort: [{injections: 10000}]", "so many faults inflicted"),
            ("abort: [{file: /run/kchaos-stop}]", "a file appears, which anybody may be allowed to make"),
        ],
        more: "kchaos halt, kchaos stop, Ctrl-C and SIGTERM end it as well. The time from the condition to the last fault is measured and \
               reported. recovery: 30s says how long the steady state may take to return.",
    },
    Part {
        name: "schedule",
        also: &["ramp", "steps", "pulse", "windows", "repeat", "start", "flapping"],
        does: "When a fault of an experiment file acts, and how much of it.",
        fields: &[
            (
                "schedule: {ramp: {from: 1%, to: 20%, over: 60s, steps: 20}}",
                "from share to share, and stays at the last",
            ),
            (
                "schedule: {steps: [{share: 5%, for: 10s}, {share: 50%, for: 10s}]}",
                "one share after the other, then it rests",
            ),
            ("schedule: {pulse: {on: 5s, off: 10s}}", "on and off until the end"),
            ("schedule: {pulse: {on: 5s, off: 10s}, repeat: 3}", "three times"),
            ("schedule: {windows: [{from: 5s, to: 8s}, {from: 20s, to: 21s}]}", "in these times only"),
            (
                "schedule: {start: {after: 5s, within: 20s}}",
                "from a moment on that is drawn between 5s and 25s",
            ),
        ],
        more: "It stands in spec (for all faults), in a stage, or in a fault. A resting fault injects nothing and stays attached. \
               The shares of ramp and steps take the place of the fault's own; pulse, windows and start switch what the fault says.",
    },
    Part {
        name: "stages",
        also: &["stage", "gameday", "game-day"],
        does: "Parts of an experiment that follow each other, each with its own faults and expectations.",
        fields: &[(
            "stages: [{name: slow, duration: 60s, faults: [{network: {delay: 100ms}}]}, {name: gone, duration: 30s, faults: \
             [{network: {partition: true}}]}]",
            "first slow, then gone",
        )],
        more: "They take the place of spec.faults and spec.duration. A stage has a name, a duration, faults, and if you like a \
               schedule and a steadyState of its own, which is asked in that stage. A complete one: examples/game-day.yaml.",
    },
];

impl Part {
    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!("{}: {}\n\nIn an experiment file:\n", self.name, self.does);
        for (field, meaning) in self.fields {
            text += &format!("  # {meaning}\n  {field}\n");
        }
        text + &format!(
            "\n{}\nkchaos plan FILE says what it comes to. More: docs/experiments.md\n",
            self.more
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment;

    #[test]
    fn fields_can_be_copied_into_a_file() {
        for (field, _) in PARTS.iter().flat_map(|part| part.fields) {
            let rest = if field.starts_with("stages") {
                ""
            } else {
                "  duration: 120s\n  faults: [{network: {loss: 5%}}]\n"
            };
            let file = format!(
                "apiVersion: kchaos.dev/v1alpha1\nkind: Experiment\nmetadata: {{name: x}}\nspec:\n  hypothesis: h\n  targets: \
                 [{{cgroup: /x}}]\n{rest}  {field}\n"
            );
            experiment::read("f", &file).unwrap_or_else(|problems| panic!("{problems}"));
        }
    }
}
