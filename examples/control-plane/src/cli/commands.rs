//! What the command line does at a server, and how that ended.

use std::collections::BTreeSet;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use thiserror::Error;

use crate::cli::diff::Difference;
use crate::cli::remote::{Remote, RemoteError, escape};
use crate::cli::sources::{self, Change, SourceError};
use crate::cli::table;
use crate::cli::{Apply, Diff, Get, Output, StatusOptions, What};
use crate::fleets::scope;

/// How often one looks how far clients are.
const LOOK: Duration = Duration::from_millis(100);

/// Why a command did not do what it was to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The server did not do it.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The files say nothing that can be done.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The command line lacks something.
    #[error("{0}")]
    Usage(String),
    /// A client rejected what was applied.
    #[error("clients rejected it: deltaplane status says which and why")]
    Rejected,
    /// Not all clients settled in time.
    #[error("not all clients settled in time: deltaplane status says which")]
    Late,
    /// There is a difference.
    #[error("what is stored differs")]
    Differs,
    /// Nothing can be written.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

impl CommandError {
    /// What the process ends with.
    pub fn exit_code(&self) -> u8 {
        match self {
            CommandError::Usage(_) => 2,
            CommandError::Rejected => 3,
            CommandError::Late => 4,
            CommandError::Differs => 5,
            // Who listened, such as `head`, has heard enough.
            CommandError::Write(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            _ => 1,
        }
    }
}

pub(crate) type Done = Result<(), CommandError>;

/// Stores what files say, and waits for clients if it is told to.
pub fn apply(arguments: &Apply) -> Done {
    let remote = Remote::new(&arguments.remote)?.by(arguments.author.name());
    let stored = match sources::change(&arguments.sources)? {
        Change::Transaction(transaction) => transact(&remote, arguments, transaction)?,
        Change::Import(import) => store_services(&remote, arguments, &import)?,
    };
    if !arguments.wait {
        return print(arguments.remote.output, &stored.text, &stored.json);
    }
    writeln!(io::stderr(), "{}", stored.text)?;
    let (settled, timeout) = (arguments.settled, arguments.timeout);
    let waiting = Waiting { scopes: stored.scopes, settled, timeout };
    await_clients(&remote, &waiting, stored.revision, arguments.remote.output, stored.json)
}

/// For which clients one waits.
pub(crate) struct Waiting {
    /// Those that see one of these scopes; without any, all.
    pub(crate) scopes: BTreeSet<String>,
    /// This share of them.
    pub(crate) settled: f64,
    /// For so long.
    pub(crate) timeout: Duration,
}

/// Waits for clients, and adds to what was done what became of it.
pub(crate) fn await_clients(
    remote: &Remote,
    waiting: &Waiting,
    revision: i64,
    output: Output,
    mut done: Value,
) -> Done {
    let progress = wait(remote, waiting, revision)?;
    done["outcome"] = progress.outcome().into();
    done["clients"] = progress.clients.clone().into();
    print(output, &progress.to_string(), &done)?;
    match progress.outcome() {
        "settled" => Ok(()),
        "rejected" => Err(CommandError::Rejected),
        _ => Err(CommandError::Late),
    }
}

/// What was stored.
struct Stored {
    text: String,
    json: Value,
    revision: i64,
    scopes: BTreeSet<String>,
}

fn transact(
    remote: &Remote,
    arguments: &Apply,
    mut transaction: Value,
) -> Result<Stored, CommandError> {
    if let Some(label) = &arguments.label {
        transaction["label"] = label.as_str().into();
    }
    let scope = transaction["scope"].as_str().unwrap_or_default().to_owned();
    let stored = remote.post("/api/v1/xds/transactions", &transaction)?;
    for warning in stored["warnings"].as_array().into_iter().flatten() {
        let text = |field: &str| warning[field].as_str().unwrap_or_default();
        writeln!(io::stderr(), "warning: {}: {}", text("field"), text("message"))?;
    }
    let revision = stored["revision"].as_i64().unwrap_or_default();
    let text = format!("stored in scope {scope} at revision {revision}");
    let json = json!({"scope": scope, "revision": revision});
    Ok(Stored { text, json, revision, scopes: BTreeSet::from([scope]) })
}

fn store_services(
    remote: &Remote,
    arguments: &Apply,
    import: &Value,
) -> Result<Stored, CommandError> {
    let json = remote.called(arguments.label.clone()).post("/api/v1/services/import", import)?;
    let revision = json["revision"].as_i64().unwrap_or_default();
    let count = |field: &str| json[field].as_u64().unwrap_or_default();
    let text = format!(
        "services: {} created, {} replaced, {} unchanged at revision {revision}",
        count("created"),
        count("replaced"),
        count("unchanged")
    );
    let services = import["services"].as_array().into_iter().flatten();
    let scopes = services.map(|service| {
        let id = service["cluster_id"].as_i64();
        id.map_or_else(|| "cluster-1".to_owned(), |id| scope::of_cluster(id).to_string())
    });
    Ok(Stored { text, revision, scopes: scopes.collect(), json })
}

/// How far clients are with what was stored.
struct Progress {
    revision: i64,
    is_published: bool,
    /// Those of it that go to some of a fleet first, as `/xds/stats` lists them.
    rollouts: Vec<Value>,
    /// As `/xds/clients` lists them.
    clients: Vec<Value>,
    /// So many have to settle.
    wanted: usize,
}

impl Progress {
    fn look(remote: &Remote, waiting: &Waiting, revision: i64) -> Result<Progress, RemoteError> {
        let stats = remote.get("/xds/stats")?;
        let is_concerned = |of: &Value| {
            let scopes = of["scopes"].as_array().into_iter().flatten();
            let is_one =
                |scope: &Value| scope.as_str().is_some_and(|it| waiting.scopes.contains(it));
            waiting.scopes.is_empty() || scopes.into_iter().any(is_one)
        };
        let list = |name: &str| {
            let list = stats[name].as_array().into_iter().flatten();
            list.filter(|of| is_concerned(of)).cloned().collect::<Vec<_>>()
        };
        let at = |of: &Value| of["revision"].as_i64().unwrap_or_default();
        let is_published = stats["read"].as_i64().unwrap_or_default() >= revision
            && list("behind").iter().all(|fleet| at(fleet) >= revision);
        let mut rollouts = list("rollouts");
        rollouts.retain(|rollout| at(rollout) >= revision);
        let mut clients: Vec<Value> = Vec::new();
        let of = waiting.scopes.iter().map(|scope| format!("?scope={}", escape(scope)));
        let all = waiting.scopes.is_empty().then(String::new);
        for of in of.chain(all) {
            let seeing = remote.get(&format!("/xds/clients{of}"))?;
            for client in seeing.as_array().into_iter().flatten() {
                if !clients.contains(client) {
                    clients.push(client.clone());
                }
            }
        }
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a number of clients, and a share of it that is neither negative nor larger"
        )]
        let wanted = (waiting.settled * clients.len() as f64).ceil() as usize;
        Ok(Progress { revision, is_published, rollouts, clients, wanted })
    }

    fn count(&self, states: &[&str]) -> usize {
        let is = |client: &&Value| states.iter().any(|state| client["state"] == *state);
        self.clients.iter().filter(is).count()
    }

    /// Whether nothing is left to wait for.
    fn is_over(&self) -> bool {
        self.withdrawn().is_some()
            || self.is_published && (self.outcome() == "settled" || self.count(&["pending"]) == 0)
    }

    /// A rollout that was taken back.
    fn withdrawn(&self) -> Option<&Value> {
        self.rollouts.iter().find(|rollout| rollout["stage"] == "withdrawn")
    }

    fn outcome(&self) -> &'static str {
        if self.withdrawn().is_some() {
            "rejected"
        } else if self.is_published && self.count(&["settled", "draining"]) >= self.wanted {
            "settled"
        } else if self.count(&["rejected"]) > 0 {
            "rejected"
        } else {
            "late"
        }
    }
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (revision, all) = (self.revision, self.clients.len());
        let list = |of: &Value| {
            let texts = of.as_array().into_iter().flatten().filter_map(Value::as_str);
            texts.collect::<Vec<_>>().join("; ")
        };
        if let Some(rollout) = self.withdrawn() {
            write!(f, "revision {revision}: withdrawn: {}", list(&rollout["reasons"]))?;
            return match rollout["rolled_back"].as_i64() {
                Some(back) => write!(f, "\nrolled back at revision {back}"),
                None => Ok(()),
            };
        }
        if let Some(rollout) = self.rollouts.iter().find(|it| it["stage"] == "in_canary") {
            return match &*list(&rollout["canary"]) {
                "" => write!(f, "revision {revision}: on its way to the canary"),
                canary => write!(f, "revision {revision}: in the canary: {canary}"),
            };
        }
        if !self.is_published {
            return write!(f, "revision {revision}: not published yet");
        }
        let settled = self.count(&["settled", "draining"]);
        write!(f, "revision {revision}: settled at {settled} of {all} clients")?;
        match self.count(&["rejected"]) {
            0 => Ok(()),
            rejected => write!(f, ", rejected by {rejected}"),
        }
    }
}

fn wait(remote: &Remote, waiting: &Waiting, revision: i64) -> Result<Progress, CommandError> {
    let start = Instant::now();
    let mut shown = String::new();
    loop {
        let progress = Progress::look(remote, waiting, revision)?;
        if progress.is_over() || start.elapsed() > waiting.timeout {
            return Ok(progress);
        }
        let text = progress.to_string();
        if text != shown {
            writeln!(io::stderr(), "{text}")?;
            shown = text;
        }
        std::thread::sleep(LOOK);
    }
}

/// Shows how the resources of files differ from what is stored.
pub fn diff(arguments: &Diff) -> Done {
    let transaction = sources::transaction(&arguments.sources)?;
    let remote = Remote::new(&arguments.remote)?;
    let differences = Difference::all(&remote, &transaction)?;
    let text: String = differences.iter().map(ToString::to_string).collect();
    let json = differences.iter().map(Difference::json).collect();
    if arguments.remote.output == Output::Json || !text.is_empty() {
        print(arguments.remote.output, text.trim_end(), &json)?;
    }
    if differences.is_empty() { Ok(()) } else { Err(CommandError::Differs) }
}

/// Shows what a server has.
pub fn get(arguments: &Get) -> Done {
    let which = arguments.which.as_deref();
    let named = |list: &str| {
        which.map_or_else(|| list.to_owned(), |which| format!("{list}/{}", escape(which)))
    };
    let path = match (arguments.what, which) {
        (What::Services, Some(_)) => named("/api/v1/services"),
        (What::Services, None) => "/api/v1/services/".to_owned(),
        (What::Fleets, _) => named("/api/v1/fleets"),
        (What::Routes, _) => named("/api/v1/routes"),
        (What::Certificates, _) => named("/api/v1/certificates"),
        (What::Clients, _) => named("/xds/clients"),
        (What::Resources, Some(scope)) => {
            let content = arguments.remote.output == Output::Json;
            format!("/api/v1/xds/scopes/{}/resources?content={content}", escape(scope))
        }
        (What::Resources, None) => {
            let why = "resources are of a scope: deltaplane get resources SCOPE; deltaplane get scopes lists them";
            return Err(CommandError::Usage(why.to_owned()));
        }
        (What::Scopes, None) => "/api/v1/xds/scopes".to_owned(),
        (What::Stats, None) => "/xds/stats".to_owned(),
        (What::Audit, None) => "/api/v1/audit".to_owned(),
        (What::Scopes | What::Stats | What::Audit, Some(which)) => {
            let why = format!("there is one list of these; leave {which:?} out");
            return Err(CommandError::Usage(why));
        }
    };
    let answer = Remote::new(&arguments.remote)?.get(&path)?;
    print(arguments.remote.output, &table::of(arguments.what, &answer), &answer)
}

/// Shows who is connected, once or again and again.
pub fn status(arguments: &StatusOptions) -> Done {
    let remote = Remote::new(&arguments.remote)?;
    if !arguments.watch {
        return show_status(&remote, arguments);
    }
    loop {
        if io::stdout().is_terminal() {
            // Away with what is there, and up to the first line.
            write!(io::stdout(), "\x1b[2J\x1b[H")?;
        }
        match show_status(&remote, arguments) {
            // It may come back.
            Err(CommandError::Remote(error)) => writeln!(io::stdout(), "{error}")?,
            shown => shown?,
        }
        std::thread::sleep(arguments.interval);
    }
}

fn show_status(remote: &Remote, arguments: &StatusOptions) -> Done {
    let query = arguments.scope.as_deref().map(|scope| format!("?scope={}", escape(scope)));
    let clients = remote.get(&format!("/xds/clients{}", query.unwrap_or_default()))?;
    let stats = remote.get("/xds/stats")?;
    let text = table::status(&stats, &clients);
    let (revision, update) = (&stats["revision"], &stats["last_update"]);
    let rollouts = &stats["rollouts"];
    let json = json!({"revision": revision, "last_update": update, "rollouts": rollouts,
                      "clients": clients});
    print(arguments.remote.output, &text, &json)
}

pub(crate) fn print(output: Output, text: &str, json: &Value) -> Done {
    let mut stdout = io::stdout().lock();
    match output {
        Output::Text => writeln!(stdout, "{text}")?,
        Output::Json => writeln!(stdout, "{json:#}")?,
    }
    Ok(stdout.flush()?)
}
