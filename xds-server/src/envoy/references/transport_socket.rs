//! Transport sockets, and the secrets that TLS takes.

use deltaplane_core::TypeUrl;
use prost::Message;

use super::{Any, ConfigSource, Found, Refers};

/// As many sockets as are looked for within sockets. There are not so many kinds that hold others.
const LAYERS: usize = 8;

/// `envoy.config.core.v3.TransportSocket`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TransportSocket {
    #[prost(message, optional, tag = "3")]
    typed_config: Option<Any>,
}

impl TransportSocket {
    /// Adds the secrets that it takes, or that the socket takes which it holds.
    pub(super) fn refer(self, found: &mut Found) {
        let mut socket = Some(self);
        for _ in 0..LAYERS {
            let Some(config) = socket.and_then(|socket| socket.typed_config) else { return };
            socket = refer_by_socket(&config, found);
        }
    }
}

/// Adds the secrets that a socket with this configuration takes, or gives the socket that it holds.
fn refer_by_socket(config: &Any, found: &mut Found) -> Option<TransportSocket> {
    match config.message_name().strip_prefix("envoy.extensions.transport_sockets.")? {
        "tls.v3.UpstreamTlsContext" => config.refer::<UpstreamTlsContext>(found),
        "tls.v3.DownstreamTlsContext" => config.refer::<DownstreamTlsContext>(found),
        "quic.v3.QuicUpstreamTransport" => config.refer::<QuicUpstream>(found),
        "quic.v3.QuicDownstreamTransport" => config.refer::<QuicDownstream>(found),
        "starttls.v3.UpstreamStartTlsConfig" => config.refer::<StartTlsUpstream>(found),
        "starttls.v3.StartTlsConfig" => config.refer::<StartTlsDownstream>(found),
        "http_11_proxy.v3.Http11ProxyUpstreamTransport" | "tcp_stats.v3.Config" => {
            return config.decode::<HoldsFirst>().socket;
        }
        "proxy_protocol.v3.ProxyProtocolUpstreamTransport" | "tap.v3.Tap" => {
            return config.decode::<HoldsSecond>().socket;
        }
        "internal_upstream.v3.InternalUpstreamTransport" => {
            return config.decode::<HoldsThird>().socket;
        }
        _ => {}
    }
    None
}

/// The configuration of a socket which holds another, in that field.
macro_rules! holds_socket {
    ($($name:ident: $tag:literal),* $(,)?) => {
        $(#[derive(Clone, PartialEq, Message)]
        struct $name {
            #[prost(message, optional, tag = $tag)]
            socket: Option<TransportSocket>,
        })*
    };
}

holds_socket! { HoldsFirst: "1", HoldsSecond: "2", HoldsThird: "3" }

/// The configuration of a socket which has that of TLS in it, in that field.
macro_rules! holds_tls {
    ($($name:ident: $tls:ty, $tag:literal;)*) => {
        $(#[derive(Clone, PartialEq, Message)]
        struct $name {
            #[prost(message, optional, tag = $tag)]
            tls: Option<$tls>,
        }

        impl Refers for $name {
            fn refer(self, found: &mut Found) {
                self.tls.unwrap_or_default().refer(found);
            }
        })*
    };
}

holds_tls! {
    QuicUpstream: UpstreamTlsContext, "1";
    QuicDownstream: DownstreamTlsContext, "1";
    StartTlsUpstream: UpstreamTlsContext, "2";
    StartTlsDownstream: DownstreamTlsContext, "2";
}

#[derive(Clone, PartialEq, Message)]
struct UpstreamTlsContext {
    #[prost(message, optional, tag = "1")]
    common: Option<CommonTlsContext>,
}

impl Refers for UpstreamTlsContext {
    fn refer(self, found: &mut Found) {
        self.common.unwrap_or_default().refer(found);
    }
}

#[derive(Clone, PartialEq, Message)]
struct DownstreamTlsContext {
    #[prost(message, optional, tag = "1")]
    common: Option<CommonTlsContext>,
    #[prost(message, optional, tag = "5")]
    session_ticket_keys: Option<SdsSecretConfig>,
}

impl Refers for DownstreamTlsContext {
    fn refer(self, found: &mut Found) {
        self.common.unwrap_or_default().refer(found);
        self.session_ticket_keys.unwrap_or_default().refer(found);
    }
}

#[derive(Clone, PartialEq, Message)]
struct CommonTlsContext {
    #[prost(message, repeated, tag = "6")]
    certificates: Vec<SdsSecretConfig>,
    #[prost(message, optional, tag = "7")]
    validation: Option<SdsSecretConfig>,
    #[prost(message, optional, tag = "8")]
    combined_validation: Option<CombinedValidation>,
}

#[derive(Clone, PartialEq, Message)]
struct CombinedValidation {
    #[prost(message, optional, tag = "2")]
    secret: Option<SdsSecretConfig>,
}

impl CommonTlsContext {
    fn refer(self, found: &mut Found) {
        let combined = self.combined_validation.and_then(|combined| combined.secret);
        let validation = self.validation.into_iter().chain(combined);
        self.certificates.into_iter().chain(validation).for_each(|secret| secret.refer(found));
    }
}

#[derive(Clone, PartialEq, Message)]
struct SdsSecretConfig {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    source: Option<ConfigSource>,
}

impl SdsSecretConfig {
    fn refer(self, found: &mut Found) {
        // Without a source, it is in the client's bootstrap.
        if let Some(source) = self.source {
            found.add_from(&source, TypeUrl::SECRET, self.name);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use deltaplane_core::Key;
    use envoy_types::pb::{
        envoy::{
            config::core::v3::{
                ConfigSource, TransportSocket as EnvoySocket, transport_socket::ConfigType,
            },
            extensions::transport_sockets::{
                http_11_proxy::v3::Http11ProxyUpstreamTransport,
                internal_upstream::v3::InternalUpstreamTransport,
                proxy_protocol::v3::ProxyProtocolUpstreamTransport,
                quic::v3::{QuicDownstreamTransport, QuicUpstreamTransport},
                starttls::v3::{StartTlsConfig, UpstreamStartTlsConfig},
                tap::v3::Tap,
                tcp_stats,
                tls::v3::{
                    CommonTlsContext, DownstreamTlsContext, SdsSecretConfig, UpstreamTlsContext,
                    common_tls_context::{
                        CombinedCertificateValidationContext, ValidationContextType,
                    },
                    downstream_tls_context::SessionTicketKeysType,
                },
            },
        },
        google::protobuf::BoolValue,
    };
    use prost::Name;

    use super::{
        super::tests::{ads, file, keys, pack},
        *,
    };

    pub(in super::super) fn socket<M: Message + Name>(config: &M) -> EnvoySocket {
        let config_type = Some(ConfigType::TypedConfig(pack(config)));
        EnvoySocket { name: "socket".into(), config_type }
    }

    fn secret(name: &str, source: Option<ConfigSource>) -> SdsSecretConfig {
        SdsSecretConfig { name: name.into(), sds_config: source }
    }

    fn common(names: &[&str], validation: Option<ValidationContextType>) -> CommonTlsContext {
        let secrets = names.iter().map(|name| secret(name, Some(ads())));
        CommonTlsContext {
            tls_certificate_sds_secret_configs: secrets.collect(),
            validation_context_type: validation,
            ..CommonTlsContext::default()
        }
    }

    /// TLS that takes that certificate, from there.
    #[expect(deprecated)]
    pub(in super::super) fn upstream(
        name: &str,
        source: Option<ConfigSource>,
    ) -> UpstreamTlsContext {
        let common = CommonTlsContext {
            tls_certificate_sds_secret_configs: vec![secret(name, source)],
            ..CommonTlsContext::default()
        };
        UpstreamTlsContext {
            common_tls_context: Some(common),
            // A field of another type than the one of that number in the downstream's.
            enforce_rsa_key_usage: Some(BoolValue { value: true }),
            ..UpstreamTlsContext::default()
        }
    }

    pub(in super::super) fn downstream(name: &str) -> DownstreamTlsContext {
        let common_tls_context = Some(common(&[name], None));
        DownstreamTlsContext { common_tls_context, ..DownstreamTlsContext::default() }
    }

    fn found_in(socket: &EnvoySocket) -> Found {
        let mut found = Found::default();
        TransportSocket::decode(&*socket.encode_to_vec()).unwrap().refer(&mut found);
        found
    }

    fn secrets(socket: &EnvoySocket) -> Vec<Key> {
        found_in(socket).references
    }

    fn secret_keys<const N: usize>(names: [&str; N]) -> Vec<Key> {
        keys(&TypeUrl::SECRET, names)
    }

    #[test]
    fn tls_takes_certificates_validation_contexts_and_ticket_keys() {
        let validation =
            ValidationContextType::ValidationContextSdsSecretConfig(secret("ca", Some(ads())));
        let context = DownstreamTlsContext {
            common_tls_context: Some(common(&["a", "b"], Some(validation))),
            session_ticket_keys_type: Some(
                SessionTicketKeysType::SessionTicketKeysSdsSecretConfig(secret(
                    "keys",
                    Some(ads()),
                )),
            ),
            ..DownstreamTlsContext::default()
        };
        assert_eq!(secrets(&socket(&context)), secret_keys(["a", "b", "ca", "keys"]));

        let combined = CombinedCertificateValidationContext {
            validation_context_sds_secret_config: Some(secret("ca", Some(ads()))),
            ..CombinedCertificateValidationContext::default()
        };
        let validation = ValidationContextType::CombinedValidationContext(combined);
        let context = UpstreamTlsContext {
            common_tls_context: Some(common(&["a"], Some(validation))),
            ..UpstreamTlsContext::default()
        };
        assert_eq!(secrets(&socket(&context)), secret_keys(["a", "ca"]));
    }

    #[test]
    fn secrets_that_this_server_does_not_deliver_are_left_out() {
        // In the bootstrap: there is nothing to wait for.
        let found = found_in(&socket(&upstream("a", None)));
        assert_eq!((found.references, found.needs_others), (vec![], false));
        let found = found_in(&socket(&upstream("a", Some(file()))));
        assert_eq!((found.references, found.needs_others), (vec![], true));
        let found = found_in(&socket(&upstream("a", Some(ads()))));
        assert_eq!((found.references, found.needs_others), (secret_keys(["a"]), false));
    }

    #[test]
    fn sockets_hold_others() {
        let up = || Some(upstream("a", Some(ads())));
        let down = || Some(downstream("a"));
        let tls = || Some(socket(&upstream("a", Some(ads()))));
        for socket in [
            socket(&QuicUpstreamTransport { upstream_tls_context: up() }),
            socket(&QuicDownstreamTransport {
                downstream_tls_context: down(),
                ..Default::default()
            }),
            socket(&UpstreamStartTlsConfig { tls_socket_config: up(), ..Default::default() }),
            socket(&StartTlsConfig { tls_socket_config: down(), ..Default::default() }),
            socket(&Http11ProxyUpstreamTransport { transport_socket: tls(), ..Default::default() }),
            socket(&tcp_stats::v3::Config { transport_socket: tls(), ..Default::default() }),
            socket(&ProxyProtocolUpstreamTransport {
                transport_socket: tls(),
                ..Default::default()
            }),
            socket(&Tap { transport_socket: tls(), ..Default::default() }),
            socket(&InternalUpstreamTransport { transport_socket: tls(), ..Default::default() }),
        ] {
            assert_eq!(secrets(&socket), secret_keys(["a"]), "{socket:?}");
        }
    }

    #[test]
    fn sockets_within_sockets_have_an_end() {
        let nested = |layers| {
            let tls = socket(&upstream("a", Some(ads())));
            (0..layers).fold(tls, |inner, _| {
                socket(&Tap { transport_socket: Some(inner), ..Default::default() })
            })
        };
        assert_eq!(secrets(&nested(LAYERS - 1)), secret_keys(["a"]));
        assert_eq!(secrets(&nested(LAYERS)), []);
    }
}
