//! A program that is talked with, a line at a time.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// How long a program may think about a line; it sets itself shorter deadlines.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running program. It is killed when it is dropped, and would also end with its input.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    input: ChildStdin,
    output: Receiver<String>,
}

impl Program {
    /// Starts it. What it has to say besides its answers goes where the test's own words go.
    pub fn start(name: &str, command: &mut Command) -> Program {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).env("no_proxy", "127.0.0.1");
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        let input = child.stdin.take().expect("it was started with a pipe");
        let stdout = child.stdout.take().expect("it was started with a pipe");
        let (lines, output) = channel();
        thread::spawn(move || {
            let mut answers = BufReader::new(stdout).lines().map_while(Result::ok);
            answers.try_for_each(|line| lines.send(line))
        });
        Program { name: name.to_owned(), child, input, output }
    }

    /// Says a line, and returns the line that is the answer.
    pub fn ask(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").unwrap_or_else(|error| panic!("{}: {error}", self.name));
        let answer = self.output.recv_timeout(PATIENCE);
        answer.unwrap_or_else(|error| panic!("{} has no answer to {line:?}: {error}", self.name))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Fails for what has ended already, which is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
