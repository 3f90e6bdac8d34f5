//! A disk that can be full.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::machine::{is_root, run};

/// A file system of some megabytes, kept in memory. It goes when it is dropped.
#[derive(Debug)]
pub struct Disk {
    folder: TempDir,
}

impl Disk {
    /// Mounts one.
    ///
    /// # Panics
    /// If that cannot be done: it takes root.
    pub fn of_megabytes(size: usize) -> Disk {
        assert!(is_root(), "only root can mount a disk that is to be full: run the tests as root");
        let folder = tempfile::Builder::new().prefix("deltaplane-disk-").tempdir();
        let folder = folder.expect("a folder for temporary files can be made");
        let options = format!("size={size}m,mode=0755");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(folder.path()));
        Disk { folder }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Takes all the room that there is.
    pub fn fill(&self) {
        let mut file = File::create(self.filler()).expect("there is room for an empty file");
        let error = loop {
            if let Err(error) = file.write_all(&[b'x'; 1 << 16]) {
                break error;
            }
        };
        assert_eq!(error.kind(), ErrorKind::StorageFull, "{error}");
    }

    /// Gives it back.
    pub fn free(&self) {
        fs::remove_file(self.filler()).expect("it was filled before");
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // At once for new files; for those that are open, when they are closed.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}
