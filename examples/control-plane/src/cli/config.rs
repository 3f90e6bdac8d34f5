//! Settings from a file: the defaults of the command line, for one that is
//! started.

use std::ffi::OsString;
use std::path::PathBuf;
use std::{env, fs};

use clap::{ArgMatches, Command, CommandFactory as _, FromArgMatches as _};
use serde_json::{Map, Value};

use crate::cli::Cli;

/// What the file cannot set: itself.
const ITSELF: &str = "config";

/// Of each of these, the port alone has a variable of its own.
const PORTS: [(&str, &str); 2] =
    [("xds_listen", "XDS_GRPC_PORT"), ("http_listen", "XDS_HTTP_PORT")];

/// Reads the command line, the environment, and the file that one of them
/// names: what is not said by one of the former is taken from the file.
///
/// # Errors
/// What to tell whoever gave them, and how to end.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let command = Cli::command();
    // Whatever else is wrong is told when the file was read.
    let first = command.clone().ignore_errors(true).try_get_matches_from(&arguments);
    let command = match first.ok().and_then(|matches| file(&matches)) {
        Some(file) => with_defaults(command, &file)?,
        None => command,
    };
    Cli::from_arg_matches(&command.try_get_matches_from(arguments)?)
}

fn file(matches: &ArgMatches) -> Option<PathBuf> {
    let (name, serve) = matches.subcommand()?;
    (name == "serve").then(|| serve.get_one(ITSELF).cloned())?
}

/// The command, in which each setting of the file is the default of its flag.
fn with_defaults(mut command: Command, file: &PathBuf) -> Result<Command, clap::Error> {
    let mut fail = |why: String| {
        let why = format!("the file {}: {why}\n", file.display());
        Err(command.error(clap::error::ErrorKind::ValueValidation, why))
    };
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) => return fail(format!("cannot be read: {error}")),
    };
    let settings: Option<Map<String, Value>> = match serde_saphyr::from_str(&text) {
        Ok(settings) => settings,
        Err(error) => return fail(format!("is no YAML object of settings: {error}")),
    };
    let known = known(&Cli::command());
    let mut defaults = Vec::new();
    for (name, value) in settings.unwrap_or_default() {
        if !known.contains(&name) {
            return fail(format!("{name:?} is no setting; write one of {}", known.join(", ")));
        }
        let value = match value {
            Value::String(text) => text,
            Value::Number(number) => number.to_string(),
            Value::Bool(flag) => flag.to_string(),
            _ => return fail(format!("{name:?} is no text, number, true or false; write one")),
        };
        let is_overruled =
            |(setting, port): &(&str, &str)| *setting == name && env::var_os(port).is_some();
        if !PORTS.iter().any(is_overruled) {
            defaults.push((name, value));
        }
    }
    Ok(defaults.into_iter().fold(command, |command, (name, value)| {
        let is_global = command.get_arguments().any(|argument| argument.get_id() == name.as_str());
        let set =
            |command: Command| command.mut_arg(name, |argument| argument.default_value(value));
        if is_global { set(command) } else { command.mut_subcommand("serve", set) }
    }))
}

/// The settings: the flags of `serve`, and those that all commands have.
fn known(command: &Command) -> Vec<String> {
    let serve = command.get_subcommands().filter(|command| command.get_name() == "serve");
    let arguments = command.get_arguments().chain(serve.flat_map(Command::get_arguments));
    let names = arguments.filter(|argument| argument.get_long().is_some());
    let names = names.map(|argument| argument.get_id().as_str().to_owned());
    names.filter(|name| name != ITSELF).collect()
}
