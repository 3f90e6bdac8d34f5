//! The command line, and the same by environment.

use std::net::{IpAddr, Ipv4Addr};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Services in a database in, Envoy configuration out.
#[derive(Debug, Parser)]
#[command(version, about)]
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
    Serve(Serve),
    /// Print the configuration with which an Envoy starts.
    Bootstrap(Bootstrap),
}

/// What `serve` needs to know.
#[derive(Debug, Args)]
#[non_exhaustive]
pub struct Serve {
    /// sqlite://FILE, made if absent, or postgres://USER@HOST/DATABASE.
    #[arg(
        long,
        env = "DATABASE_URL",
        default_value = "sqlite://deltaplane.db",
        // It may hold a password, which is not for the screen.
        hide_env_values = true
    )]
    pub database_url: String,
    /// Where Envoys connect: HOST:PORT, where port 0 takes any that is free.
    /// XDS_GRPC_PORT is for the port alone [default: 127.0.0.1:18000].
    #[arg(long, env = "XDS_LISTEN")]
    xds_listen: Option<String>,
    #[arg(long, env = "XDS_GRPC_PORT", hide = true, default_value_t = 18000)]
    xds_grpc_port: u16,
    /// Where the REST face and /healthz are: HOST:PORT, where port 0 takes any
    /// that is free. XDS_HTTP_PORT is for the port alone [default:
    /// 127.0.0.1:19000].
    #[arg(long, env = "HTTP_LISTEN")]
    http_listen: Option<String>,
    #[arg(long, env = "XDS_HTTP_PORT", hide = true, default_value_t = 19000)]
    xds_http_port: u16,
    /// The scope, such as cluster-1, of clients for whose node.cluster and
    /// node.id no service and no transaction was ever stored.
    #[arg(long, env = "XDS_NODE_ID")]
    pub node_id: Option<String>,
    /// The address to which Envoy binds the listeners of all services.
    #[arg(long, env = "LISTENER_ADDRESS", default_value_t = Ipv4Addr::UNSPECIFIED.into())]
    pub listener_address: IpAddr,
    /// For how many seconds Envoys serve the old connections of a listener that
    /// changed, as their own --drain-time-s says. What these use is kept so long.
    #[arg(long, env = "DRAIN_TIME_S", default_value_t = 600)]
    pub drain_time_s: u64,
}

impl Serve {
    /// Where Envoys connect.
    pub fn xds_listen(&self) -> String {
        listen(self.xds_listen.as_ref(), self.xds_grpc_port)
    }

    /// Where the REST face is.
    pub fn http_listen(&self) -> String {
        listen(self.http_listen.as_ref(), self.xds_http_port)
    }
}

fn listen(whole: Option<&String>, port: u16) -> String {
    whole.cloned().unwrap_or_else(|| format!("127.0.0.1:{port}"))
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
    /// Where the control plane is.
    #[arg(long, default_value = "127.0.0.1:18000")]
    pub xds_address: String,
    /// The port of Envoy's own pages, on 127.0.0.1; 0 takes any that is free.
    #[arg(long, default_value_t = 0)]
    pub admin_port: u16,
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
