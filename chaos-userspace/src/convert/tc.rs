//! Command lines of tc: `tc qdisc add dev DEV root netem ...` and `... tbf rate ...`.

use super::{
    Options,
    draft::{Draft, Out},
    packets::Packets,
    table::Table,
    target, units,
};

/// Reads the words behind `tc`.
pub fn read(words: &[String], options: &Options, draft: &mut Draft, table: &mut Table) {
    let all = || format!("tc {}", words.join(" "));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["qdisc", "del" | "delete", ..] => {
            return table.exact(&all(), "kchaos takes away everything itself, at the end of duration");
        }
        ["qdisc", "add" | "change" | "replace", ..] => {}
        _ => {
            return table.refused(
                &all(),
                "only tc qdisc add, change, replace and del are read: name the packets a filter chooses with --remote",
            );
        }
    }
    if !draft.faults.is_empty() {
        return table.refused(&all(), "a second queueing discipline: convert each line by itself");
    }
    "a command line of tc".clone_into(&mut draft.origin);
    "netem".clone_into(&mut draft.name);
    table.exact(&words[..2].join(" "), "a fault");
    let mut line = Line { words: &words[2..], table };
    let mut packets = Packets::default();
    let discipline = line.place(options, &mut packets);
    match discipline {
        Some("netem") => {
            line.table.exact("netem", "network");
            line.netem(&mut packets);
        }
        Some("tbf") => line.tbf(&mut packets),
        Some(other) => {
            let rest = line.words.join(" ");
            line.table.refused(format!("{other} {rest}").trim(), "only netem and tbf are read");
        }
        None => line.table.refused("(qdisc)", "no queueing discipline is named: netem or tbf"),
    }
    packets.write("netem", draft, table);
}

/// What is left of a line.
pub(super) struct Line<'a> {
    pub(super) words: &'a [&'a str],
    pub(super) table: &'a mut Table,
}

impl<'a> Line<'a> {
    pub(super) fn next(&mut self) -> Option<&'a str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }

    /// The next word if it is a number with a unit: names of options begin with a letter.
    pub(super) fn number(&mut self) -> Option<&'a str> {
        self.words.first().filter(|word| word.starts_with(|c: char| c.is_ascii_digit() || c == '.'))?;
        self.next()
    }

    /// Reads the words in front of the discipline's name and returns that.
    fn place(&mut self, options: &Options, packets: &mut Packets) -> Option<&'a str> {
        let mut has_device = false;
        loop {
            match self.next()? {
                "dev" => {
                    let device = self.next().unwrap_or_default();
                    has_device = true;
                    target(&format!("dev {device}"), options, self.table);
                }
                "root" => self.table.exact("root", "all packets that leave"),
                "handle" => {
                    let handle = self.next().unwrap_or_default();
                    self.table.exact(&format!("handle {handle}"), "a name that nothing here needs");
                }
                "parent" => {
                    let parent = format!("parent {}", self.next().unwrap_or_default());
                    packets.unchosen = options.remotes.is_empty();
                    if options.remotes.is_empty() {
                        self.table.refused(
                            &parent,
                            "filters choose its packets: name these with --remote CIDR, or convert the line with root",
                        );
                    } else {
                        let note = format!("--remote {} stands for its filters", options.remotes.join(", "));
                        self.table.approximated(&parent, note);
                        for text in &options.remotes {
                            match units::remote_and_port(text) {
                                Ok(remote) => packets.remotes.push(remote),
                                Err(why) => {
                                    packets.unchosen = true;
                                    self.table.refused("--remote", why);
                                }
                            }
                        }
                    }
                }
                name => {
                    if !has_device {
                        self.table.refused("(dev)", "no device is named: write dev eth0");
                    }
                    return Some(name);
                }
            }
        }
    }

    pub(super) fn rate(&mut self, packets: &mut Packets) {
        let text = self.next().unwrap_or_default();
        let field = format!("rate {text}");
        match units::tc_rate(text) {
            Ok(rate) => {
                self.table.exact(&field, format!("rate: {rate} (bps are bytes, bit are bits)"));
                packets.effects.push(("rate", Out::text(rate)));
            }
            Err(why) => self.table.refused(&field, why),
        }
        let mut overheads = vec![];
        while let Some(text) =
            self.words.first().filter(|word| word.trim_start_matches('-').parse::<i64>().is_ok())
        {
            overheads.push(*text);
            self.words = &self.words[1..];
        }
        if !overheads.is_empty() {
            let field = format!("{field} {}", overheads.join(" "));
            self.table.refused(&field, "kchaos adds neither packets' nor cells' overhead: leave it out");
        }
    }

    fn tbf(&mut self, packets: &mut Packets) {
        self.table.exact("tbf", "network.rate");
        while let Some(option) = self.next() {
            match option {
                "rate" => self.rate(packets),
                "burst" | "buffer" | "maxburst" => {
                    let text = self.next().unwrap_or_default();
                    packets.burst(&format!("{option} {text}"), units::tc_size(text), self.table);
                }
                "limit" | "latency" => {
                    let field = format!("{option} {}", self.next().unwrap_or_default());
                    self.table
                        .approximated(&field, "left out: what waits is bounded by memory (delay.queue)");
                }
                "peakrate" | "mtu" | "minburst" | "mpu" | "overhead" | "linklayer" => {
                    let field = format!("{option} {}", self.next().unwrap_or_default());
                    self.table.approximated(
                        &field,
                        "left out: a burst goes as fast as it can, and packets count as they are",
                    );
                }
                other => self.table.refused(other, "no option of tbf that is known: take it out"),
            }
        }
    }

    pub(super) fn whole(&mut self, option: &str) -> Option<u32> {
        let text = self.next().unwrap_or_default();
        let read = text.parse::<u32>().ok().filter(|number| *number > 0);
        if read.is_none() {
            self.table.refused(&format!("{option} {text}"), "it is no whole number above 0");
        }
        read
    }
}
