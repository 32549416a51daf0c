//! The options of netem, as tc has them.

use super::{
    draft::Out,
    packets::{self, Packets},
    table::Table,
    tc::Line,
    units,
};

impl Line<'_> {
    /// Reads what is behind the discipline's name.
    pub(super) fn netem(&mut self, packets: &mut Packets) {
        let mut delay: Option<(String, Option<String>, Option<String>)> = None;
        let (mut distribution, mut gap_of) = (None, None);
        let mut reordered: Option<String> = None;
        let mut limit = None;
        while let Some(option) = self.next() {
            match option {
                "delay" | "latency" => delay = self.delay(option),
                "distribution" => distribution = self.distribution(),
                "loss" | "drop" => self.loss(option, packets),
                "corrupt" | "duplicate" => {
                    if let Some(share) = self.share(option) {
                        packets.effects.push((
                            if option == "corrupt" { "corrupt" } else { "duplicate" },
                            Out::text(share),
                        ));
                    }
                }
                "reorder" => reordered = self.share(option),
                "gap" => gap_of = self.whole(option),
                "limit" => limit = self.whole(option),
                "rate" => self.rate(packets),
                "seed" => {
                    let field = format!("seed {}", self.next().unwrap_or_default());
                    self.table.approximated(
                        &field,
                        "left out: kchaos draws otherwise; spec.seed repeats its own draws",
                    );
                }
                "ecn" => {
                    self.table.refused("ecn", "kchaos loses packets, it does not mark them: leave ecn out")
                }
                "slot" => {
                    let words = self.words.iter().take_while(|word| !OPTIONS.contains(word)).count();
                    let (slot, rest) = self.words.split_at(words);
                    self.words = rest;
                    self.table
                        .refused(format!("slot {}", slot.join(" ")).trim(), "kchaos has no slots: use rate");
                }
                other => self.table.refused(other, "no option of netem that is known: take it out"),
            }
        }
        if distribution.is_some() && delay.as_ref().is_none_or(|(_, jitter, _)| jitter.is_none()) {
            self.table
                .refused("distribution", "it is the jitter's: write delay 100ms 20ms distribution normal");
        }
        let has_rate = packets.effects.iter().any(|(name, _)| *name == "rate");
        if limit.is_none() && (has_rate || delay.is_some()) {
            packets::line(self.table);
        }
        match (delay, limit) {
            (Some((time, jitter, correlation)), limit) => {
                let delay = packets::delay(&time, jitter.as_deref(), distribution, correlation.as_deref());
                packets.effects.push(("delay", with_queue(delay, limit, self.table)));
            }
            (None, Some(limit)) => {
                let note = if has_rate {
                    "left out: as many packets wait for a rate as memory allows"
                } else {
                    "left out: nothing waits without delay"
                };
                self.table.approximated(&format!("limit {limit}"), note);
            }
            (None, None) => {}
        }
        match (reordered, gap_of) {
            (Some(share), gap_of) => {
                if let Some(every) = gap_of {
                    gap(&format!("gap {every}"), every, Some(&share), self.table);
                }
                packets.effects.push(("reorder", reorder(&share, gap_of.unwrap_or(1))));
            }
            (None, Some(every)) => {
                self.table.exact(&format!("gap {every}"), format!("reorder: {{every: {every}}}"));
                packets.effects.push(("reorder", reorder("100%", every)));
            }
            (None, None) => {}
        }
    }

    fn delay(&mut self, option: &str) -> Option<(String, Option<String>, Option<String>)> {
        let Some(time) = self.number() else {
            self.table.refused(option, "its time is missing: write delay 100ms");
            return None;
        };
        let jitter = self.number();
        let correlation = jitter.and_then(|_| self.number());
        let given: Vec<_> = [Some(option), Some(time), jitter, correlation].into_iter().flatten().collect();
        let field = given.join(" ");
        let read = || -> Result<_, String> {
            Ok((
                units::tc_time(time)?,
                jitter.map(units::tc_time).transpose()?,
                correlation.map(|text| units::percent(text.trim_end_matches('%'))).transpose()?,
            ))
        };
        match read() {
            Ok(delay) => {
                let unit = given.iter().take(3).any(|word| word.parse::<f64>().is_ok());
                let note = if unit { " (a number without a unit is microseconds)" } else { "" };
                self.table.exact(&field, format!("delay: {}{note}", delay.0));
                Some(delay)
            }
            Err(why) => {
                self.table.refused(&field, why);
                None
            }
        }
    }

    fn distribution(&mut self) -> Option<&'static str> {
        let name = self.next().unwrap_or_default();
        let field = format!("distribution {name}");
        let known = ["uniform", "normal", "pareto", "paretonormal"].into_iter().find(|known| *known == name);
        match known {
            Some(_) => self.table.exact(&field, field.replacen(' ', ": ", 1)),
            None => self
                .table
                .refused(&field, "a table of its own: write uniform, normal, pareto or paretonormal"),
        }
        known
    }

    /// A share and its correlation.
    fn share(&mut self, option: &str) -> Option<String> {
        let Some(text) = self.number() else {
            self.table.refused(option, format!("its share is missing: write {option} 1%"));
            return None;
        };
        let field = format!("{option} {text}");
        let read = units::percent(text.trim_end_matches('%'));
        match &read {
            Ok(share) => self.table.exact(&field, format!("{option}: {share}")),
            Err(why) => self.table.refused(&field, why),
        }
        if let Some(text) = self.number() {
            packets::correlation(&format!("{field} {text}"), text, option, self.table);
        }
        read.ok()
    }

    fn loss(&mut self, option: &str, packets: &mut Packets) {
        let (model, names): (_, &[&str]) = match self.words.first() {
            Some(&"gemodel") => ("gemodel", &["p", "r", "h", "k"]),
            Some(&"state") => ("state", &["p13", "p31", "p32", "p23", "p14"]),
            first => {
                if first == Some(&"random") {
                    self.next();
                }
                if let Some(share) = self.share("loss") {
                    packets.effects.push(("loss", Out::text(share)));
                }
                return;
            }
        };
        self.next();
        let mut fields = vec![("model".to_owned(), Out::text(model))];
        let mut given = vec![option, model];
        let mut problem = None;
        for name in names {
            let Some(text) = self.number() else { break };
            given.push(text);
            match units::percent(text.trim_end_matches('%')) {
                // tc says what is lost, 1-h and 1-k; the file says what gets through.
                Ok(share) if matches!(*name, "h" | "k") => {
                    let lost: f64 = share.trim_end_matches('%').parse().unwrap_or_default();
                    // 100 - 99.9 is 0.0999... in binary.
                    let through = ((100.0 - lost) * 1e9).round() / 1e9;
                    fields.push(((*name).to_owned(), Out::text(format!("{through}%"))));
                }
                Ok(share) => fields.push(((*name).to_owned(), Out::text(share))),
                Err(why) => problem = Some(why),
            }
        }
        let field = given.join(" ");
        if fields.len() == 1 {
            problem = Some(format!("its shares are missing: write loss {model} 1%"));
        }
        match problem {
            Some(why) => self.table.refused(&field, why),
            None => {
                let note = if model == "gemodel" { "; h and k are the shares that get through" } else { "" };
                self.table.exact(&field, format!("loss: {{model: {model}}}{note}"));
                packets.effects.push(("loss", Out::Map(fields)));
            }
        }
    }
}

/// Options of netem, which end those of a slot.
const OPTIONS: [&str; 12] = [
    "delay",
    "latency",
    "distribution",
    "loss",
    "drop",
    "corrupt",
    "duplicate",
    "reorder",
    "gap",
    "limit",
    "rate",
    "seed",
];

fn with_queue(delay: Out, limit: Option<u32>, table: &mut Table) -> Out {
    let Some(limit) = limit else { return delay };
    table.exact(&format!("limit {limit}"), format!("delay.queue: {limit}"));
    let mut fields = match delay {
        Out::Map(fields) => fields,
        time => vec![("time".to_owned(), time)],
    };
    fields.push(("queue".to_owned(), Out::Bare(limit.to_string())));
    Out::Map(fields)
}

/// Says what becomes of a gap: netem begins to count again only at a packet that was reordered.
pub fn gap(field: &str, every: u32, share: Option<&str>, table: &mut Table) {
    if every <= 1 || share == Some("100%") {
        table.exact(field, format!("every: {}", every.max(1)));
    } else {
        table.approximated(
            field,
            format!("every: {every}: a packet that is not drawn waits for the next turn, netem draws at each packet then"),
        );
    }
}

/// Reordering of a share of every n-th packet.
pub fn reorder(share: &str, every: u32) -> Out {
    if every <= 1 {
        return Out::text(share);
    }
    let mut fields = vec![];
    if share != "100%" {
        fields.push(("probability".to_owned(), Out::text(share)));
    }
    fields.push(("every".to_owned(), Out::Bare(every.to_string())));
    Out::Map(fields)
}
