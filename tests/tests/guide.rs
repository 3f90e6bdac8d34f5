//! The guide, as somebody follows it who does all that it says, and the library's example, as its page has it.

#![allow(missing_docs, clippy::expect_used, clippy::unwrap_used)]

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use deltaplane_tests::machine::{exclusively, forget_package, read, run, target_dir};
use deltaplane_tests::process::Process;
use deltaplane_tests::{Envoy, http, port, server, wait_until};
use rustix::process::Signal;

/// How long, in seconds, it takes at most. Whatever still runs then is ended, too.
const PATIENCE: &str = "180";

/// Where the page says that its files lie.
const TARGET: &str = "target/guide";

/// How the page builds the program, and how it is built for the tests: with that, nothing is built twice.
const BUILD: &str = "cargo build -p deltaplane\n";
const BUILD_AS_TESTED: &str = "cargo build --workspace --bin deltaplane --examples\n";

/// What is written between the output of two blocks.
const MARK: &str = "-- the end of block";

/// Some commands, and what of their output the page shows.
struct Block<'a> {
    commands: &'a str,
    output: &'a str,
}

#[test]
fn every_command_does_what_the_page_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let ports = Ports::reserve();
    let page = ports.in_place_of_the_named(&read(&root.join("examples/control-plane/GUIDE.md")));
    assert!(page.contains(BUILD), "{page}");
    let page = page.replace(BUILD, BUILD_AS_TESTED);
    let blocks = blocks(&page);
    assert!(blocks.len() > 10, "{}", blocks.len());
    let place = tempfile::tempdir().expect("a folder for temporary files can be made");
    let [script, output, log] = ["script", "output", "log"].map(|name| place.path().join(name));
    fs::write(&script, script_of(&blocks)).expect("a folder can be written to");
    // Of all that runs in the background nothing is left behind, however it ends.
    let mut bash = Command::new("timeout");
    bash.args(["--kill-after=10", PATIENCE, "bash"]).arg(&script).current_dir(&root);
    bash.env("CARGO_TARGET_DIR", target_dir()).env("PATH", path()).env("NO_PROXY", "127.0.0.1");
    forget_package(&mut bash);
    ports.tell(&mut bash);
    bash.stdout(File::create(&output).unwrap()).stderr(File::create(&log).unwrap());
    let status = exclusively("guide", || {
        clear(&root.join(TARGET));
        bash.status().expect("bash can be run")
    });
    let (output, log) = (read(&output), read(&log));
    assert!(status.success(), "{status}\n{output}\n{log}");
    let outputs: Vec<&str> = output.split(MARK).collect();
    assert_eq!(outputs.len(), blocks.len() + 1, "{output}\n{log}");
    for (block, output) in blocks.iter().zip(outputs) {
        for line in block.output.lines() {
            assert!(
                output.contains(line),
                "{line:?} in what this prints:\n{}{output}\n{log}",
                block.commands
            );
        }
    }
}

#[test]
fn an_envoy_is_served_by_the_example() {
    const PATIENCE: Duration = Duration::from_secs(20);
    let folder = tempfile::tempdir().expect("a folder for temporary files can be made");
    let port = port::reserve();
    let mut example = server::example("serve");
    example.args(["127.0.0.1:0", &port.to_string()]);
    let mut example = Process::start("the example", &mut example, &folder.path().join("log"));
    let address = example.wait_until("the example serves", PATIENCE, |process| {
        let log = process.log();
        log.lines().find_map(|line| line.strip_prefix("serving at ")).map(str::to_owned)
    });
    let arguments = ["bootstrap", "--node-id", "envoy-1", "--xds-address", &address];
    let envoy = Envoy::start(&run(server::deltaplane().args(arguments)));
    wait_until("Envoy answers", PATIENCE, || {
        let answer = http::get(&format!("http://127.0.0.1:{port}/")).ok()?;
        (answer.body == "hello\n").then_some(())
    });
    drop(envoy);
    example.signal(Signal::INT);
    assert!(example.wait_for_end().success());
}

/// Where programs are found: what was built for the tests goes first, wherever that is.
fn path() -> OsString {
    let program = server::deltaplane();
    let folder = Path::new(program.get_program()).parent().unwrap().to_owned();
    let others = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(std::iter::once(folder).chain(std::env::split_paths(&others))).unwrap()
}

/// What an earlier run left behind, but for what was installed.
fn clear(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true if path.ends_with("python") => {}
            true => fs::remove_dir_all(path).unwrap(),
            false => fs::remove_file(path).unwrap(),
        }
    }
}

/// The ports that the page names may be others' here; these are free.
struct Ports([(&'static str, u16); 6]);

impl Ports {
    fn reserve() -> Ports {
        let named = ["8080", "8081", "10000", "10001", "18000", "19000"];
        Ports(named.map(|named| (named, port::reserve())))
    }

    fn in_place_of_the_named(&self, page: &str) -> String {
        // In two steps, since the digits of one may be in another.
        let places = self.0.iter().enumerate();
        let page = places.fold(page.to_owned(), |page, (i, (named, _))| {
            page.replace(named, &format!("\u{1}{i}\u{2}"))
        });
        let places = self.0.iter().enumerate();
        places.fold(page, |page, (i, (_, port))| {
            page.replace(&format!("\u{1}{i}\u{2}"), &port.to_string())
        })
    }

    /// Tells the commands those that the page leaves to their defaults.
    fn tell(&self, command: &mut Command) {
        let [.., (_, xds), (_, http)] = self.0;
        command.env("XDS_GRPC_PORT", xds.to_string()).env("XDS_HTTP_PORT", http.to_string());
        command.env("XDS_ADDRESS", format!("127.0.0.1:{xds}"));
        command.env("DELTAPLANE_SERVER", format!("http://127.0.0.1:{http}"));
    }
}

/// Each block of commands, with the text that stands behind it.
fn blocks(page: &str) -> Vec<Block<'_>> {
    let blocks = page.split("```sh\n").skip(1);
    let block = |block| {
        let (commands, rest): (&str, &str) = str::split_once(block, "```").unwrap();
        let output = rest.trim_start().strip_prefix("```text\n");
        let output = output.and_then(|output| output.split("```").next()).unwrap_or_default();
        Block { commands, output }
    };
    blocks.map(block).collect()
}

/// The last block ends what runs; if an earlier one fails, that is ended as well.
fn script_of(blocks: &[Block<'_>]) -> String {
    let mut script =
        "set -euo pipefail\ntrap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n".to_owned();
    for block in blocks {
        script += block.commands;
        script += &format!("echo '{MARK}'\n");
    }
    script
}
