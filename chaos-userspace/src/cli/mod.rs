//! The command line.

#[cfg(test)]
mod any_words;
mod clean;
mod command;
mod console;
mod convert;
mod delay;
mod detach;
mod doctor;
mod engine;
mod events;
mod exec;
pub mod exit;
mod experiment;
mod failure;
mod faults;
mod file;
mod halt;
mod help;
mod help_file;
mod inject;
mod join;
mod list;
mod packets;
mod pages;
mod plan;
mod run;
mod safety;
mod session;
mod set;
mod signals;
mod stop;
mod syscalls;
mod target;
mod top;

use crate::{
    host::privilege,
    inject::{continuer, guardian, seccomp, sleeper},
    observe::bystander,
    report::event::{Event, Sink},
};
use clap::{Args, Parser, Subcommand};
use failure::Failure;
use nix::sys::signal::{SigHandler, Signal};
use std::{
    ffi::OsString,
    io::{self, IsTerminal as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Precise faults for chosen cgroups: packets get lost and system calls fail for them and for nobody else.
#[derive(Parser, Debug)]
#[command(name = "kchaos", version, max_term_width = 100, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every command.
#[derive(Args, Clone, Debug, Default)]
struct Common {
    /// Say more (-vv: also what the kernel programs say); RUST_LOG overrides
    #[arg(short, long, action = clap::ArgAction::Count, global = true)]
    verbose: u8,

    /// Write machine-readable events, one JSON object per line, to standard error or to FILE
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-", global = true)]
    json: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a command in a fresh cgroup under faults; exits with the command's status
    Exec(exec::Exec),
    /// Inject faults into a cgroup that exists, with everything below it
    Inject(inject::Inject),
    /// Host the runs that kchaos inject starts on this machine, in one engine for all; SIGTERM ends them
    Engine,
    /// Run an experiment file: steady state, faults, recovery, verdict and reports
    Run(experiment::Run),
    /// Explain what would be attached where; changes nothing
    Plan(plan::Plan),
    /// Convert what Chaos Mesh, Datadog, Chaos Toolkit, pumba or tc read into an experiment file, and say what became of every field
    Convert(convert::Convert),
    /// Print the JSON Schema of experiment files, for editors and for checks
    Schema,
    /// Say what this host can do, tried one by one, and the remedy for what it cannot
    Doctor,
    /// List every system call with the mechanisms that reach it on this host
    Syscalls(syscalls::Syscalls),
    /// List the live runs of this host
    List,
    /// Say how a live run is going
    Status(list::Status),
    /// Watch the live runs of this host on a terminal, and end them by key
    Top(top::Top),
    /// End a live run, or all, and wait until it is undone
    Stop(stop::Stop),
    /// End all runs of this host, and let none begin until resume
    Halt(halt::Halt),
    /// Let runs begin again after halt
    Resume,
    /// Give a live run other rates, probabilities, errors or delays, without a gap
    Set(set::Set),
    /// Remove what an owner killed together with its guardian left behind
    Clean,
    /// Say more of a command or a fault, with examples: kchaos help delay
    Help(help::Help),
    /// Print a script that completes commands and flags in a shell
    Completions(pages::Completions),
    /// Write the man pages
    Man(pages::Man),
    /// The process that disarms an engine when its owner dies
    #[command(hide = true)]
    Guardian {
        /// The engine's journal.
        journal: PathBuf,
    },
    /// The process that lets calls go that are held back
    #[command(hide = true)]
    Sleeper,
    /// The process that lets processes go on that were stopped
    #[command(hide = true)]
    Continuer,
    /// The process that answers for a command's calls
    #[command(hide = true)]
    Receiver {
        /// Rows of calls and their rules.
        rows: Vec<String>,
    },
    /// The process that must feel nothing
    #[command(hide = true)]
    Bystander,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    if privilege::is_lent() {
        console::err(format_args!(
            "kchaos: refused: its file is set-user-ID, set-group-ID or has capabilities, by which anybody could harm any process: \
             take them away (chmod ug-s, setcap -r), and start it as root or with ambient capabilities"
        ));
        return ExitCode::from(exit::REFUSED);
    }
    // A file that may not grow any more (ulimit -f) is an error to be told, not the end of an owner.
    // SAFETY: ignoring a signal runs no code.
    let _impossible = unsafe { nix::sys::signal::signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return refuse_arguments(&error, &arguments),
    };
    start_log(cli.common.verbose);
    let mut sink = match Sink::open(cli.common.json.as_deref()) {
        Ok(sink) => sink,
        Err(error) => {
            console::err(format_args!(
                "kchaos: --json: cannot write {:?}: {error}",
                cli.common.json.unwrap_or_default()
            ));
            return ExitCode::from(exit::USAGE);
        }
    };
    let verbose = cli.common.verbose;
    let is_exec = matches!(cli.command, Command::Exec(_));
    let result = match cli.command {
        Command::Exec(arguments) => exec::run(&arguments, verbose, &mut sink),
        Command::Inject(inject) => inject::run(&inject, &arguments, &cli.common, &mut sink),
        Command::Engine => engine::run(&cli.common, &mut sink),
        Command::Run(run) => experiment::run(&run, &arguments, &cli.common, &mut sink),
        Command::Plan(arguments) => plan::run(&arguments, cli.common.json.is_some()),
        Command::Convert(arguments) => convert::run(&arguments, cli.common.json.is_some()),
        Command::Schema => file::schema(),
        Command::Doctor => doctor::run(cli.common.json.is_some()),
        Command::Syscalls(arguments) => syscalls::run(&arguments, cli.common.json.is_some()),
        Command::List => list::list(cli.common.json.is_some()),
        Command::Status(arguments) => list::status(&arguments, cli.common.json.is_some()),
        Command::Top(arguments) => top::run(&arguments, cli.common.json.is_some()),
        Command::Stop(arguments) => stop::run(&arguments, cli.common.json.is_some()),
        Command::Halt(arguments) => halt::halt(&arguments, cli.common.json.is_some()),
        Command::Resume => halt::resume(cli.common.json.is_some()),
        Command::Set(set) => set::run(&set, &arguments, cli.common.json.is_some()),
        Command::Clean => clean::run(cli.common.json.is_some()),
        Command::Help(arguments) => help::run(&arguments),
        Command::Completions(arguments) => pages::completions(&arguments),
        Command::Man(arguments) => pages::man(&arguments, cli.common.json.is_some()),
        Command::Guardian { journal } => {
            guardian::watch(journal).map(|()| exit::DONE).map_err(Failure::internal)
        }
        Command::Continuer => continuer::live().map(|()| exit::DONE).map_err(Failure::internal),
        Command::Sleeper => sleeper::live().map(|()| exit::DONE).map_err(Failure::internal),
        Command::Receiver { rows } => seccomp::live(&rows).map(|()| exit::DONE).map_err(Failure::internal),
        Command::Bystander => bystander::live()
            .map(|felt| {
                console::out(format_args!("{}", serde_json::json!(felt)));
                exit::DONE
            })
            .map_err(Failure::internal),
    };
    match result {
        Ok(code) => match console::unwritten() {
            Some(error) if code == exit::DONE => {
                tell(&Failure::internal(format!("standard output: {error}")), is_exec, &mut sink)
            }
            _ => ExitCode::from(code),
        },
        Err(failure) => tell(&failure, is_exec, &mut sink),
    }
}

fn tell(failure: &Failure, is_exec: bool, sink: &mut Sink) -> ExitCode {
    if !sink.is_stderr() {
        for line in failure.message.lines() {
            console::err(format_args!("kchaos: {line}"));
        }
        if is_exec && failure.exec_status.is_none() {
            console::err(format_args!("kchaos: code {} ({})", failure.code, exit::name(failure.code)));
        }
    }
    sink.write(&Event::Error { code: failure.code, message: &failure.message });
    let status = if is_exec { failure.exec_status.unwrap_or(exit::EXEC_FAILED) } else { failure.code };
    ExitCode::from(status)
}

/// Usage errors come from the parser; `exec` has its own status for them and a machine wants an event.
fn refuse_arguments(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    if !error.use_stderr() {
        let _ = error.print();
        return ExitCode::from(exit::DONE);
    }
    // Only what stands before `--` is ours.
    let ours =
        || arguments.iter().skip(1).take_while(|argument| *argument != "--").filter_map(|a| a.to_str());
    let json = ours().find_map(|argument| match argument.strip_prefix("--json") {
        Some("") => Some(Path::new("-")),
        Some(file) => file.strip_prefix('=').map(Path::new),
        None => None,
    });
    let mut sink = Sink::open(json).unwrap_or(Sink::None);
    if !sink.is_stderr() {
        let _ = error.print();
    }
    let message = error.render().to_string();
    let message = message.trim().strip_prefix("error: ").unwrap_or(message.trim());
    sink.write(&Event::Error { code: exit::USAGE, message });
    let is_exec = ours().find(|argument| !argument.starts_with('-')) == Some("exec");
    ExitCode::from(if is_exec { exit::EXEC_FAILED } else { exit::USAGE })
}

fn start_log(verbose: u8) {
    let level = match verbose {
        // What a verifier of certificates refuses is told as the answer that it is.
        0 => "warn,rustls_platform_verifier=off",
        1 => "info,rustls_platform_verifier=off",
        // The object parser's own messages would drown ours.
        2 => "debug,aya=warn,aya_obj=warn",
        _ => "trace",
    };
    // What becomes of a message is not the log's to see, so it is told.
    let is_colored = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let environment = env_logger::Env::default()
        .default_filter_or(level)
        .default_write_style_or(if is_colored { "always" } else { "never" });
    // A second start can only happen in tests of this crate, where the first one serves as well.
    let _ = env_logger::Builder::from_env(environment)
        .format_timestamp_micros()
        .target(env_logger::Target::Pipe(Box::new(console::Log)))
        .try_init();
}

/// The faults that flags describe, for tests of what else describes faults.
#[cfg(test)]
pub(crate) fn faults_of(flags: &str) -> Result<Vec<crate::spec::Fault>, crate::spec::Problems> {
    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        faults: faults::Faults,
    }
    let words = std::iter::once("kchaos").chain(flags.split_whitespace());
    let line = Line::try_parse_from(words).map_err(|error| crate::spec::Problems(vec![error.to_string()]))?;
    line.faults.spec(None).map(|spec| spec.faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn json_takes_a_file_only_behind_an_equals_sign() {
        let cli = Cli::try_parse_from(["kchaos", "exec", "--json", "--loss", "5%", "--", "true"]).unwrap();
        assert_eq!(cli.common.json, Some(PathBuf::from("-")));
        let cli = Cli::try_parse_from(["kchaos", "exec", "--json=/x", "--loss", "5%", "--", "true"]).unwrap();
        assert_eq!(cli.common.json, Some(PathBuf::from("/x")));
    }
}
