//! The file of a SQLite database, which anybody may delete or replace.
//!
//! An open connection does not notice: it goes on with the file that it opened,
//! which nobody else will ever see.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use sqlx::sqlite::SqliteConnectOptions;

/// A file as it was found at some time.
#[derive(Debug)]
pub(crate) struct SqliteFile {
    path: PathBuf,
    /// Its device and inode.
    identity: Option<(u64, u64)>,
}

impl SqliteFile {
    pub(crate) fn of(options: &SqliteConnectOptions) -> SqliteFile {
        let path = options.get_filename().to_owned();
        let identity = identity(&path);
        SqliteFile { path, identity }
    }

    /// Whether the same file is still there.
    pub(crate) fn is_in_place(&self) -> bool {
        self.identity.is_some() && identity(&self.path) == self.identity
    }

    pub(crate) fn check(&self) -> io::Result<()> {
        if self.is_in_place() {
            return Ok(());
        }
        let why = format!("the file {} was deleted or replaced", self.path.display());
        Err(io::Error::new(io::ErrorKind::NotFound, why))
    }
}

fn identity(path: &PathBuf) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
