//! What the database held when it was read last, in a file: a server starts from it when its database is down.
//!
//! It is as it is in the database: private keys are sealed there and here, and nothing is that is not there. But
//! of a fleet with a canary it is what all of the fleet are served, and not what nobody is served any more, or yet.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::canary::unserved::set_aside;
use crate::database::changes::Snapshot;
use crate::database::objects::Object;
use crate::raw::{RawChange, RawKey, RawResource};
use crate::serve::running::Running;
use crate::service::Row;
use crate::status::health::Status;

/// What such a file begins with; the number is that of its form.
const MAGIC: &str = "deltaplane last known good 1";

/// How long after a change it is written, so that what comes with it is in it.
const QUIET: Duration = Duration::from_secs(1);

/// It is written so seldom that this times what it takes lies between.
const SHARE: u32 = 20;

/// How long until what failed is tried again.
const RETRY: Duration = Duration::from_secs(10);

/// Why a file is of no use.
#[derive(Debug, Error)]
#[error("the last known good state in {} {why}", .path.display())]
pub(crate) struct KeptError {
    path: PathBuf,
    why: String,
}

/// A file for what was read last.
#[derive(Clone, Debug)]
pub(crate) struct Keeper(PathBuf);

/// What is in it.
#[derive(Serialize, Deserialize)]
struct Kept {
    revision: i64,
    clusters: Vec<i64>,
    rows: Vec<Row>,
    raw_scopes: Vec<String>,
    raw: Vec<KeptResource>,
    objects: Vec<KeptObject>,
}

#[derive(Serialize, Deserialize)]
struct KeptResource {
    scope: String,
    type_url: String,
    name: String,
    revision: i64,
    label: Option<String>,
    version: Option<String>,
    value: String,
}

#[derive(Serialize, Deserialize)]
struct KeptObject {
    kind: String,
    name: String,
    revision: i64,
    definition: String,
}

impl Keeper {
    pub(crate) fn new(path: &Path) -> Keeper {
        Keeper(path.to_owned())
    }

    /// What was kept; nothing, if nothing was.
    pub(crate) fn load(&self) -> Result<Option<Snapshot>, KeptError> {
        let fail = |why: String| KeptError { path: self.0.clone(), why };
        let bytes = match fs::read(&self.0) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fail(format!("cannot be read: {error}"))),
        };
        let corrupt = |what: &str| {
            fail(format!("is not used, since {what}; delete it, and the next good one is written"))
        };
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (head, body) = bytes.split_at(end.ok_or_else(|| corrupt("it has no first line"))?);
        let (head, body) = (String::from_utf8_lossy(head), body.get(1..).unwrap_or_default());
        let sum = head.strip_prefix(MAGIC).ok_or_else(|| corrupt("its form is not known here"))?;
        if sum.trim() != checksum(body) {
            return Err(corrupt("it is not as it was written"));
        }
        let kept: Kept =
            serde_json::from_slice(body).map_err(|error| corrupt(&error.to_string()))?;
        kept.snapshot().ok_or_else(|| corrupt("a value in it is no base64")).map(Some)
    }

    /// Writes all of it beside the file, and puts it in its place at one moment.
    fn store(&self, snapshot: Snapshot) -> io::Result<()> {
        let body = serde_json::to_vec(&Kept::of(snapshot))?;
        let name = self.0.file_name().unwrap_or_default().to_string_lossy();
        let aside = self.0.with_file_name(format!(".{name}.new"));
        if let Err(error) = write(&aside, &body).and_then(|()| fs::rename(&aside, &self.0)) {
            // Half of it is good for nobody, and may be the last that there was room for.
            let _ = fs::remove_file(&aside);
            return Err(error);
        }
        let folder = self.0.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }

    /// Keeps the file as what is served, for ever. While the database is away, the file stays as it is.
    pub(crate) async fn keep(self, running: Running) {
        let mut health = running.health.watch();
        // What was read and, of those who are not served all of that, what they are served.
        let mut kept: Option<(i64, BTreeMap<String, i64>)> = None;
        loop {
            let is_new = |status: &Status| {
                let is_kept = kept
                    .as_ref()
                    .is_some_and(|(read, behind)| *read == status.read && *behind == status.behind);
                status.is_loaded && status.trouble.is_none() && !is_kept
            };
            if health.wait_for(is_new).await.is_err() {
                return;
            }
            tokio::time::sleep(QUIET).await;
            let (start, status) = (Instant::now(), running.health.status());
            match self.update(&running, &status).await {
                Ok(()) => {
                    running.health.update(|status| status.unkept = None);
                    kept = Some((status.read, status.behind));
                    tokio::time::sleep(start.elapsed() * SHARE).await;
                }
                Err(error) => {
                    let path = self.0.display();
                    tracing::warn!(%error, %path, "the last known good state cannot be written");
                    running.health.update(|status| status.unkept = Some(error.to_string()));
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Writes what is stored now. What came after the status, fleets with a canary may not be served yet.
    async fn update(&self, running: &Running, status: &Status) -> io::Result<()> {
        let Running { store, fleets, .. } = running;
        let mut snapshot = store.snapshot().await.map_err(io::Error::other)?;
        let served = fleets.fleets();
        let served = served.keys().map(|fleet| (fleet.clone(), status.served(fleet)));
        let behind = served.filter(|(_, revision)| *revision < snapshot.revision).collect();
        set_aside(store, fleets, behind, &mut snapshot).await.map_err(io::Error::other)?;
        let keeper = self.clone();
        let written = tokio::task::spawn_blocking(move || keeper.store(snapshot)).await;
        written.map_err(io::Error::other)?
    }
}

/// Writes a file that only its owner may read, and waits until it is on the disk.
fn write(path: &Path, body: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.create(true).truncate(true).write(true).mode(0o600).open(path)?;
    writeln!(file, "{MAGIC} {}", checksum(body))?;
    file.write_all(body)?;
    file.sync_all()
}

fn checksum(bytes: &[u8]) -> String {
    let sum = digest(&SHA256, bytes);
    sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Kept {
    fn of(snapshot: Snapshot) -> Kept {
        let Snapshot { revision, clusters, rows, raw_scopes, raw, objects } = snapshot;
        let raw = raw.into_iter().filter_map(KeptResource::of).collect();
        let object = |Object { kind, name, revision, definition }| KeptObject {
            kind,
            name,
            revision,
            definition,
        };
        let objects = objects.into_iter().map(object).collect();
        Kept { revision, clusters, rows, raw_scopes, raw, objects }
    }

    fn snapshot(self) -> Option<Snapshot> {
        let Kept { revision, clusters, rows, raw_scopes, raw, objects } = self;
        let raw = raw.into_iter().map(KeptResource::change).collect::<Option<_>>()?;
        let object = |KeptObject { kind, name, revision, definition }| Object {
            kind,
            name,
            revision,
            definition,
        };
        let objects = objects.into_iter().map(object).collect();
        Some(Snapshot { revision, clusters, rows, raw_scopes, raw, objects })
    }
}

impl KeptResource {
    fn of(change: RawChange) -> Option<KeptResource> {
        let RawChange { scope, key: RawKey { type_url, name }, revision, label, resource } = change;
        let RawResource { version, value, .. } = resource?;
        let value = STANDARD.encode(&value);
        Some(KeptResource { scope, type_url, name, revision, label, version, value })
    }

    fn change(self) -> Option<RawChange> {
        let KeptResource { scope, type_url, name, revision, label, version, value } = self;
        let key = RawKey { type_url, name };
        let value = STANDARD.decode(value).ok()?.into();
        let resource = Some(RawResource { key: key.clone(), version, value });
        Some(RawChange { scope, key, revision, label, resource })
    }
}
