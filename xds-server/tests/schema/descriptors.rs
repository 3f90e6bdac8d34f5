//! The descriptors of the Envoy API are those of the protos in the package of `envoy-types`.

use std::{env, fs};

use deltaplane_server::{TypeUrl, envoy::descriptors};

use crate::protos;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/envoy/descriptors.binpb.zlib");

#[test]
fn the_descriptors_are_those_of_the_protos() {
    // With options, without comments.
    let made = protos::pool().encode_to_vec();
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
