//! `kchaos completions` and `kchaos man`: what the command line says of itself, for shells and for man(1).

use super::{Cli, console, exit, failure::Failure};
use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;
use std::path::PathBuf;

/// Arguments of `kchaos completions`.
#[derive(Args, Debug)]
pub struct Completions {
    /// For this shell
    shell: Shell,
}

/// Arguments of `kchaos man`.
#[derive(Args, Debug)]
pub struct Man {
    /// Write one page per command into this directory, which exists
    directory: PathBuf,
}

/// Prints a script that completes commands and flags.
pub fn completions(arguments: &Completions) -> Result<u8, Failure> {
    let script = script(arguments.shell);
    console::print(&script).map_err(Failure::internal)?;
    Ok(exit::DONE)
}

fn script(shell: Shell) -> Vec<u8> {
    let mut script = vec![];
    clap_complete::generate(shell, &mut visible(), "kchaos", &mut script);
    script
}

/// The command line without the commands that kchaos gives itself, which some shells' scripts would offer.
fn visible() -> Command {
    let whole = Cli::command();
    let commands = whole.get_subcommands().filter(|command| !command.is_hide_set());
    let about = whole.get_about().cloned().unwrap_or_default();
    let version = whole.get_version().unwrap_or_default().to_owned();
    Command::new("kchaos")
        .disable_help_subcommand(true)
        .about(about)
        .version(version)
        .args(whole.get_arguments())
        .subcommands(commands.cloned())
}

/// Writes `kchaos.1`, `kchaos-exec.1` and so on.
pub fn man(arguments: &Man, json: bool) -> Result<u8, Failure> {
    let directory = &arguments.directory;
    let failed = |error| Failure::new(exit::USAGE, format!("{}: {error}", directory.display()));
    clap_mangen::generate_to(visible(), directory).map_err(failed)?;
    if json {
        console::out(format_args!("{}", serde_json::json!({"event": "written", "directory": directory})));
    } else {
        console::out(format_args!("man pages of kchaos and its commands are in {}", directory.display()));
    }
    Ok(exit::DONE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;

    #[test]
    fn every_shell_is_told_the_flags_and_not_what_is_hidden() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(script(*shell)).unwrap();
            assert!(script.contains("remote-port") && script.contains("halt"), "{shell}: {script}");
        }
        assert!(
            visible().find_subcommand("exec").is_some() && visible().find_subcommand("guardian").is_none()
        );
    }

    #[test]
    fn every_command_has_a_page() {
        let directory = tempfile::tempdir().unwrap();
        let arguments = Man { directory: directory.path().to_owned() };
        man(&arguments, true).unwrap();
        for command in visible().get_subcommands() {
            let page = directory.path().join(format!("kchaos-{}.1", command.get_name()));
            assert!(page.is_file(), "{}", page.display());
        }
        let exec = std::fs::read_to_string(directory.path().join("kchaos-exec.1")).unwrap();
        assert!(exec.contains(r"\-\-loss") && exec.contains(r"\-\-fail"), "{exec}");
        assert!(!directory.path().join("kchaos-guardian.1").exists());
        std::fs::remove_dir_all(directory.path()).unwrap();
        let failure = man(&arguments, true).unwrap_err();
        assert_eq!(failure.code, exit::USAGE);
    }
}
