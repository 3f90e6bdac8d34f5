//! Who takes part: how each is built, and how it is started.

use std::{
    env,
    ffi::OsString,
    fs::File,
    io,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use clap::ValueEnum;
use deltaplane_benches::{
    Result,
    cluster::Variant,
    control::{Command as Order, Control},
    usage,
};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub(crate) enum Kind {
    /// HTTP/2 alone.
    Floor,
    /// Ours.
    Deltaplane,
    /// go-control-plane's snapshot cache.
    GoSnapshot,
    /// go-control-plane's linear cache.
    GoLinear,
}

impl Kind {
    /// Everybody.
    pub(crate) const ALL: &[Self] =
        &[Self::Floor, Self::Deltaplane, Self::GoSnapshot, Self::GoLinear];
    /// Who knows of names.
    pub(crate) const SERVERS: &[Self] = &[Self::Deltaplane, Self::GoSnapshot, Self::GoLinear];
    /// Who is quick enough for long rows.
    pub(crate) const LEAN: &[Self] = &[Self::Floor, Self::Deltaplane];
    /// Who alone can do it.
    pub(crate) const OURS: &[Self] = &[Self::Deltaplane];

    /// What the report calls it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Deltaplane => "Deltaplane",
            Self::GoSnapshot => "go-control-plane, snapshot",
            Self::GoLinear => "go-control-plane, linear",
        }
    }

    /// What makes it, and in which folder, if cargo did not make it with the rest of the benchmark.
    fn recipe(self) -> Option<(&'static str, Vec<OsString>)> {
        match self {
            Self::Floor | Self::Deltaplane => None,
            Self::GoSnapshot | Self::GoLinear => {
                let output = peers().join("go").into();
                Some(("go", vec!["go".into(), "build".into(), "-o".into(), output, ".".into()]))
            }
        }
    }

    /// Builds it.
    pub(crate) async fn build(self) -> Result<()> {
        let Some((folder, words)) = self.recipe() else { return Ok(()) };
        let [program, arguments @ ..] = &words[..] else { return Ok(()) };
        std::fs::create_dir_all(peers())?;
        let built = Command::new(program)
            .args(arguments)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(folder))
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| format!("{}: {error}", program.display()))?;
        if built.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&built.stderr);
        Err(format!("it does not build: {}", text.lines().last().unwrap_or_default()).into())
    }

    fn command(self, grpc: u16, http: u16, variant: Variant) -> Command {
        let (grpc, http) = (grpc.to_string(), http.to_string());
        let mut command = match self {
            Self::Floor => Command::new(binaries().join("fleet-floor")),
            Self::Deltaplane => Command::new(binaries().join("fleet-server")),
            Self::GoSnapshot | Self::GoLinear => Command::new(peers().join("go")),
        };
        command.args(["--grpc", &grpc, "--http", &http]);
        match self {
            Self::Floor if variant == Variant::Sotw => command.args(["--variant", "sotw"]),
            Self::GoSnapshot => command.args(["--cache", "snapshot"]),
            Self::GoLinear => command.args(["--cache", "linear"]),
            _ => &mut command,
        };
        command
    }
}

/// Where cargo put this program, and its siblings.
pub(crate) fn binaries() -> PathBuf {
    let own = env::current_exe().unwrap_or_default();
    own.parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Where the others' programs are put.
fn peers() -> PathBuf {
    binaries().join("../peers")
}

/// A port that was free a moment ago; not every contestant can tell which it was given.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A contestant that runs; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    process: Child,
    pub(crate) pid: u32,
    pub(crate) grpc: u16,
    pub(crate) http: u16,
}

/// How long it may take to start: a virtual machine takes its time.
const START: Duration = Duration::from_secs(30);

impl Running {
    /// Starts a contestant.
    pub(crate) async fn start(kind: Kind, variant: Variant) -> Result<Self> {
        let (grpc, http) = (free_port()?, free_port()?);
        std::fs::create_dir_all(peers())?;
        let log = File::create(peers().join(format!("{kind:?}.log")))?;
        let process = kind
            .command(grpc, http, variant)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let pid = process.id().ok_or("it ended at once")?;
        let mut running = Self { process, pid, grpc, http };
        let start = Instant::now();
        while Control::connect(http).await.is_err() {
            if let Some(status) = running.process.try_wait()? {
                return Err(format!("it ended at once, {status}").into());
            }
            if start.elapsed() > START {
                return Err("it does not start".into());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(running)
    }

    /// Tells it to load so many clusters.
    pub(crate) async fn load(&self, resources: usize) -> Result<()> {
        Control::connect(self.http).await?.tell(Order::Load(resources)).await
    }

    /// Its CPU time so far, in seconds.
    pub(crate) fn cpu(&self) -> Result<f64> {
        let nanoseconds = usage::cpu(self.pid).map_err(|error| format!("it is gone: {error}"))?;
        Ok(nanoseconds as f64 / 1e9)
    }

    /// Its memory, in bytes.
    pub(crate) fn memory(&self) -> Result<f64> {
        Ok(usage::memory(self.pid).map_err(|error| format!("it is gone: {error}"))? as f64)
    }

    /// Ends it, and returns when it is gone.
    pub(crate) async fn stop(mut self) {
        // If it cannot be killed, it is gone.
        let _ = self.process.kill().await;
    }
}
