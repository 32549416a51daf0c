//! `kchaos help`: of commands, and of faults with examples that can be copied.

use super::{
    Cli, console, exit,
    failure::Failure,
    help_file::{PARTS, Part},
};
use clap::{Args, CommandFactory as _};

/// Arguments of `kchaos help`.
#[derive(Args, Debug)]
pub struct Help {
    /// A command, a fault or a field of experiment files, as in `kchaos help delay`
    topic: Option<String>,
}

/// A fault.
struct Topic {
    /// As the flag and the field are called.
    name: &'static str,
    /// What else it is looked for by.
    also: &'static [&'static str],
    /// What it does.
    does: &'static str,
    /// What its victims make of it.
    felt: &'static str,
    /// Flags, and what they ask for.
    flags: &'static [(&'static str, &'static str)],
    /// A fault of an experiment file.
    file: &'static str,
    /// Where more is said.
    page: &'static str,
}

const NETWORK: &str = "docs/faults/network.md";

const TOPICS: [Topic; 11] = [
    Topic {
        name: "loss",
        also: &["drop", "packet-loss", "blackhole", "loss-model", "lossModel"],
        does: "Packets get lost, silently for their sender.",
        felt: "TCP sends again and gets slow, UDP misses datagrams, requests time out.",
        flags: &[
            ("--loss 5%", "one in twenty packets that leave"),
            ("--loss 100% --remote db.example.org --remote-port 5432", "all that goes to the database"),
            ("--loss every=100,limit=10", "the hundredth, the two hundredth ..., ten in all"),
            ("--loss 10% --per-flow", "all packets of one connection in ten"),
            ("--loss-model gemodel:p=1%,r=10%", "in bursts of ten packets on average"),
        ],
        file: "network: {loss: {model: gemodel, p: 1%, r: 10%}, match: {remotePorts: [5432]}}",
        page: NETWORK,
    },
    Topic {
        name: "partition",
        also: &["cut", "isolate", "split"],
        does: "All packets get lost, both ways.",
        felt: "Connections hang until somebody's patience ends; nobody is told.",
        flags: &[(
            "--partition --remote 10.0.0.0/8",
            "the target and this network do not hear of each other",
        )],
        file: "network: {partition: true, match: {remote: [10.0.0.0/8]}}",
        page: NETWORK,
    },
    Topic {
        name: "reset",
        also: &["rst", "refuse", "flap"],
        does: "TCP connections that these packets belong to are reset at both ends, and new ones refused.",
        felt: "ECONNRESET and ECONNREFUSED, at once.",
        flags: &[
            ("--reset --remote-port 6379", "nobody reaches the cache"),
            ("--reset 1%,limit=50 --remote-port 6379", "now and then a connection to it breaks"),
        ],
        file: "network: {reset: {probability: 1%, limit: 50}, match: {remotePorts: [6379]}}",
        page: NETWORK,
    },
    Topic {
        name: "delay",
        also: &["latency", "jitter", "lag"],
        does: "Packets are held back (Linux 6.6 and later).",
        felt: "Answers come late; throughput of a connection falls with it.",
        flags: &[
            ("--delay 100ms", "all packets that leave"),
            ("--delay 100ms --jitter 20ms --distribution normal --correlation 25%", "as on a busy link"),
            ("--delay 1s@1%", "one in a hundred, for long"),
            ("--delay 50ms --direction both", "each way"),
        ],
        file: "network: {delay: {time: 100ms, jitter: 20ms, distribution: normal}, direction: both}",
        page: NETWORK,
    },
    Topic {
        name: "rate",
        also: &["bandwidth", "throttle", "limit-rate"],
        does: "Packets leave no faster than this (Linux 6.6 and later).",
        felt: "Large transfers take long, and what waits behind them too.",
        flags: &[
            ("--rate 10mbit", "ten million bits a second"),
            ("--rate 1mbit --delay 40ms", "a thin and long link"),
            ("--rate 10mbit --burst 1mb", "the first megabyte at once, then no faster than that"),
        ],
        file: "network: {rate: 1mbit, delay: {time: 40ms, queue: 1000}}",
        page: NETWORK,
    },
    Topic {
        name: "duplicate",
        also: &["dup"],
        does: "Packets go out twice.",
        felt: "TCP does not mind; datagrams arrive twice.",
        flags: &[("--duplicate 1% --protocol udp", "one datagram in a hundred")],
        file: "network: {duplicate: 1%, match: {protocol: udp}}",
        page: NETWORK,
    },
    Topic {
        name: "corrupt",
        also: &["bitflip", "bit-flip"],
        does: "A bit of these packets is flipped.",
        felt: "The checksum shows it, and it is as if the packet were lost; with :payload nobody but the reader can notice.",
        flags: &[
            ("--corrupt 0.1%", "the receiver's checksum shows it"),
            ("--corrupt 0.1%:payload", "wrong bytes with a right checksum"),
        ],
        file: "network: {corrupt: {probability: 0.1%, payload: true}}",
        page: NETWORK,
    },
    Topic {
        name: "reorder",
        also: &["overtake"],
        does: "Packets overtake those that a delay holds back (Linux 6.6 and later).",
        felt: "TCP sends again what only came late; datagrams come out of order.",
        flags: &[("--reorder 25% --delay 10ms", "every fourth packet comes before its turn")],
        file: "network: {reorder: 25%, delay: 10ms}",
        page: NETWORK,
    },
    Topic {
        name: "fail",
        also: &["syscall", "errno", "error", "disk", "io"],
        does: "System calls return errors instead of being carried out.",
        felt: "What the manual page of the call promises: EIO from a bad disk, ENOSPC from a full one.",
        flags: &[
            ("--fail openat=EIO@10%,path=/var/lib/*", "one in ten files below /var/lib cannot be opened"),
            ("--fail connect=ECONNREFUSED,every=2", "every second connection is refused"),
            ("--fail write=ENOSPC,fd=file,size>=4096", "large writes find the disk full"),
            ("--fail %file=EIO:3,ENOENT:1@5%", "any call on a path, with two errors"),
        ],
        file: "syscall: {calls: [openat, openat2], error: EIO, probability: 10%, match: {pathPrefix: /var/lib/app}}",
        page: "docs/faults/syscall.md",
    },
    Topic {
        name: "slow",
        also: &[
            "lsm_sleep",
            "spin",
            "stop_continue",
            "seccomp",
            "hang",
            "slow-call",
            "slow-calls",
            "syscall-latency",
        ],
        does: "System calls are held back, then go on. How is chosen by --mechanism, never by itself: spin (any call, at most 1 ms, \
               the processor is busy), stop_continue (any call, from 1 ms on, the whole process is stopped behind the call), \
               lsm_sleep (open, exec, sockets and others; Linux 6.12), or with exec also seccomp (any call).",
        felt: "Disks, locks and peers that answer late; timeouts.",
        flags: &[
            (
                "--slow fsync=20ms@10%,jitter=5ms --mechanism stop_continue",
                "of a running service, on any kernel",
            ),
            ("--slow read=500us,fd=file --mechanism spin", "reads from a disk that is somewhat busy"),
            ("--slow openat=50ms,path=/var/www/* --mechanism lsm_sleep", "files are opened late"),
            ("--slow close=2s,limit=1 --mechanism seccomp", "once, in a command that is started by exec"),
        ],
        file: "syscall: {calls: [fsync], latency: {time: 20ms, jitter: 5ms}, probability: 10%}\n  mechanism: stop_continue",
        page: "docs/faults/syscall.md",
    },
    Topic {
        name: "return",
        also: &["lie", "success", "fsync"],
        does: "System calls do nothing and claim success.",
        felt: "Nothing, until what was promised is needed.",
        flags: &[("--fail fsync=return=0", "what is said to be on disk is not")],
        file: "syscall: {calls: [fsync, fdatasync], return: 0}",
        page: "docs/faults/syscall.md",
    },
];

impl Topic {
    fn text(&self) -> String {
        let mut text =
            format!("{}: {}\n{}\n\nFlags of exec, inject and plan:\n", self.name, self.does, self.felt);
        let width = self.flags.iter().map(|(flags, _)| flags.len()).max().unwrap_or(0);
        for (flags, meaning) in self.flags {
            text += &format!("  {flags:width$}  {meaning}\n");
        }
        text += &format!("\nIn an experiment file, below spec.faults:\n  - {}\n\n", self.file);
        text += &format!("kchaos plan says what a fault becomes on this host. More: {}\n", self.page);
        text
    }
}

/// Runs the command.
pub fn run(arguments: &Help) -> Result<u8, Failure> {
    let text = match &arguments.topic {
        None => general(),
        Some(topic) => of(topic)?,
    };
    console::print(text.as_bytes()).map_err(Failure::internal)?;
    Ok(exit::DONE)
}

fn general() -> String {
    let names: Vec<_> = TOPICS.iter().map(|topic| topic.name).collect();
    let parts: Vec<_> = PARTS.iter().map(|part| part.name).collect();
    format!(
        "{}\nFaults, for kchaos help FAULT: {}\nOf experiment files: {}\n",
        Cli::command().render_long_help(),
        names.join(", "),
        parts.join(", ")
    )
}

fn of(name: &str) -> Result<String, Failure> {
    let wanted = name.trim_start_matches('-').to_lowercase();
    let is_it =
        |topic: &&Topic| topic.name == wanted || topic.also.iter().any(|also| also.to_lowercase() == wanted);
    if let Some(topic) = TOPICS.iter().find(is_it) {
        return Ok(topic.text());
    }
    let is_part = |part: &&Part| {
        part.name.to_lowercase() == wanted || part.also.iter().any(|also| also.to_lowercase() == wanted)
    };
    if let Some(part) = PARTS.iter().find(is_part) {
        return Ok(part.text());
    }
    let mut whole = Cli::command();
    // With the flags that all commands share.
    whole.build();
    if let Some(command) = whole.find_subcommand_mut(&wanted) {
        return Ok(command.render_long_help().to_string());
    }
    let names: Vec<_> = TOPICS.iter().map(|topic| topic.name).collect();
    let commands: Vec<_> = whole.get_subcommands().filter(|command| !command.is_hide_set()).collect();
    let commands: Vec<_> = commands.iter().map(|command| command.get_name()).collect();
    let parts: Vec<_> = PARTS.iter().map(|part| part.name).collect();
    Err(Failure::new(
        exit::USAGE,
        format!(
            "'{name}' is neither a command ({}) nor a fault ({}) nor a part of experiment files ({})",
            commands.join(", "),
            names.join(", "),
            parts.join(", ")
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::faults_of, experiment};

    #[test]
    fn every_example_means_something() {
        for topic in &TOPICS {
            for (flags, _) in topic.flags {
                faults_of(flags).unwrap_or_else(|problems| panic!("{flags}: {problems}"));
            }
            let file = format!(
                "apiVersion: kchaos.dev/v1alpha1\nkind: Experiment\nmetadata: {{name: x}}\nspec:\n  hypothesis: h\n  duration: \
                 1s\n  targets: [{{unit: x}}]\n  faults:\n    - {}\n",
                topic.file
            );
            experiment::read("f", &file).unwrap_or_else(|problems| panic!("{problems}"));
        }
    }

    #[test]
    fn faults_and_commands_are_found() {
        for topic in &TOPICS {
            for name in topic.also.iter().chain([&topic.name]) {
                let text = of(name).unwrap();
                assert!(text.starts_with(topic.name), "{name}: {text}");
            }
        }
        assert!(of("--loss").unwrap().contains("gemodel"));
        for part in &PARTS {
            for name in part.also.iter().chain([&part.name]) {
                let text = of(name).unwrap();
                assert!(text.starts_with(part.name), "{name}: {text}");
            }
        }
        let of_inject = of("inject").unwrap();
        assert!(of_inject.contains("--loss") && of_inject.contains("--json"), "{of_inject}");
        assert!(general().contains("inject") && general().contains("partition"));
        let error = of("lss").unwrap_err();
        assert_eq!(error.code, exit::USAGE);
        assert!(error.message.contains("loss") && error.message.contains("inject"), "{}", error.message);
    }
}
