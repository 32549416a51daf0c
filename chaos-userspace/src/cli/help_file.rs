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
pub const PARTS: [Part; 2] = [
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
        text + &format!("\n{}\nkchaos plan FILE tells the moments. More: docs/experiments.md\n", self.more)
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
