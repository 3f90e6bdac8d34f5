//! What `deploy` holds, as far as it can be tried on any machine.

#![allow(missing_docs, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use deltaplane_tests::machine::{installed, run};
use deltaplane_tests::server::deltaplane;

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/control-plane/deploy").join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(deploy(name)).expect("it is there")
}

#[test]
fn systemd_accepts_the_unit() {
    let verify = installed("systemd", || {
        let program = Path::new("/usr/bin/systemd-analyze");
        program.exists().then_some(program)
    });
    let folder = tempfile::tempdir().expect("a folder for temporary files can be made");
    let unit = folder.path().join("deltaplane.service");
    let program = deltaplane().get_program().to_string_lossy().into_owned();
    // It looks whether the program is there.
    let text = read("deltaplane.service");
    assert!(text.contains("/usr/local/bin/deltaplane "), "{text}");
    let text = text.replace("/usr/local/bin/deltaplane ", &format!("{program} "));
    fs::write(&unit, text).expect("a folder can be written to");
    let output = Command::new(verify).arg("verify").arg(&unit).output().expect("it can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.trim().is_empty(), "{}: {said}", output.status);
}

#[test]
fn the_example_of_a_file_of_settings_is_read() {
    is_read("deltaplane.yaml");
}

#[test]
fn the_settings_of_the_image_are_read() {
    is_read("container.yaml");
}

fn is_read(settings: &str) {
    let folder = tempfile::tempdir().expect("a folder for temporary files can be made");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("some port is free");
    let taken = taken.local_addr().expect("it is bound").to_string();
    // It gets as far as the address that is taken, on the way to which the file is read.
    let mut serve = deltaplane();
    serve.current_dir(&folder).args(["serve", "--xds-listen", &taken, "--config"]);
    let output = serve.arg(deploy(settings)).output().expect("it can be run");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains(&taken), "{said}");
}

#[test]
fn the_envoy_of_the_compose_file_starts_with_a_bootstrap_of_ours() {
    let arguments = ["--node-id", "envoy", "--cluster", "cluster-1", "--load-reports"];
    let address = ["--xds-address", "deltaplane:18000"];
    let bootstrap = run(deltaplane().arg("bootstrap").args(arguments).args(address));
    assert_eq!(read("envoy.yaml"), bootstrap);
}
