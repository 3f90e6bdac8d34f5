//! The descriptors of the Envoy API are those of the protos in the package of `envoy-types`.

use std::{env, fs};

use deltaplane_server::{TypeUrl, envoy::descriptors};
use protox::prost_reflect::DescriptorPool;

use crate::protos;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/envoy/descriptors.binpb.zlib");

#[test]
fn the_descriptors_are_those_of_the_protos() {
    let made = made();
    if env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(FILE, miniz_oxide::deflate::compress_to_vec_zlib(&made, 10)).unwrap();
    }
    let kept = miniz_oxide::inflate::decompress_to_vec_zlib(&fs::read(FILE).unwrap());
    assert!(
        kept.is_ok_and(|kept| kept == made),
        "src/envoy/descriptors.binpb.zlib is not what the protos of envoy-types say; update it by\n\
         UPDATE_SCHEMA=1 cargo test -p deltaplane-server --test schema"
    );
}

#[test]
fn the_descriptors_know_the_types_and_where_they_have_their_names() {
    let endpoints = descriptors::message(&TypeUrl::ENDPOINT).unwrap();
    let name = descriptors::name_field(&TypeUrl::ENDPOINT).unwrap();
    assert!(endpoints.get_field_by_name(name).is_some());
    assert!(descriptors::message("type.googleapis.com/of.somebody.Else").is_none());
    assert!(descriptors::name_field("type.googleapis.com/of.somebody.Else").is_none());
}

/// A `FileDescriptorSet` of all protos and what they import, each after its imports, with options and
/// without comments.
fn made() -> Vec<u8> {
    let mut pool = DescriptorPool::new();
    for set in protos::descriptor_sets() {
        pool.decode_file_descriptor_set(&*set).unwrap();
    }
    pool.encode_to_vec()
}
