//! Under which conditions it was measured: at which commit, on what, and of which versions. All of it is read.

use std::{fs, process::Command};

use crate::contestant::Kind;

const GO: &str = include_str!("../../../peers/go/go.mod");
const JAVA: &str = include_str!("../../../peers/java/pom.xml");
const NEBUCLOUD: &str = include_str!("../../../peers/rust/nebucloud-xds/Cargo.toml");
const RUST_CONTROL_PLANE: &str = include_str!("../../../peers/rust/rust-control-plane/Cargo.toml");
const OURS: &str = include_str!("../../../../Cargo.lock");

/// What this program writes: if it differs from what was committed, what is measured does not.
const WRITTEN: [&str; 2] = [":(top,exclude)benches/*.md", ":(top,exclude)benches/*.svg"];

/// At which commit, and on what.
pub(crate) fn place() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("commit {}, {}, Linux {}", commit(), cpu(), kernel.trim())
}

fn commit() -> String {
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    let status = ["status", "--porcelain", "--untracked-files=no", "--"];
    match git(&[&status[..], &WRITTEN].concat()).as_deref() {
        Some("") => commit,
        _ => format!("{commit} with changes"),
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let mut git = Command::new("git");
    let output = git.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = after(&text, "model name", "\n").map(|rest| rest.trim_matches([':', ' ', '\t']));
    model.unwrap_or("a CPU without a name").to_owned()
}

/// What a contestant is made of, and of which version that is.
pub(crate) fn version(kind: Kind) -> Option<String> {
    let of = |name: &str, version: Option<&str>| Some(format!("{name} {}", version?));
    match kind {
        Kind::Floor => {
            let [hyper, h2] = ["hyper", "h2"].map(|name| of(name, locked(name)));
            Some(format!("{}, {}", hyper?, h2?))
        }
        Kind::Deltaplane => of("deltaplane-server", locked("deltaplane-server")),
        Kind::GoSnapshot | Kind::GoLinear => {
            let modules = ["github.com/envoyproxy/go-control-plane", "google.golang.org/grpc"];
            let version = |module| of(module, after(GO, &format!("\t{module} "), "\n"));
            let [cache, grpc] = modules.map(version);
            Some(format!("{}, {}", cache?, grpc?))
        }
        Kind::Java => {
            let dependency = after(JAVA, "<artifactId>server</artifactId>", "</dependency>")?;
            of("io.envoyproxy.controlplane:server", after(dependency, "<version>", "</version>"))
        }
        Kind::RustControlPlane => {
            of("rust-control-plane", after(RUST_CONTROL_PLANE, "\nrust-control-plane = \"=", "\""))
        }
        Kind::Nebucloud => of("nebucloud-xds", after(NEBUCLOUD, "\nnebucloud-xds = \"=", "\"")),
    }
}

/// The version of a package of ours, or that it is built with.
fn locked(name: &str) -> Option<&'static str> {
    let package = after(OURS, &format!("\nname = \"{name}\"\n"), "\n\n")?;
    after(package, "version = \"", "\"")
}

/// What stands between the first of these and the next end.
fn after<'a>(text: &'a str, first: &str, end: &str) -> Option<&'a str> {
    Some(text.split_once(first)?.1.split_once(end)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_version() {
        for kind in Kind::ALL {
            let version = version(*kind).unwrap_or_default();
            let last = version.rsplit(' ').next().unwrap_or_default();
            let digits = last.trim_start_matches('v');
            assert!(digits.starts_with(|c: char| c.is_ascii_digit()), "{kind:?}: {version:?}");
        }
        let ours = version(Kind::Deltaplane).unwrap_or_default();
        assert!(ours.ends_with(env!("CARGO_PKG_VERSION")), "{ours}");
    }

    #[test]
    fn the_place_is_told() {
        let place = place();
        assert!(place.starts_with("commit ") && !place.ends_with("Linux "), "{place}");
    }
}
