//! The descriptors of the Envoy API are those of the protos in the package of
//! `envoy-types`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::{env, fs};

use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use protox::prost_reflect::DescriptorPool;
use protox::{Compiler, Error};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/envoy_api.binpb.zlib");

/// `xds-server/tests/schema/protos.rs` says why: protox reads the relative name
/// differently from protoc, and the absolute one alike.
const AMBIGUOUS: (&str, &str, &str) = (
    "envoy/extensions/clusters/dynamic_forward_proxy/v3/cluster.proto",
    " common.dynamic_forward_proxy.v3.DnsCacheConfig ",
    " .envoy.extensions.common.dynamic_forward_proxy.v3.DnsCacheConfig ",
);

#[test]
fn the_descriptors_are_those_of_the_protos() {
    let made = descriptors();
    if env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(FILE, miniz_oxide::deflate::compress_to_vec_zlib(&made, 10)).unwrap();
    }
    let kept = miniz_oxide::inflate::decompress_to_vec_zlib(&fs::read(FILE).unwrap());
    assert!(
        kept.is_ok_and(|kept| kept == made),
        "src/envoy_api.binpb.zlib is not what the protos of envoy-types say; update it by\n\
         UPDATE_SCHEMA=1 cargo test -p deltaplane --test it envoy_api"
    );
}

/// A `FileDescriptorSet` of all protos and what they import, each after its
/// imports, with options and without comments.
fn descriptors() -> Vec<u8> {
    let protos = Arc::new(protos());
    let mut folders = BTreeMap::<_, Vec<_>>::new();
    for name in protos.keys() {
        folders.entry(name.rsplit_once('/').unwrap().0).or_default().push(name);
    }
    let mut pool = DescriptorPool::new();
    // protox looks relative names up in all packages that it has seen; a
    // compiler for each folder sees none that it should not.
    for names in folders.values() {
        let mut resolver = ChainFileResolver::new();
        resolver.add(Protos(Arc::clone(&protos)));
        resolver.add(GoogleFileResolver::new());
        let mut compiler = Compiler::with_file_resolver(resolver);
        compiler.include_imports(true);
        for name in names {
            compiler.open_file(name).unwrap_or_else(|error| panic!("{name}: {error:?}"));
        }
        pool.decode_file_descriptor_set(&*compiler.encode_file_descriptor_set()).unwrap();
    }
    pool.encode_to_vec()
}

/// The protos by the names under which they import each other.
struct Protos(Arc<BTreeMap<String, File>>);

impl FileResolver for Protos {
    fn open_file(&self, name: &str) -> Result<File, Error> {
        self.0.get(name).cloned().ok_or_else(|| Error::file_not_found(name))
    }
}

fn protos() -> BTreeMap<String, File> {
    let mut protos = BTreeMap::new();
    for root in entries(&proto_folder()) {
        // Upstream's repository has a folder more than the names of its imports.
        let root = if root.ends_with("cel-spec") { root.join("proto") } else { root };
        read_folder(&root, &root, &mut protos);
    }
    protos
}

fn read_folder(root: &Path, folder: &Path, protos: &mut BTreeMap<String, File>) {
    for path in entries(folder) {
        if path.is_dir() {
            read_folder(root, &path, protos);
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            let mut source = fs::read_to_string(&path).unwrap();
            let (ambiguous, relative, absolute) = AMBIGUOUS;
            if name == ambiguous {
                source = source.replace(relative, absolute);
            }
            let file = File::from_source(&name, &source).unwrap();
            protos.insert(name, file);
        }
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

/// Where Cargo keeps the protos of the `envoy-types` that this is built with.
fn proto_folder() -> PathBuf {
    let output = Command::new(env::var_os("CARGO").expect("Cargo runs the tests"))
        .args(["metadata", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let package = packages.iter().find(|package| package["name"] == "envoy-types").unwrap();
    Path::new(package["manifest_path"].as_str().unwrap()).with_file_name("proto")
}
