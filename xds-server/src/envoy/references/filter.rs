//! Filters: each has its configuration in it, or gets it by ECDS under its own name.

use deltaplane_core::TypeUrl;
use prost::Message;

use super::{Any, ConfigSource, Found};

/// `envoy.config.listener.v3.Filter`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct NetworkFilter {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "4")]
    typed_config: Option<Any>,
    #[prost(message, optional, tag = "5")]
    discovery: Option<ExtensionConfigSource>,
}

impl NetworkFilter {
    /// Adds the name of its configuration, or else hands that out.
    pub(super) fn refer(self, found: &mut Found) -> Option<Any> {
        refer_to_config(self.name, self.discovery, found);
        self.typed_config
    }
}

/// `envoy.config.listener.v3.ListenerFilter`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ListenerFilter {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "3")]
    typed_config: Option<Any>,
    #[prost(message, optional, tag = "5")]
    discovery: Option<ExtensionConfigSource>,
}

impl ListenerFilter {
    /// Adds the name of its configuration, or else hands that out.
    pub(super) fn refer(self, found: &mut Found) -> Option<Any> {
        refer_to_config(self.name, self.discovery, found);
        self.typed_config
    }
}

/// `HttpFilter` of `envoy.extensions.filters.network.http_connection_manager.v3`, whose configuration is
/// not read.
#[derive(Clone, PartialEq, Message)]
pub(super) struct HttpFilter {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "5")]
    discovery: Option<ExtensionConfigSource>,
}

impl HttpFilter {
    pub(super) fn refer(self, found: &mut Found) {
        refer_to_config(self.name, self.discovery, found);
    }
}

/// `envoy.config.cluster.v3.Filter`, whose configuration is not read.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ClusterFilter {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "3")]
    discovery: Option<ExtensionConfigSource>,
}

impl ClusterFilter {
    pub(super) fn refer(self, found: &mut Found) {
        refer_to_config(self.name, self.discovery, found);
    }
}

#[derive(Clone, PartialEq, Message)]
struct ExtensionConfigSource {
    #[prost(message, optional, tag = "1")]
    source: Option<ConfigSource>,
}

fn refer_to_config(name: String, discovery: Option<ExtensionConfigSource>, found: &mut Found) {
    if let Some(source) = discovery.and_then(|discovery| discovery.source) {
        found.add_from(&source, TypeUrl::EXTENSION_CONFIG, name);
    }
}
