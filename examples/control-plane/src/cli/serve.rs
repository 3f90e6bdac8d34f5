//! What `serve` is told.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, ValueEnum};

use crate::certificates::vault::Vault;
use crate::cli::DatabaseOptions;
use crate::history::retention::Retention;
use crate::serve::ServeError;

/// What `serve` needs to know.
#[derive(Debug, Args)]
#[non_exhaustive]
pub struct Serve {
    /// A file with settings, in YAML or JSON: each is called as its flag, with
    /// _ for -. Flags go before the environment, that before the file, and that
    /// before the defaults.
    #[arg(long, env = "DELTAPLANE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Which database.
    #[command(flatten)]
    pub database: DatabaseOptions,
    /// Where Envoys connect: HOST:PORT, where port 0 takes any that is free.
    /// XDS_GRPC_PORT is for the port alone [default: 127.0.0.1:18000].
    #[arg(long, env = "XDS_LISTEN")]
    xds_listen: Option<String>,
    #[arg(long, env = "XDS_GRPC_PORT", hide = true, default_value_t = 18000)]
    xds_grpc_port: u16,
    /// Where the HTTP API, /readyz and /metrics are: HOST:PORT, where port 0 takes any
    /// that is free. XDS_HTTP_PORT is for the port alone [default:
    /// 127.0.0.1:19000].
    #[arg(long, env = "HTTP_LISTEN")]
    http_listen: Option<String>,
    #[arg(long, env = "XDS_HTTP_PORT", hide = true, default_value_t = 19000)]
    xds_http_port: u16,
    /// Where /metrics, /healthz and /readyz are once more, and nothing else, by plain HTTP:
    /// HOST:PORT. Nobody needs a token there, so that they answer while the database, which
    /// knows tokens, is down.
    #[arg(long, env = "METRICS_LISTEN", value_name = "HOST:PORT")]
    pub metrics_listen: Option<String>,
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
    /// How often, in seconds, clients report the load that they send, for
    /// /metrics; 0 asks for none. Envoys do so that were started by
    /// `bootstrap --load-reports`.
    #[arg(long, env = "LOAD_REPORT_INTERVAL_S", default_value_t = 10)]
    pub load_report_interval_s: u64,
    /// A file with the key that encrypts private keys in the database: 32 bytes in
    /// base64, as `openssl rand -base64 32` makes them. What was encrypted by keys in
    /// later lines can be read, too. SECRET_KEY is the key itself.
    #[arg(long, env = "SECRET_KEY_FILE")]
    secret_key_file: Option<PathBuf>,
    #[arg(long, env = "SECRET_KEY", hide = true, hide_env_values = true)]
    secret_key: Option<String>,
    /// A file with the certificate that is shown to Envoys, in PEM, with those that
    /// vouch for it. Files are taken over when they change.
    #[arg(long, env = "TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// A file with its key, in PEM.
    #[arg(long, env = "TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// A file with the CA that must have signed client certificates, in PEM. With it, only
    /// those are served whose certificate fits the identity of their fleet.
    #[arg(long, env = "CLIENT_CA", value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
    /// The name that a client certificate must carry, unless the fleet sets `identity`: a
    /// pattern such as spiffe://prod/{fleet}/{node}, where * is any text, / as well. Without
    /// {fleet}, who has such a certificate may say that it belongs to any fleet.
    #[arg(long, env = "CLIENT_IDENTITY", value_name = "PATTERN")]
    pub client_identity: Option<String>,
    /// A file with the certificate of the HTTP API.
    #[arg(long, env = "HTTP_TLS_CERT", value_name = "FILE")]
    pub http_tls_cert: Option<PathBuf>,
    /// A file with its key.
    #[arg(long, env = "HTTP_TLS_KEY", value_name = "FILE")]
    pub http_tls_key: Option<PathBuf>,
    /// How old, in seconds, Envoys' connections get, give or take a tenth, so that they
    /// spread over several servers; 0 for as old as they like.
    #[arg(long, env = "CONNECTION_AGE_S", default_value_t = 0)]
    pub connection_age_s: u64,
    /// Whether, of several servers on one PostgreSQL, one that has more streams than its
    /// share ends some, so that they come back at others.
    #[arg(long, env = "FAIR_SHARE", value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    pub fair_share: bool,
    /// How many seconds an Envoy that comes from another server, and has something newer
    /// than this one, waits for it before it is served what there is here; 0 for not at
    /// all.
    #[arg(long, env = "CATCH_UP_S", default_value_t = 5)]
    pub catch_up_s: u64,
    /// How often, in seconds, Envoys are asked whether they are still there. Who does not
    /// answer within as long, or within 10 s, is gone.
    #[arg(long, env = "KEEPALIVE_S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..))]
    pub keepalive_s: u64,
    /// How many connections Envoys may have; the others wait. 0 for as many as come.
    #[arg(long, env = "CONNECTIONS_MAX", default_value_t = 0)]
    pub connections_max: usize,
    /// How many connections of Envoys are accepted in a second; the others wait. 0 for as
    /// many as come.
    #[arg(long, env = "ACCEPTS_PER_SECOND", default_value_t = 0)]
    pub accepts_per_second: u32,
    /// How many streams Envoys may have; the others are refused. 0 for as many as come.
    #[arg(long, env = "STREAMS_MAX", default_value_t = 0)]
    pub streams_max: usize,
    /// Above how many megabytes in use new connections wait and new streams are refused,
    /// while those that are there are served; 0 for never.
    #[arg(long, env = "MEMORY_MAX_MB", default_value_t = 0)]
    pub memory_max_mb: u64,
    /// How many seconds the end takes at most, once it is asked for by SIGTERM or SIGINT.
    /// Clients have to take notice until the last quarter, or second, of it, which is for
    /// the database.
    #[arg(long, env = "SHUTDOWN_S", default_value_t = 5)]
    pub shutdown_s: u64,
    /// A file in which is kept what the database held last: the server starts from it
    /// while the database cannot be reached.
    #[arg(long, env = "LAST_KNOWN_GOOD", value_name = "FILE")]
    pub last_known_good: Option<PathBuf>,
    /// When the HTTP API wants a token, which `deltaplane token create` makes, for
    /// anything but how the server is.
    #[arg(long, env = "HTTP_TOKENS", value_enum, default_value_t)]
    pub http_tokens: HttpTokens,
    /// How many days long is kept who wrote what by the HTTP API.
    #[arg(long, env = "AUDIT_DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..))]
    pub audit_days: u32,
    /// How many revisions the history keeps, to be shown and returned to; 0 for all.
    #[arg(long, env = "HISTORY_REVISIONS", default_value_t = 10_000)]
    history_revisions: u64,
    /// For how many days it keeps them; 0 for ever.
    #[arg(long, env = "HISTORY_DAYS", default_value_t = 90)]
    history_days: u64,
}

/// When a token is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
#[allow(clippy::exhaustive_enums)] // only `serve` asks
pub enum HttpTokens {
    /// If it listens beyond this machine.
    #[default]
    Auto,
    /// Even from this machine.
    Always,
    /// From nobody, though anybody who reaches it could do everything.
    Never,
}

impl Serve {
    /// What encrypts what is secret.
    pub(crate) fn vault(&self) -> Result<Vault, ServeError> {
        let (flag, key) = match (&self.secret_key_file, &self.secret_key) {
            (Some(path), _) => {
                let flag = format!("the file {} of --secret-key-file", path.display());
                let read = std::fs::read_to_string(path);
                match read {
                    Ok(key) => (flag, key),
                    Err(error) => {
                        let why = format!("cannot be read: {error}");
                        return Err(ServeError::Key { flag, why });
                    }
                }
            }
            (None, Some(key)) => ("SECRET_KEY".to_owned(), key.clone()),
            (None, None) => return Ok(Vault::default()),
        };
        Vault::new(&key).map_err(|error| ServeError::Key { flag, why: error.to_string() })
    }

    /// How much of the history is kept.
    pub(crate) fn retention(&self) -> Retention {
        let bound = |number: u64| (number > 0).then_some(number);
        let days = bound(self.history_days).map(|days| days.saturating_mul(86_400));
        let revisions = bound(self.history_revisions);
        Retention { revisions, age: days.map(Duration::from_secs) }
    }

    /// Where Envoys connect.
    pub fn xds_listen(&self) -> String {
        listen(self.xds_listen.as_ref(), self.xds_grpc_port)
    }

    /// Where the HTTP API is.
    pub fn http_listen(&self) -> String {
        listen(self.http_listen.as_ref(), self.xds_http_port)
    }
}

fn listen(whole: Option<&String>, port: u16) -> String {
    whole.cloned().unwrap_or_else(|| format!("127.0.0.1:{port}"))
}
