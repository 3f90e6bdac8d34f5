//! `deltaplane`: services in a database in, Envoy configuration out.

use std::error::Error;
use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::CommandFactory as _;
use deltaplane::cli::bootstrap;
use deltaplane::cli::commands::{self, CommandError};
use deltaplane::cli::config;
use deltaplane::cli::history;
use deltaplane::cli::tokens;
use deltaplane::cli::{Cli, Command, LogFormat};
use deltaplane::serve;
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = match config::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let command = error.downcast_ref::<CommandError>();
            let code = command.map_or(1, CommandError::exit_code);
            if code != 0 {
                let _ = writeln!(io::stderr(), "deltaplane: {error}");
            }
            ExitCode::from(code)
        }
    }
}

fn run(cli: &Cli) -> Result<(), Box<dyn Error>> {
    match &cli.command {
        Command::Serve(arguments) => {
            start_log(cli.log_format);
            let runtime = runtime()?;
            let served = runtime.block_on(serve::run(arguments));
            // What still runs by now was told to end and did not.
            runtime.shutdown_background();
            Ok(served?)
        }
        Command::Migrate(arguments) => Ok(runtime()?.block_on(serve::migrate(arguments))?),
        Command::Bootstrap(arguments) => {
            let yaml = bootstrap::yaml(arguments)?;
            Ok(io::stdout().write_all(yaml.as_bytes())?)
        }
        Command::Token(command) => Ok(runtime()?.block_on(tokens::run(command))?),
        Command::Apply(arguments) => Ok(commands::apply(arguments)?),
        Command::Diff(arguments) => Ok(commands::diff(arguments)?),
        Command::Get(arguments) => Ok(commands::get(arguments)?),
        Command::Status(arguments) => Ok(commands::status(arguments)?),
        Command::History(arguments) => Ok(history::history(arguments)?),
        Command::Rollback(arguments) => Ok(history::rollback(arguments)?),
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "deltaplane", &mut io::stdout());
            Ok(())
        }
    }
}

fn runtime() -> io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

fn start_log(format: LogFormat) {
    // What the database's driver finds worth telling is of no use to an operator.
    let usual = |_| EnvFilter::new("info,sqlx=warn");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(usual);
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // It fails if a log was started before, and then there is one.
    let _ = match format {
        LogFormat::Json => log.json().try_init(),
        LogFormat::Text => log.try_init(),
    };
}
