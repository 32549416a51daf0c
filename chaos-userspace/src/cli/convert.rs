//! `kchaos convert`: what teams already have in git, as an experiment file.

use super::{console, exit, failure::Failure, file};
use crate::convert::{self, Options};
use clap::Args;
use std::path::PathBuf;

/// Arguments of `kchaos convert`.
#[derive(Args, Debug)]
pub struct Convert {
    /// NetworkChaos or IOChaos of Chaos Mesh, Disruption of Datadog, an experiment of Chaos Toolkit, or command lines of tc or
    /// pumba; - is standard input
    file: PathBuf,

    /// Who stands for what the source selects: unit=NAME, cgroup=PATH or container=NAME
    #[arg(long = "target", value_name = "KIND=NAME", value_parser = target)]
    targets: Vec<(String, String)>,

    /// Who stands for the peers that the source selects: an address, a prefix or a name
    #[arg(long = "remote", value_name = "CIDR|NAME")]
    remotes: Vec<String>,

    /// How long the faults act, where the source says nothing
    #[arg(long, value_name = "TIME")]
    duration: Option<String>,

    /// Write what can be written, though something is refused
    #[arg(long)]
    partial: bool,
}

fn target(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((kind @ ("unit" | "cgroup" | "container"), name)) if !name.is_empty() => {
            Ok((kind.to_owned(), name.to_owned()))
        }
        _ => Err("write unit=web.service, cgroup=/web or container=db".to_owned()),
    }
}

/// Prints the file on standard output and the table on standard error, or both as one object.
pub fn run(arguments: &Convert, json: bool) -> Result<u8, Failure> {
    let path = &arguments.file;
    let wrong =
        |error: &dyn std::fmt::Display| Failure::new(exit::USAGE, format!("{}: {error}", path.display()));
    let text = file::text(path).map_err(|error| wrong(&error))?;
    let options = Options {
        targets: arguments.targets.clone(),
        remotes: arguments.remotes.clone(),
        duration: arguments.duration.clone(),
    };
    let converted = convert::convert(&text, &options).map_err(|error| wrong(&error))?;
    let refused = converted.table.refusals();
    let written = converted.file.as_ref().filter(|_| refused == 0 || arguments.partial);
    let output = if json {
        let object = serde_json::json!({"file": written, "fields": converted.table, "refused": refused});
        format!("{object}\n")
    } else {
        console::say(&converted.table.text());
        written.cloned().unwrap_or_default()
    };
    console::print(output.as_bytes()).map_err(Failure::internal)?;
    let fields =
        if refused == 1 { "1 field is refused".to_owned() } else { format!("{refused} fields are refused") };
    match (refused, written) {
        (0, _) => Ok(exit::DONE),
        (_, Some(_)) => {
            if !json {
                console::err(format_args!("kchaos: {fields}: the file does without"));
            }
            Ok(exit::USAGE)
        }
        (_, None) if converted.file.is_some() => Err(wrong(&format!(
            "{fields}, and no file is written: change the source, or add --partial to do without"
        ))),
        _ => Err(wrong(&format!("{fields}, and what is left is no experiment: no file is written"))),
    }
}
