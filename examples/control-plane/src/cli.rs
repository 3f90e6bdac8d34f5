//! The command line, and the same by environment.

pub mod bootstrap;
pub mod commands;
pub mod config;
pub(crate) mod diff;
pub mod history;
pub mod remote;
mod serve;
pub mod sources;
pub(crate) mod table;
pub mod tokens;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::cli::history::{History, Rollback};

pub use serve::{HttpTokens, Serve};

/// What to do first, shown by --help.
const FIRST_STEPS: &str = "\
First steps:
  deltaplane serve                                  serve a new database, here
  deltaplane bootstrap --node-id a --cluster edge   what an Envoy starts with
  deltaplane apply --scope edge -f resources.yaml   give that fleet resources
  deltaplane status                                 who runs what
  deltaplane history                                what was changed, and by whom
  deltaplane rollback 7                             back to what was stored at 7

Exit codes: 0 done; 1 failed; 2 wrong usage; 3 a client rejected what was
applied; 4 not all clients settled in time; 5 diff found a difference.";

/// Services in a database in, Envoy configuration out.
#[derive(Debug, Parser)]
#[command(version, about, after_help = FIRST_STEPS)]
pub struct Cli {
    /// How the log is written, to stderr; RUST_LOG chooses how much of it.
    #[arg(long, global = true, env = "LOG_FORMAT", value_enum, default_value_t)]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[allow(clippy::exhaustive_enums)] // only `main` asks
pub enum LogFormat {
    /// A line for people.
    #[default]
    Text,
    /// A JSON object for each line.
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
#[allow(clippy::exhaustive_enums)] // only `main` asks
pub enum Command {
    /// Serve the services of a database to Envoys.
    Serve(Box<Serve>),
    /// Print the configuration with which an Envoy starts.
    Bootstrap(Bootstrap),
    /// Bring the tables of a database up to date, and end.
    Migrate(DatabaseOptions),
    /// Make, list and revoke tokens for the HTTP API, in the database itself.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Store resources or services from files, all of them or none.
    Apply(Apply),
    /// Show how resources in files differ from what is stored.
    Diff(Diff),
    /// Show what a server has.
    Get(Get),
    /// Show who is connected to a server, and how far each of these clients is.
    Status(StatusOptions),
    /// Show what was changed, when and by whom, and what became of it.
    History(History),
    /// Store again what was stored at a revision.
    Rollback(Rollback),
    /// Print a script by which a shell completes the command line.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

/// Which database.
#[derive(Debug, Args)]
#[non_exhaustive]
pub struct DatabaseOptions {
    /// sqlite://FILE, made if absent, or postgres://USER@HOST/DATABASE.
    #[arg(
        long,
        env = "DATABASE_URL",
        default_value = "sqlite://deltaplane.db",
        // It may hold a password, which is not for the screen.
        hide_env_values = true
    )]
    pub database_url: String,
}

/// What `bootstrap` needs to know.
#[derive(Debug, Args)]
#[non_exhaustive]
pub struct Bootstrap {
    /// The name of this Envoy.
    #[arg(long)]
    pub node_id: String,
    /// The fleet that it belongs to: cluster-N sees the services of cluster_id N
    /// [default: the same as the node id].
    #[arg(long)]
    pub cluster: Option<String>,
    /// The variant of xDS: only what changed, or everything each time.
    #[arg(long, value_enum, default_value_t)]
    pub variant: Variant,
    /// Without ADS: a stream for each kind of resource, for a fleet whose source is
    /// grpc or delta_grpc.
    #[arg(long)]
    pub separate: bool,
    /// Where the control plane is. May be given several times, or with commas between,
    /// for several servers on one database: an Envoy goes to one of them, and to the
    /// next when that is gone.
    #[arg(long, env = "XDS_ADDRESS", value_delimiter = ',', default_value = "127.0.0.1:18000")]
    pub xds_address: Vec<String>,
    /// A file at the Envoy, with the CA that signed the server's certificate: it connects
    /// by TLS.
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<String>,
    /// A file at the Envoy, with the certificate that it shows.
    #[arg(long, value_name = "FILE", requires = "tls_key", requires = "tls_ca")]
    pub tls_cert: Option<String>,
    /// A file at the Envoy, with the key of that.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<String>,
    /// What the server's certificate is for: the name of a host, an address or a URI
    /// [default: that of --xds-address, of several one of these].
    #[arg(long, value_name = "NAME", requires = "tls_ca")]
    pub tls_server_name: Option<String>,
    /// The port of Envoy's own pages, on 127.0.0.1; 0 takes any that is free.
    #[arg(long, default_value_t = 0)]
    pub admin_port: u16,
    /// Envoy reports the load that it sends, which `serve` shows at /metrics.
    #[arg(long)]
    pub load_reports: bool,
}

/// A variant of the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[allow(clippy::exhaustive_enums)] // the protocol has these two
pub enum Variant {
    /// Incremental.
    #[default]
    Delta,
    /// State of the World.
    Sotw,
}

/// What to do about tokens.
#[derive(Debug, Subcommand)]
#[allow(clippy::exhaustive_enums)] // only `main` asks
pub enum TokenCommand {
    /// Make one, and print it: it is shown this once.
    Create(TokenCreate),
    /// Show which there are, and what each is good for.
    List(TokenList),
    /// End one, at once.
    Revoke(TokenRevoke),
}

/// A token to be made.
#[derive(Debug, Args)]
#[non_exhaustive]
pub struct TokenCreate {
    /// What it is called in the audit log and as the author of what is written with it.
    pub name: String,
    /// A fleet, by the name of its scope, whose state may be read; * for every one. May
    /// be given several times. Without any, it is good for /metrics alone.
    #[arg(long, value_name = "FLEET")]
    pub read: Vec<String>,
    /// A fleet that may be written, and so read; * for every one, and for what all
    /// share: the rows of fleets, and certificates.
    #[arg(long, value_name = "FLEET")]
    pub write: Vec<String>,
    /// How long it is good, such as 90days [default: until it is revoked].
    #[arg(long, value_parser = humantime::parse_duration)]
    pub expires: Option<Duration>,
    /// Which database.
    #[command(flatten)]
    pub database: DatabaseOptions,
}

/// Which tokens there are.
#[derive(Debug, Args)]
#[non_exhaustive]
pub struct TokenList {
    /// Which database.
    #[command(flatten)]
    pub database: DatabaseOptions,
    /// How they are written, to stdout.
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Output,
}

/// A token to be ended.
#[derive(Debug, Args)]
#[non_exhaustive]
pub struct TokenRevoke {
    /// Which one.
    pub name: String,
    /// Which database.
    #[command(flatten)]
    pub database: DatabaseOptions,
}

/// Which server.
#[derive(Debug, Args)]
#[non_exhaustive]
pub struct Remote {
    /// Where the server's HTTP API is.
    #[arg(long, env = "DELTAPLANE_SERVER", default_value = "http://127.0.0.1:19000")]
    pub server: String,
    /// A file with the CA that signed the server's certificate, in PEM; a server at https
    /// needs it.
    #[arg(long, env = "DELTAPLANE_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// A file with the token that the server wants. DELTAPLANE_TOKEN is the token itself.
    #[arg(long, env = "DELTAPLANE_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The token itself; others on this machine may see it in the list of processes.
    #[arg(long, env = "DELTAPLANE_TOKEN", hide_env_values = true, conflicts_with = "token_file")]
    pub token: Option<String>,
    /// How what is found is written, to stdout.
    #[arg(long, short, value_enum, default_value_t)]
    pub output: Output,
}

/// How what is found is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[allow(clippy::exhaustive_enums)] // only commands ask
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// In whose name.
#[derive(Debug, Args)]
#[non_exhaustive]
pub struct Author {
    /// In whose name it is changed, for the history [default: the user's].
    #[arg(long, env = "DELTAPLANE_AUTHOR")]
    author: Option<String>,
}

impl Author {
    /// His name, if he has one.
    pub(crate) fn name(&self) -> Option<String> {
        let user = || ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
        self.author.clone().or_else(user)
    }
}

/// Resources in files.
#[derive(Debug, Args)]
#[non_exhaustive]
pub struct Sources {
    /// A file of YAML or JSON documents, or - for stdin. A document is a
    /// transaction as the HTTP API takes it, with "scope", "upserts" and
    /// "removes", or a resource by itself, with its "@type". May be given
    /// several times: all is one transaction.
    #[arg(long = "file", short, value_name = "FILE", required = true, num_args = 1..)]
    pub files: Vec<PathBuf>,
    /// The scope: the fleet that gets the resources. A document may say it
    /// itself.
    #[arg(long, visible_alias = "fleet")]
    pub scope: Option<String>,
}

/// What `apply` needs to know.
#[derive(Debug, Args)]
#[non_exhaustive]
pub struct Apply {
    /// Which server.
    #[command(flatten)]
    pub remote: Remote,
    /// Whose change it is.
    #[command(flatten)]
    pub author: Author,
    /// What to store.
    #[command(flatten)]
    pub sources: Sources,
    /// What people call the change; clients show it behind version_info.
    #[arg(long)]
    pub label: Option<String>,
    /// Wait until the clients that see it have acknowledged it, and tell
    /// meanwhile how many have: the clients of this server, of several that there are.
    #[arg(long)]
    pub wait: bool,
    /// The share of the clients to wait for, from 0 to 1.
    #[arg(long, default_value_t = 1.0, requires = "wait", value_parser = share)]
    pub settled: f64,
    /// How long to wait for clients, such as 30s or 2m.
    #[arg(long, default_value = "30s", requires = "wait", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

pub(crate) fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "write a number from 0 to 1, such as 0.9".to_owned())
}

/// What `diff` needs to know.
#[derive(Debug, Args)]
#[non_exhaustive]
pub struct Diff {
    /// Which server.
    #[command(flatten)]
    pub remote: Remote,
    /// What to compare.
    #[command(flatten)]
    pub sources: Sources,
}

/// What `get` needs to know.
#[derive(Debug, Args)]
#[non_exhaustive]
pub struct Get {
    /// Which server.
    #[command(flatten)]
    pub remote: Remote,
    /// Of what.
    #[arg(value_enum)]
    pub what: What,
    /// Which one: the id of a service, the name of a fleet, route or certificate,
    /// the scope of resources, the node id of a client.
    pub which: Option<String>,
}

/// What a server has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[allow(clippy::exhaustive_enums)] // only `get` asks
pub enum What {
    /// The services of fleets.
    Services,
    /// The settings of fleets.
    Fleets,
    /// The routes between services.
    Routes,
    /// The certificates, without their keys.
    Certificates,
    /// The scopes that have raw resources.
    Scopes,
    /// The raw resources of a scope.
    Resources,
    /// The clients that are connected; of one, what it runs.
    Clients,
    /// The server in numbers.
    Stats,
    /// Who wrote what by the HTTP API, the newest first.
    Audit,
}

/// What `status` needs to know.
#[derive(Debug, Args)]
#[non_exhaustive]
pub struct StatusOptions {
    /// Which server.
    #[command(flatten)]
    pub remote: Remote,
    /// The clients of this scope, or fleet, alone.
    #[arg(long, visible_alias = "fleet")]
    pub scope: Option<String>,
    /// Show it anew until Ctrl-C.
    #[arg(long, short)]
    pub watch: bool,
    /// How often, such as 2s.
    #[arg(long, default_value = "1s", requires = "watch", value_parser = humantime::parse_duration)]
    pub interval: Duration,
}
