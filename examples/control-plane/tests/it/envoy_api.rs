//! The descriptors of the Envoy API are those of the protos in the package of
//! `envoy-types`.

use std::{env, fs};

use protox::prost_reflect::DescriptorPool;

#[path = "../../../../xds-server/tests/schema/protos.rs"]
mod protos;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/envoy_api.binpb.zlib");

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
    let mut pool = DescriptorPool::new();
    for set in protos::descriptor_sets() {
        pool.decode_file_descriptor_set(&*set).unwrap();
    }
    pool.encode_to_vec()
}
