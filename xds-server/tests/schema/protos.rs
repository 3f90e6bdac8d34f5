//! The schema of the Envoy API, made from the protos that lie in the package of `envoy-types`.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use protox::{
    Compiler, Error,
    file::{ChainFileResolver, File, FileResolver, GoogleFileResolver},
    prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor},
};

const ANY: &str = "google.protobuf.Any";

/// A file in which protox reads a relative name differently from protoc. To protox all packages of
/// imported files, and of those that they import, are in sight, and a package's first part decides
/// where it is looked for: here `common` is `envoy.extensions.clusters.common`, which is only imported
/// by an import. protoc looks at the file's own imports. An absolute name means the same to both.
const AMBIGUOUS: (&str, &str, &str) = (
    "envoy/extensions/clusters/dynamic_forward_proxy/v3/cluster.proto",
    " common.dynamic_forward_proxy.v3.DnsCacheConfig ",
    " .envoy.extensions.common.dynamic_forward_proxy.v3.DnsCacheConfig ",
);

/// A message's fields that are messages or maps, by number: whether it is a map, and what message the
/// field or the map's values are, if any.
type Fields = BTreeMap<u32, (bool, Option<String>)>;

/// The text of the schema.
pub(crate) fn schema_text() -> String {
    let mut text = String::from(
        "# The maps in the Envoy API, and the messages through which they are reached.\n\
         # Made by `UPDATE_SCHEMA=1 cargo test -p deltaplane-server --test schema` from the protos\n\
         # of envoy-types. `deltaplane_core::Schema::parse` documents the format.\n",
    );
    let mut messages = messages();
    let structural = reaching_a_map(&messages);
    messages.retain(|name, _| name != ANY && structural.contains(name));
    for (name, fields) in messages {
        text.push_str(&name);
        for (number, (is_map, message)) in fields {
            let message = message.filter(|message| structural.contains(message));
            match (is_map, message) {
                (false, None) => {}
                (false, Some(message)) => text.push_str(&format!(" {number}={message}")),
                (true, None) => text.push_str(&format!(" {number}=map")),
                (true, Some(message)) => text.push_str(&format!(" {number}=map:{message}")),
            }
        }
        text.push('\n');
    }
    text
}

/// `Any`, the messages that have a map, and those that hold one of these, however deep.
fn reaching_a_map(messages: &BTreeMap<String, Fields>) -> BTreeSet<String> {
    let mut reaching = BTreeSet::from([ANY.to_owned()]);
    loop {
        let before = reaching.len();
        for (name, fields) in messages {
            let reaches = |(is_map, message): &(bool, Option<String>)| {
                *is_map || message.as_ref().is_some_and(|message| reaching.contains(message))
            };
            if fields.values().any(reaches) {
                reaching.insert(name.clone());
            }
        }
        if reaching.len() == before {
            return reaching;
        }
    }
}

/// All messages of all protos, with those that they import from protobuf itself.
fn messages() -> BTreeMap<String, Fields> {
    let protos = Arc::new(read_protos(&proto_folder()));
    let mut messages = BTreeMap::new();
    for folder in folders(&protos).values() {
        for message in compile(&protos, folder).all_messages() {
            if !message.is_map_entry() {
                messages.insert(message.full_name().to_owned(), fields(&message));
            }
        }
    }
    messages
}

fn fields(message: &MessageDescriptor) -> Fields {
    let message_of = |field: &FieldDescriptor| match field.kind() {
        Kind::Message(message) => Some(message.full_name().to_owned()),
        _ => None,
    };
    let field = |field: FieldDescriptor| {
        assert!(!field.is_group(), "{}: groups cannot be hashed", field.full_name());
        let Kind::Message(entry) = field.kind() else {
            return None;
        };
        let held = match field.is_map() {
            true => message_of(&entry.map_entry_value_field()),
            false => message_of(&field),
        };
        Some((field.number(), (field.is_map(), held)))
    };
    message.fields().filter_map(field).collect()
}

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

/// Each folder has a compiler of its own, since protox looks relative names up in all packages that it
/// has seen: `config.core.v3.Address`, used in a package below `envoy.extensions`, is not found as soon
/// as some other file has brought a package `envoy.extensions.config.validators`.
fn compile(protos: &Arc<BTreeMap<String, File>>, names: &[&str]) -> DescriptorPool {
    let mut resolver = ChainFileResolver::new();
    resolver.add(Protos(Arc::clone(protos)));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    for name in names {
        compiler.open_file(name).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    }
    compiler.descriptor_pool()
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
