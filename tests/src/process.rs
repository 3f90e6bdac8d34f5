//! A child process with its log.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::wait_until;

/// How long a process may take to end once it was asked to.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How many lines of its log a process shows when a test failed.
const LAST_LINES: usize = 40;

/// A running program. It is killed when it is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program; what it prints is appended to the file `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Process {
        let file = OpenOptions::new().create(true).append(true).open(log);
        let file = file.expect("a log file can be opened");
        let twin = file.try_clone().expect("an open file can be shared");
        command.stdin(Stdio::null()).stdout(file).stderr(twin);
        let child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        let (name, log) = (name.to_owned(), log.to_owned());
        Process { name, child, log }
    }

    /// All that it printed so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("one may ask for one's own child")
    }

    /// Waits for something that only happens while the process runs.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        patience: Duration,
        mut probe: impl FnMut(&Process) -> Option<T>,
    ) -> T {
        wait_until(what, patience, || {
            let status = self.ended();
            assert!(status.is_none(), "{} ended ({status:?}), before: {what}", self.name);
            probe(self)
        })
    }

    /// Waits for its end.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let what = format!("{} ends", self.name);
        wait_until(&what, PATIENCE, || self.ended())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        // Not waited for, so its id is not another's yet.
        kill_process(Pid::from_child(&self.child), signal).expect("one may signal one's own child");
    }

    fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- the end of the log of {}\n{}", self.name, self.last_words());
        }
        // Fails for what has ended already, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
