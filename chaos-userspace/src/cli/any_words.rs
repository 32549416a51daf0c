//! Whatever is typed, it is understood or refused in words: no panic, no hang. PROPTEST_CASES says how many lines are tried.

use super::{Cli, Command, plan};
use clap::{CommandFactory as _, Parser as _};
use proptest::{collection::vec, prelude::*, sample::select};

/// Values that some flag takes.
const VALUES: [&str; 48] = [
    "5%",
    "100%",
    "0.001%",
    "100ms",
    "1.5s",
    "60s",
    "10mbit",
    "1kbps",
    "egress",
    "both",
    "tcp",
    "!icmp",
    "10.0.0.0/8",
    "!10.1.0.0/16",
    "fd00::/8",
    "1-1024",
    "!22",
    "openat=EIO",
    "%file=EACCES",
    "write=return=0",
    "read=EIO:3,EAGAIN:1",
    "openat=EIO,every=3",
    "openat=EIO,when=2..8+2",
    "fsync=EIO@10%,after=5,limit=7",
    "openat=EIO,path=/var/*,access=write",
    "read=EIO,fd=socket,size=4096-",
    "connect=ECONNREFUSED,remote=::1,remote-port=5432",
    "openat=20ms,jitter=5ms",
    "gemodel 1% 10% 70% 0.1%",
    "state 1% 2% 3% 4% 5%",
    "gemodel",
    "normal",
    "paretonormal",
    "payload",
    "1..3",
    "fixed 3",
    "fixed=3",
    "percent 30",
    "random-max-percent 20",
    "all",
    "system.slice",
    "a@b.service",
    "docker://0123456789ab",
    "/sys/fs/cgroup/../x",
    "../..",
    "lsm",
    "0x10",
    "18446744073709551616",
];

/// The long flags of a command, as clap knows them.
fn flags(command: &str) -> Vec<String> {
    let cli = Cli::command();
    let command = cli.find_subcommand(command).unwrap();
    command.get_arguments().filter_map(|flag| flag.get_long()).map(|name| format!("--{name}")).collect()
}

/// A value, or one that something happened to.
fn value() -> impl Strategy<Value = String> {
    let known = || select(&VALUES[..]).prop_map(str::to_owned);
    let changed = (known(), 0usize..40, 0usize..3, "[ -~\n\u{0}é]{0,3}").prop_map(|(value, at, cut, put)| {
        let letters: Vec<char> = value.chars().collect();
        let begin = at.min(letters.len());
        let end = (begin + cut).min(letters.len());
        let part = |letters: &[char]| letters.iter().collect::<String>();
        format!("{}{put}{}", part(&letters[..begin]), part(&letters[end..]))
    });
    prop_oneof![3 => known(), 4 => changed, 1 => ".{0,20}", 1 => (known(), known()).prop_map(|(a, b)| format!("{a},{b}"))]
}

fn line(command: &'static str) -> impl Strategy<Value = Vec<String>> {
    let pair = (select(flags(command)), value(), any::<bool>());
    vec(pair, 0..6).prop_map(move |pairs| {
        let start = ["kchaos", command].map(str::to_owned);
        let words = pairs.into_iter().flat_map(|(flag, value, joined)| {
            if joined { vec![format!("{flag}={value}")] } else { vec![flag, value] }
        });
        start.into_iter().chain(words).collect()
    })
}

proptest! {
    #[test]
    fn any_flags_of_plan_are_a_spec_or_problems(words in line("plan")) {
        let Ok(cli) = Cli::try_parse_from(&words) else { return Ok(()) };
        let Command::Plan(arguments) = cli.command else { return Ok(()) };
        if let Err(failure) = plan::spec_of_flags(&arguments) {
            prop_assert!(!failure.message.trim().is_empty());
            let escaped = failure.message.chars().all(|letter| letter == '\n' || !letter.is_control());
            prop_assert!(escaped, "control characters reach the terminal: {:?}", failure.message);
        }
    }

    #[test]
    fn any_words_of_a_caller_are_understood_or_refused(words in prop_oneof![line("set"), vec(value(), 0..8)]) {
        // As the owner reads what comes through its socket.
        if let Err(error) = Cli::try_parse_from(&words) {
            prop_assert!(!error.to_string().is_empty());
        }
    }
}
