//! A clock that jumps.

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::machine::installed;

/// What brings the library.
const PACKAGE: &str = "libfaketime";

/// What a process takes for the time of day, by libfaketime. By what it measures how long something takes, goes on
/// as it is.
#[derive(Debug)]
pub struct Clock {
    library: PathBuf,
    folder: TempDir,
}

impl Clock {
    /// One that is right.
    pub fn new() -> Clock {
        let folder = tempfile::tempdir().expect("a folder for temporary files can be made");
        let clock = Clock { library: installed(PACKAGE, library), folder };
        clock.is_ahead_by_hours(0);
        clock
    }

    /// It jumps there; behind, if that is negative.
    pub fn is_ahead_by_hours(&self, hours: i64) {
        // It is read again whenever somebody asks for the time: so it is replaced at one moment.
        let new = self.folder.path().join("new");
        fs::write(&new, format!("{:+}\n", 3600 * hours)).expect("a folder can be written to");
        fs::rename(new, self.file()).expect("a file can be renamed where it is");
    }

    /// What a process has it by.
    pub fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("LD_PRELOAD", self.library.clone().into()),
            ("FAKETIME_TIMESTAMP_FILE", self.file().into()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            // What is shared by all that run by such a clock, and left behind by who is killed.
            ("FAKETIME_DISABLE_SHM", "1".into()),
            // The times of files are as they are.
            ("NO_FAKE_STAT", "1".into()),
        ]
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("clock")
    }
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::new()
    }
}

/// Where Debian has it, for programs with threads.
fn library() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|file| file.exists())
}
