//! The configuration with which an Envoy finds its control plane.

use std::collections::BTreeSet;
use std::net::IpAddr;

use thiserror::Error;

use crate::cli::{Bootstrap, Variant};

/// What the bootstrap calls the control plane's cluster: a name that no service can have, since Envoy
/// would take the service for it.
pub(crate) const CONTROL_PLANE: &str = "_deltaplane";

const LOAD_REPORTS: &str = "
cluster_manager:
  load_stats_config:
    api_type: GRPC
    transport_api_version: V3
    grpc_services:
    - envoy_grpc: {cluster_name: _deltaplane}
";

/// An address that is none.
#[derive(Debug, Error)]
#[error("{0:?} is no address of a control plane; write --xds-address HOST:PORT")]
pub struct AddressError(String);

/// Writes the bootstrap as YAML.
pub fn yaml(arguments: &Bootstrap) -> Result<String, AddressError> {
    let addresses = arguments.xds_address.iter().map(|address| split(address));
    let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
    let cluster = arguments.cluster.as_ref().unwrap_or(&arguments.node_id);
    let discovery = match addresses.iter().all(|(host, _)| host.parse::<IpAddr>().is_ok()) {
        true => "STATIC",
        false => "STRICT_DNS",
    };
    let api = match arguments.variant {
        Variant::Delta => "DELTA_GRPC",
        Variant::Sotw => "GRPC",
    };
    let (id, cluster) = (quote(&arguments.node_id), quote(cluster));
    let admin_port = arguments.admin_port;
    let loads = if arguments.load_reports { LOAD_REPORTS } else { "" };
    let dynamic = dynamic(api, arguments.separate);
    let tls = tls(arguments, &addresses);
    let endpoints = endpoints(&addresses);
    Ok(format!(
        "\
node:
  id: {id}
  cluster: {cluster}

admin:
  address:
    socket_address: {{address: 127.0.0.1, port_value: {admin_port}}}

{dynamic}{loads}
static_resources:
  clusters:
  - name: {CONTROL_PLANE}
    type: {discovery}
    connect_timeout: 5s
{tls}    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config:
          http2_protocol_options:
            # A control plane that is gone without a word is noticed by this.
            connection_keepalive: {{interval: 30s, timeout: 5s}}
    load_assignment:
      cluster_name: {CONTROL_PLANE}
      endpoints:
      - lb_endpoints:
{endpoints}"
    ))
}

/// Of several servers, Envoy goes to one, and to the next when that is gone.
fn endpoints(addresses: &[(&str, u16)]) -> String {
    let endpoint = |(host, port): &(&str, u16)| {
        let host = quote(host);
        format!(
            "        - endpoint:\n            address:\n              \
             socket_address: {{address: {host}, port_value: {port}}}\n"
        )
    };
    addresses.iter().map(endpoint).collect()
}

/// How the control plane is known to be the right one, and what it is shown.
fn tls(arguments: &Bootstrap, addresses: &[(&str, u16)]) -> String {
    let Some(ca) = &arguments.tls_ca else { return String::new() };
    let names: BTreeSet<&str> = match &arguments.tls_server_name {
        Some(name) => [name.as_str()].into(),
        None => addresses.iter().map(|(host, _)| *host).collect(),
    };
    let kind = |name: &str| match name {
        name if name.parse::<IpAddr>().is_ok() => "IP_ADDRESS",
        name if name.contains("://") => "URI",
        _ => "DNS",
    };
    let mut lines = vec![
        "transport_socket:".to_owned(),
        "  name: envoy.transport_sockets.tls".to_owned(),
        "  typed_config:".to_owned(),
        "    \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
            .to_owned(),
    ];
    // There is one for all of them.
    if let Some(name) = names.iter().find(|name| kind(name) == "DNS") {
        lines.push(format!("    sni: {}", quote(name)));
    }
    lines.push("    common_tls_context:".to_owned());
    if let (Some(certificate), Some(key)) = (&arguments.tls_cert, &arguments.tls_key) {
        lines.extend([
            "      tls_certificates:".to_owned(),
            format!("      - certificate_chain: {{filename: {}}}", quote(certificate)),
            format!("        private_key: {{filename: {}}}", quote(key)),
        ]);
    }
    lines.extend([
        "      validation_context:".to_owned(),
        format!("        trusted_ca: {{filename: {}}}", quote(ca)),
        "        match_typed_subject_alt_names:".to_owned(),
    ]);
    lines.extend(names.iter().map(|name| {
        format!("        - {{san_type: {}, matcher: {{exact: {}}}}}", kind(name), quote(name))
    }));
    lines.iter().map(|line| format!("    {line}\n")).collect()
}

/// One stream for all, or one for each.
fn dynamic(api: &str, separate: bool) -> String {
    let source = [
        format!("api_type: {api}"),
        "transport_api_version: V3".to_owned(),
        "# Without this, each request carries 60 KiB of Envoy's extensions.".to_owned(),
        "set_node_on_first_message_only: true".to_owned(),
        "grpc_services:".to_owned(),
        format!("- envoy_grpc: {{cluster_name: {CONTROL_PLANE}}}"),
    ];
    let below = |indent: &str| -> String {
        source.iter().map(|line| format!("{indent}{line}\n")).collect()
    };
    let mut yaml = String::from("dynamic_resources:\n");
    if !separate {
        yaml += "  ads_config:\n";
        yaml += &below("    ");
    }
    for kind in ["cds_config", "lds_config"] {
        if separate {
            yaml += &format!("  {kind}:\n    resource_api_version: V3\n    api_config_source:\n");
            yaml += &below("      ");
        } else {
            yaml += &format!("  {kind}: {{resource_api_version: V3, ads: {{}}}}\n");
        }
    }
    yaml
}

fn split(address: &str) -> Result<(&str, u16), AddressError> {
    let wrong = || AddressError(address.to_owned());
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = bare.unwrap_or(host);
    if crate::service::host::parse(host).is_err() {
        return Err(wrong());
    }
    Ok((host, port))
}

/// A JSON string is a YAML string, whatever is in it.
fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
