//! Faults on packets.

use super::{
    super::{
        document_fault::{
            self as document, Corrupt, Delays, Loss, LossModel, LossMore, Network, Often, Turns,
        },
        findings::{Findings, element, field},
        text::{PortText, Share},
    },
    value,
};
use crate::spec::{
    corrupt,
    delay::{self, Delay},
    loss_model::Model,
    network::{self, Effect, Fault, Match, Name, Ports, Remote},
    packets::{Clash, Packets},
    units::Percent,
    when::When,
};

impl Turns<'_> {
    /// Reads it by the reader of the command line, each part at its own place.
    pub fn read(&self, path: &str, findings: &mut Findings) -> Option<When> {
        let mut parts = vec![];
        let texts = [
            ("probability", self.probability.map(|text| text.0.clone())),
            ("every", self.every.map(|number| format!("every={number}"))),
            ("after", self.after.map(|number| format!("after={number}"))),
            ("limit", self.limit.map(|number| format!("limit={number}"))),
            ("when", self.when.map(|text| format!("when={}", text.0))),
        ];
        let mut fine = true;
        for (name, text) in texts {
            let Some(text) = text else { continue };
            match When::from_parts(std::iter::once(text.as_str())) {
                Ok(_) => parts.push(text),
                Err(problems) => {
                    fine = false;
                    problems.0.into_iter().for_each(|problem| findings.add(&field(path, name), problem));
                }
            }
        }
        if self.per_process {
            parts.push("per=process".to_owned());
        }
        if !fine {
            return None;
        }
        findings.take_all(path, When::from_parts(parts.iter().map(String::as_str)))
    }
}

/// The faults of one element, in the order in which they are judged.
pub fn faults(written: &Network, path: &str, findings: &mut Findings) -> Vec<Fault> {
    let at = |name: &str| field(path, name);
    let mut effects = vec![];
    if let Some(loss) = &written.loss {
        effects.extend(read_loss(loss, &at("loss"), findings));
    }
    for (name, often, effect) in [
        ("reset", &written.reset, Effect::Reset),
        ("duplicate", &written.duplicate, Effect::Duplicate),
        ("reorder", &written.reorder, Effect::Reorder),
    ] {
        let Some(often) = often else { continue };
        effects.extend(read_often(often, &at(name), findings).map(|when| (effect, when)));
    }
    if let Some(corrupt) = &written.corrupt {
        effects.extend(read_corrupt(corrupt, &at("corrupt"), findings));
    }
    let delays = read_delays(written, path, findings);
    effects.extend(delays.into_iter().flatten().map(|(delay, when)| (Effect::Delay(delay), when)));
    let partition = written.partition == Some(true);
    let given = written.loss.is_some()
        || partition
        || written.reset.is_some()
        || written.duplicate.is_some()
        || written.reorder.is_some()
        || written.corrupt.is_some()
        || written.delay.is_some()
        || written.rate.is_some();
    if !given {
        findings.lacks(path, "nothing happens to the packets: add loss: 5%, for example");
    }
    let packets = Packets {
        matches: matches(&written.matches, &at("match"), findings),
        direction: written.direction,
        per_flow: written.per_flow == Some(true),
        partition,
        effects,
    };
    for clash in packets.clashes() {
        let (name, text) = match clash {
            Clash::NoConnections(protocol) => {
                ("reset", format!("{protocol} has no connections: leave match.protocol: {protocol} out"))
            }
            Clash::NothingOvertaken if written.delay.is_some() => continue,
            Clash::NothingOvertaken => {
                ("reorder", "nothing is overtaken: add delay: 10ms, for example".to_owned())
            }
            Clash::NoShareOfFlows => (
                "perFlow",
                "it draws a share: it cannot be combined with loss.model, every and after".to_owned(),
            ),
            Clash::BurstOfNoRate => {
                ("burst", "it is the rate's: add rate: 10mbit beside it, for example".to_owned())
            }
            Clash::BurstOfSome => (
                "burst",
                "a run has one burst, of all packets that match: leave the share, the turns and other bursts out".to_owned(),
            ),
            Clash::MoreThanPartition => {
                ("partition", "it loses everything both ways: leave loss and direction out".to_owned())
            }
        };
        findings.add(&at(name), text);
    }
    packets.faults()
}

fn read_often(often: &Often, path: &str, findings: &mut Findings) -> Option<When> {
    match often {
        Often::Share(share) => share_alone(share, path, findings),
        Often::When(when) => when.turns().read(path, findings),
    }
}

fn share_alone(share: &Share, path: &str, findings: &mut Findings) -> Option<When> {
    let probability = findings.take(path, share.parse::<Percent>())?;
    Some(When { probability, ..When::default() })
}

fn read_loss(loss: &Loss, path: &str, findings: &mut Findings) -> Option<(Effect, When)> {
    let more = match loss {
        Loss::Share(share) => return Some((Effect::Loss, share_alone(share, path, findings)?)),
        Loss::More(more) => more,
    };
    let Some(model) = more.model else {
        for (name, given) in model_fields(more) {
            if given.is_some() {
                findings.add(&field(path, name), "it belongs to a model: add model: gemodel or model: state");
            }
        }
        return Some((Effect::Loss, more.turns().read(path, findings)?));
    };
    if more.turns().are_given() {
        findings.add(
            path,
            "a model says itself what is lost: leave probability, every, after, limit and when out",
        );
    }
    let names: &[&str] = match model {
        LossModel::Gemodel => &["p", "r", "h", "k"],
        LossModel::State => &["p13", "p31", "p32", "p23", "p14"],
    };
    let mut parts = vec![];
    let mut fine = true;
    for (name, given) in model_fields(more) {
        let Some(text) = given else { continue };
        let path = field(path, name);
        if !names.contains(&name) {
            findings.add(&path, format!("the model does not have it: it has {}", names.join(", ")));
            fine = false;
            continue;
        }
        match findings.take(&path, text.parse::<Percent>()) {
            // netem asks for the shares that are lost.
            Some(percent) if matches!(name, "h" | "k") => parts.push(format!("1-{name}={}", percent.rest())),
            Some(percent) => parts.push(format!("{name}={percent}")),
            None => fine = false,
        }
    }
    if !fine {
        return None;
    }
    let name = if model == LossModel::Gemodel { "gemodel" } else { "state" };
    let model = format!("{name}:{}", parts.join(",")).parse::<Model>();
    Some((Effect::LossModel(findings.take_all(path, model)?), When::default()))
}

fn model_fields(more: &LossMore) -> [(&'static str, Option<&Share>); 9] {
    [
        ("p", more.p.as_ref()),
        ("r", more.r.as_ref()),
        ("h", more.h.as_ref()),
        ("k", more.k.as_ref()),
        ("p13", more.p13.as_ref()),
        ("p31", more.p31.as_ref()),
        ("p32", more.p32.as_ref()),
        ("p23", more.p23.as_ref()),
        ("p14", more.p14.as_ref()),
    ]
}

fn read_corrupt(written: &Corrupt, path: &str, findings: &mut Findings) -> Option<(Effect, When)> {
    let (when, payload) = match written {
        Corrupt::Share(share) => (share_alone(share, path, findings)?, false),
        Corrupt::More(more) => (more.turns().read(path, findings)?, more.payload == Some(true)),
    };
    let what = if payload { corrupt::Corrupt::Payload } else { corrupt::Corrupt::Detected };
    Some((Effect::Corrupt(what), when))
}

/// All delays; one that cannot be read is told and left out.
fn read_delays(written: &Network, path: &str, findings: &mut Findings) -> Vec<Option<(Delay, When)>> {
    let at = field(path, "delay");
    let mut delays = match &written.delay {
        None => vec![],
        Some(Delays::Time(time)) => {
            let latency = findings.take(&at, delay::time(time));
            vec![latency.map(|latency| (Delay { latency, ..Delay::default() }, When::default()))]
        }
        Some(Delays::One(one)) => vec![read_delay(one, &at, findings)],
        Some(Delays::Several(several)) => {
            let read = |(number, one)| read_delay(one, &element(&at, number), findings);
            several.iter().enumerate().map(read).collect()
        }
    };
    if let Some(rate) = value(written.rate.as_deref(), &field(path, "rate"), findings) {
        // As on the command line, the rate is the first delay's, or stands alone.
        match delays.first_mut() {
            Some(Some((first, _))) if first.rate.is_some() => {
                findings.add(&field(path, "rate"), "the delay has a rate of its own: leave one of them out");
            }
            Some(Some((first, _))) => first.rate = Some(rate),
            Some(None) => {}
            None => delays.push(Some((Delay { rate: Some(rate), ..Delay::default() }, When::default()))),
        }
    }
    if let Some(burst) = value(written.burst.as_deref(), &field(path, "burst"), findings) {
        match delays.first_mut() {
            Some(Some((first, _))) if first.burst.is_some() => {
                findings
                    .add(&field(path, "burst"), "the delay has a burst of its own: leave one of them out");
            }
            Some(Some((first, _))) => first.burst = Some(burst),
            Some(None) => {}
            None => findings.add(&field(path, "burst"), "it is the rate's: add rate: 10mbit, for example"),
        }
    }
    delays
}

fn read_delay(written: &document::Delay, path: &str, findings: &mut Findings) -> Option<(Delay, When)> {
    let at = |name: &str| field(path, name);
    let mut time =
        |text: Option<&str>, name: &str| text.map(|text| findings.take(&at(name), delay::time(text)));
    let latency = time(written.time.as_deref(), "time");
    let jitter = time(written.jitter.as_deref(), "jitter");
    let correlation = value(written.correlation.as_deref(), &at("correlation"), findings);
    let rate = value(written.rate.as_deref(), &at("rate"), findings);
    if latency.is_none() && written.rate.is_none() {
        findings.lacks(path, "nothing is held back: add time: 100ms or rate: 10mbit, for example");
    }
    if jitter.is_some() && latency.is_none() && written.rate.is_some() {
        findings.add(&at("jitter"), "it varies a delay: add time: 100ms, for example");
    }
    for (name, given) in
        [("distribution", written.distribution.is_some()), ("correlation", written.correlation.is_some())]
    {
        if given && jitter.is_none() {
            findings.add(&at(name), "it is the jitter's: add jitter: 10ms, for example");
        }
    }
    let when = written.turns().read(path, findings)?;
    let delay = Delay {
        latency: latency.unwrap_or_default().unwrap_or_default(),
        jitter: jitter.unwrap_or_default().unwrap_or_default(),
        distribution: written.distribution.unwrap_or_default(),
        correlation: correlation.unwrap_or_default(),
        rate,
        burst: value(written.burst.as_deref(), &at("burst"), findings),
        limit: written.queue,
    };
    Some((delay, when))
}

fn matches(written: &document::PacketMatch, path: &str, findings: &mut Findings) -> Match {
    let mut matches = Match { protocol: written.protocol, ..Match::default() };
    for (number, text) in written.remote.iter().enumerate() {
        let (except, text) = match text.strip_prefix('!') {
            Some(text) => (true, text),
            None => (false, &**text),
        };
        match findings.take(&element(&field(path, "remote"), number), network::remote(text)) {
            Some(Remote::Prefix(net)) if except => matches.remote_except.push(net),
            Some(Remote::Prefix(net)) => matches.remote.push(net),
            Some(Remote::Name(name)) => matches.names.push(Name { name, except, addresses: vec![] }),
            None => {}
        }
    }
    matches.remote_ports = ports(&written.remote_ports, &field(path, "remotePorts"), findings);
    matches.local_ports = ports(&written.local_ports, &field(path, "localPorts"), findings);
    matches
}

/// Reads ports, with ! others.
pub fn ports(written: &[PortText], path: &str, findings: &mut Findings) -> Ports {
    let mut ports = Ports::default();
    for (number, text) in written.iter().enumerate() {
        let (list, text) = match text.strip_prefix('!') {
            Some(text) => (&mut ports.except, text),
            None => (&mut ports.only, &**text),
        };
        list.extend(findings.take(&element(path, number), network::ports(text)));
    }
    ports
}
