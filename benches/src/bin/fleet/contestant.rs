//! Who takes part: how each is built, and how it is started.

use std::{
    env,
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

use crate::row::Row;

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
    /// java-control-plane's one cache.
    Java,
    /// rust-control-plane, which has no delta.
    RustControlPlane,
    /// nebucloud-xds.
    Nebucloud,
}

impl Kind {
    /// Everybody.
    pub(crate) const ALL: &[Self] = &[
        Self::Floor,
        Self::Deltaplane,
        Self::GoSnapshot,
        Self::GoLinear,
        Self::Java,
        Self::RustControlPlane,
        Self::Nebucloud,
    ];
    /// Who was seen to serve a fleet, and the floor.
    pub(crate) const SOUND: &[Self] =
        &[Self::Floor, Self::Deltaplane, Self::GoSnapshot, Self::GoLinear, Self::Java];
    /// Who of these knows of names.
    pub(crate) const SERVERS: &[Self] =
        &[Self::Deltaplane, Self::GoSnapshot, Self::GoLinear, Self::Java];
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
            Self::Java => "java-control-plane",
            Self::RustControlPlane => "rust-control-plane",
            Self::Nebucloud => "nebucloud-xds",
        }
    }

    /// Whether its clients must share a node, because it cannot tell by itself that they see the same.
    pub(crate) fn wants_one_node(self) -> bool {
        matches!(self, Self::RustControlPlane | Self::Nebucloud)
    }

    /// The folder that it is made in, and what makes it, if cargo did not make it with the rest.
    fn recipe(self) -> Option<(&'static str, String)> {
        let peers = peers();
        let peers = peers.display();
        let cargo = "cargo build --release --locked --target-dir";
        match self {
            Self::Floor | Self::Deltaplane => None,
            Self::GoSnapshot | Self::GoLinear => Some(("go", format!("go build -o {peers}/go ."))),
            Self::Java => Some(("java", format!("mvn -B -q -Dout={peers}/java process-classes"))),
            Self::RustControlPlane => {
                Some(("rust", format!("{cargo} {peers}/rust -p fleet-rust-control-plane")))
            }
            Self::Nebucloud => {
                Some(("rust", format!("{cargo} {peers}/rust -p fleet-nebucloud-xds")))
            }
        }
    }

    /// Builds it.
    pub(crate) async fn build(self) -> Result<()> {
        let Some((folder, recipe)) = self.recipe() else { return Ok(()) };
        let mut words = recipe.split(' ');
        let Some(program) = words.next() else { return Ok(()) };
        std::fs::create_dir_all(peers())?;
        let built = Command::new(program)
            .args(words)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(folder))
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| format!("{program}: {error}"))?;
        if built.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&built.stderr);
        let is_error = |line: &&str| line.split([':', '[']).any(|word| word.ends_with("rror"));
        let error = text.lines().find(is_error).unwrap_or_default();
        Err(format!("it does not build: {error}").into())
    }

    fn command(self, grpc: u16, http: u16, row: &Row) -> Command {
        let (grpc, http) = (grpc.to_string(), http.to_string());
        let mut command = match self {
            Self::Floor => Command::new(binaries().join("fleet-floor")),
            Self::Deltaplane => Command::new(binaries().join("fleet-server")),
            Self::GoSnapshot | Self::GoLinear => Command::new(peers().join("go")),
            Self::Java => {
                let folder = peers().join("java");
                let folder = folder.display();
                let mut java = Command::new("java");
                java.args([
                    "-cp",
                    &format!("{folder}/classes:{folder}/dependency/*"),
                    "Contestant",
                ]);
                java
            }
            Self::RustControlPlane => {
                Command::new(peers().join("rust/release/fleet-rust-control-plane"))
            }
            Self::Nebucloud => Command::new(peers().join("rust/release/fleet-nebucloud-xds")),
        };
        command.args(["--grpc", &grpc, "--http", &http]);
        if row.tls {
            command.arg("--tls").arg(certificates());
        }
        match self {
            Self::Floor if row.variant == Variant::Sotw => command.args(["--variant", "sotw"]),
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
pub(crate) fn peers() -> PathBuf {
    let binaries = binaries();
    binaries.parent().unwrap_or(&binaries).join("peers")
}

/// Where the certificates are that both sides of a secured row show.
pub(crate) fn certificates() -> PathBuf {
    peers().join("certificates")
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
    pub(crate) async fn start(kind: Kind, row: &Row) -> Result<Self> {
        Self::start_under(kind, row, |command| command).await
    }

    /// Starts a contestant by what a wrapper makes of its command.
    pub(crate) async fn start_under(
        kind: Kind,
        row: &Row,
        wrapper: impl Fn(Command) -> Command,
    ) -> Result<Self> {
        let (grpc, http) = (free_port()?, free_port()?);
        std::fs::create_dir_all(peers())?;
        let log = File::create(peers().join(format!("{kind:?}.log")))?;
        let process = wrapper(kind.command(grpc, http, row))
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

    /// Returns when it has ended by itself.
    pub(crate) async fn ended(mut self) -> Result<()> {
        self.process.wait().await?;
        Ok(())
    }

    /// Ends it, and returns when it is gone.
    pub(crate) async fn stop(mut self) {
        // If it cannot be killed, it is gone.
        let _ = self.process.kill().await;
    }
}
