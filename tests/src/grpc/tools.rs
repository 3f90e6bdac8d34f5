//! The gRPC clients' libraries: each in a folder under cargo's own, installed from its registry if what
//! is there is not exactly what the manifest says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::machine::{self, exclusively, folder, read, run, target_dir};

/// The folder of the client program in this language.
pub fn sources(language: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(language)
}

/// Python with grpcio, to be given the path of a script.
pub fn python() -> Command {
    static PACKAGES: OnceLock<PathBuf> = OnceLock::new();
    let requirements = sources("python").join("requirements.txt");
    machine::python(PACKAGES.get_or_init(|| machine::python_packages("grpc-python", &requirements)))
}

/// Node with grpc-js, to be given the path of a script.
pub fn node() -> Command {
    static PACKAGES: OnceLock<PathBuf> = OnceLock::new();
    let packages = PACKAGES.get_or_init(|| {
        needs("npm", "--version");
        let manifests = ["package.json", "package-lock.json", ".npmrc"];
        let manifests = manifests.map(|name| sources("node").join(name));
        let wanted = manifests.each_ref().map(|path| read(path)).concat();
        folder("grpc-node", &wanted, |folder| {
            for manifest in &manifests {
                let name = manifest.file_name().expect("a manifest has a name");
                fs::copy(manifest, folder.join(name)).expect("a manifest can be copied");
            }
            let clean = ["ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"];
            run(Command::new("npm").args(clean).current_dir(folder));
        })
    });
    let mut node = Command::new("node");
    node.env("NODE_PATH", packages.join("node_modules"));
    node
}

/// The client program with grpc-go.
pub fn go() -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    Command::new(PROGRAM.get_or_init(|| {
        needs("go", "version");
        let program = target_dir().join("tools").join("grpc-go");
        exclusively("grpc-go", || {
            // It knows by itself when there is nothing to do.
            let mut go = Command::new("go");
            go.args(["build", "-trimpath", "-mod=readonly", "-o"]).arg(&program).arg(".");
            run(go.current_dir(sources("go")));
        });
        program
    }))
}

/// A tool that calls any gRPC service of which it can ask how it looks.
pub fn grpcurl() -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    const MODULE: &str = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4";
    let folder = PROGRAM.get_or_init(|| {
        needs("go", "version");
        folder("grpcurl", MODULE, |folder| {
            run(Command::new("go").args(["install", MODULE]).env("GOBIN", folder));
        })
    });
    Command::new(folder.join("grpcurl"))
}

fn needs(program: &str, version: &str) {
    let found = Command::new(program).arg(version).output().is_ok_and(|it| it.status.success());
    assert!(found, "with all-clients, the tests need {program}: README names the versions");
}
