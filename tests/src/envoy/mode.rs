//! The ways in which an Envoy can be told to get its configuration.

use deltaplane_server::Variant;
use deltaplane_server::envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ApiConfigSource, ApiVersion, ConfigSource, GrpcService,
    api_config_source::ApiType,
    config_source::ConfigSourceSpecifier,
    grpc_service::{EnvoyGrpc, TargetSpecifier},
};
use serde_json::{Value, json};

/// What the bootstrap calls the control plane's cluster.
const CONTROL_PLANE: &str = "xds";

/// The runtime layer that an Envoy asks its control plane for.
pub const RUNTIME_LAYER: &str = "flags";

/// A protocol, and the streams that it is spoken on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mode {
    /// Which protocol.
    pub variant: Variant,
    /// All types share one stream. Otherwise Envoy opens one for each subscription: one for CDS, and
    /// one for each cluster's endpoints.
    pub aggregated: bool,
}

impl Mode {
    /// All of them.
    pub const ALL: [Mode; 4] = [
        Mode { variant: Variant::Delta, aggregated: true },
        Mode { variant: Variant::Delta, aggregated: false },
        Mode { variant: Variant::Sotw, aggregated: true },
        Mode { variant: Variant::Sotw, aggregated: false },
    ];

    /// Those where all types share one stream, on which alone there can be an order among them.
    pub const AGGREGATED: [Mode; 2] = [Mode::ALL[0], Mode::ALL[2]];

    /// What it is called; the node of an Envoy that is the only one has this name, too.
    pub fn name(self) -> String {
        let streams = if self.aggregated { "ads" } else { "separate" };
        format!("{:?}-{streams}", self.variant).to_lowercase()
    }

    /// What a resource, or the bootstrap, says of where another resource comes from.
    pub fn source(self) -> ConfigSource {
        let specifier = if self.aggregated {
            ConfigSourceSpecifier::Ads(AggregatedConfigSource {})
        } else {
            ConfigSourceSpecifier::ApiConfigSource(self.api())
        };
        ConfigSource {
            resource_api_version: ApiVersion::V3 as i32,
            config_source_specifier: Some(specifier),
            ..ConfigSource::default()
        }
    }

    fn api(self) -> ApiConfigSource {
        let envoy = EnvoyGrpc { cluster_name: CONTROL_PLANE.into(), ..EnvoyGrpc::default() };
        let target_specifier = Some(TargetSpecifier::EnvoyGrpc(envoy));
        ApiConfigSource {
            api_type: self.api_type() as i32,
            transport_api_version: ApiVersion::V3 as i32,
            grpc_services: vec![GrpcService { target_specifier, ..GrpcService::default() }],
            ..ApiConfigSource::default()
        }
    }

    fn api_type(self) -> ApiType {
        if self.variant == Variant::Delta { ApiType::DeltaGrpc } else { ApiType::Grpc }
    }

    /// With what an Envoy starts whose control plane is on this port. JSON is YAML, too.
    ///
    /// It sends its node in every request, as it does unless it is told not to.
    pub fn bootstrap(self, control_plane: u16) -> String {
        self.bootstrap_of(&self.name(), control_plane)
    }

    /// The same for an Envoy whose node has another name.
    pub fn bootstrap_of(self, node: &str, control_plane: u16) -> String {
        let api = json!({
            "api_type": self.api_type().as_str_name(),
            "transport_api_version": "V3",
            "grpc_services": [{"envoy_grpc": {"cluster_name": CONTROL_PLANE}}],
        });
        let mut source = json!({"resource_api_version": "V3"});
        let mut dynamic = json!({});
        if self.aggregated {
            source["ads"] = json!({});
            dynamic["ads_config"] = api;
        } else {
            source["api_config_source"] = api;
        }
        dynamic["cds_config"] = source.clone();
        dynamic["lds_config"] = source.clone();
        let layers = json!([
            {"name": RUNTIME_LAYER, "rtds_layer": {"name": RUNTIME_LAYER, "rtds_config": source}},
        ]);
        json!({
            "node": {"id": node, "cluster": "tests"},
            "admin": {"address": address(0)},
            "dynamic_resources": dynamic,
            "layered_runtime": {"layers": layers},
            "cluster_manager": {"load_stats_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": CONTROL_PLANE}}],
            }},
            "static_resources": {"clusters": [cluster(control_plane)]},
        })
        .to_string()
    }
}

fn cluster(port: u16) -> Value {
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    json!({
        "name": CONTROL_PLANE,
        "typed_extension_protocol_options": {options: {
            "@type": format!("type.googleapis.com/{options}"),
            "explicit_http_config": {"http2_protocol_options": {}},
        }},
        "load_assignment": {
            "cluster_name": CONTROL_PLANE,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(port)}}]}],
        },
    })
}

fn address(port: u16) -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": port}})
}
