//! The protos of the Envoy API, which lie in the package of `envoy-types`, compiled.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, OnceLock},
    thread,
};

use protox::{
    Compiler, Error,
    file::{ChainFileResolver, File, FileResolver, GoogleFileResolver},
    prost_reflect::DescriptorPool,
};

/// A file in which protox reads a relative name differently from protoc. To protox all packages of
/// imported files, and of those that they import, are in sight, and a package's first part decides
/// where it is looked for: here `common` is `envoy.extensions.clusters.common`, which is only imported
/// by an import. protoc looks at the file's own imports. An absolute name means the same to both.
const AMBIGUOUS: (&str, &str, &str) = (
    "envoy/extensions/clusters/dynamic_forward_proxy/v3/cluster.proto",
    " common.dynamic_forward_proxy.v3.DnsCacheConfig ",
    " .envoy.extensions.common.dynamic_forward_proxy.v3.DnsCacheConfig ",
);

/// The protos by the names under which they import each other.
struct Protos(Arc<BTreeMap<String, File>>);

impl FileResolver for Protos {
    fn open_file(&self, name: &str) -> Result<File, Error> {
        self.0.get(name).cloned().ok_or_else(|| Error::file_not_found(name))
    }
}

/// The names of the protos by folder, which is by package.
fn folders(protos: &BTreeMap<String, File>) -> BTreeMap<&str, Vec<&str>> {
    let mut folders = BTreeMap::<_, Vec<_>>::new();
    for name in protos.keys() {
        let (folder, _) = name.rsplit_once('/').unwrap();
        folders.entry(folder).or_default().push(name.as_str());
    }
    folders
}

/// All protos and what they import, each after its imports.
pub(crate) fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| {
        let mut pool = DescriptorPool::new();
        for set in descriptor_sets() {
            pool.decode_file_descriptor_set(&*set).unwrap();
        }
        pool
    })
}

/// An encoded `FileDescriptorSet` for each folder, with what its files import, each after its imports.
///
/// Each folder has a compiler of its own, since protox looks relative names up in all packages that it
/// has seen: `config.core.v3.Address`, used in a package below `envoy.extensions`, is not found as soon
/// as some other file has brought a package `envoy.extensions.config.validators`.
fn descriptor_sets() -> Vec<Vec<u8>> {
    let protos = Arc::new(read_protos(&proto_folder()));
    let compile = |names: &Vec<&str>| {
        let mut resolver = ChainFileResolver::new();
        resolver.add(Protos(Arc::clone(&protos)));
        resolver.add(GoogleFileResolver::new());
        let mut compiler = Compiler::with_file_resolver(resolver);
        compiler.include_imports(true);
        for name in names {
            compiler.open_file(name).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        }
        compiler.encode_file_descriptor_set()
    };
    let folders: Vec<_> = folders(&protos).into_values().collect();
    let (one, other) = folders.split_at(folders.len() / 2);
    let all = |folders: &[Vec<&str>]| folders.iter().map(compile).collect::<Vec<_>>();
    thread::scope(|scope| {
        let other = scope.spawn(|| all(other));
        let mut sets = all(one);
        sets.extend(other.join().unwrap());
        sets
    })
}

fn read_protos(folder: &Path) -> BTreeMap<String, File> {
    let mut protos = BTreeMap::new();
    for root in entries(folder) {
        // Upstream's repository has a folder more than the names of its imports.
        let root = if root.ends_with("cel-spec") { root.join("proto") } else { root };
        read_folder(&root, &root, &mut protos);
    }
    assert!(protos.len() > 400, "only {} protos in {}", protos.len(), folder.display());
    protos
}

fn read_folder(root: &Path, folder: &Path, protos: &mut BTreeMap<String, File>) {
    for path in entries(folder) {
        if path.is_dir() {
            read_folder(root, &path, protos);
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
            let file = File::from_source(&name, &read_source(&name, &path)).unwrap();
            assert!(protos.insert(name, file).is_none(), "{} is there twice", path.display());
        }
    }
}

fn read_source(name: &str, path: &Path) -> String {
    let source = fs::read_to_string(path).unwrap();
    let (ambiguous, relative, absolute) = AMBIGUOUS;
    if name != ambiguous {
        return source;
    }
    assert!(source.contains(relative), "{name} has changed: is it still ambiguous?");
    source.replace(relative, absolute)
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Where Cargo keeps the protos of the `envoy-types` that this crate is built with.
fn proto_folder() -> PathBuf {
    let output = Command::new(env::var_os("CARGO").expect("Cargo runs the tests"))
        .args(["metadata", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let mut found = packages.iter().filter(|package| package["name"] == "envoy-types");
    let package = found.next().expect("a package envoy-types");
    assert!(found.next().is_none(), "several versions of envoy-types");
    Path::new(package["manifest_path"].as_str().unwrap()).with_file_name("proto")
}
