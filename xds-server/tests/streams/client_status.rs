//! Client status discovery (CSDS).

use std::time::Duration;

use deltaplane_server::{
    Pace, TypeUrl, Variant, envoy,
    envoy_types::pb::{
        envoy::{
            config::{
                cluster::v3::Cluster,
                core::v3::{DataSource, Node, TransportSocket, data_source::Specifier},
            },
            extensions::transport_sockets::tls::v3::{
                CommonTlsContext, Secret, TlsCertificate, UpstreamTlsContext, secret,
            },
            service::status::v3::{
                ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus,
                client_config::GenericXdsConfig,
                client_status_discovery_service_client::ClientStatusDiscoveryServiceClient,
            },
            r#type::matcher::v3::{
                DoubleMatcher, NodeMatcher, RegexMatcher, StringMatcher, StructMatcher,
                ValueMatcher, string_matcher::MatchPattern, struct_matcher::PathSegment,
                struct_matcher::path_segment::Segment, value_matcher,
            },
        },
        google::protobuf::{Any, Struct, Value, value::Kind},
    },
    testing::{Connection, ModelClient},
};
use prost::{Message as _, Name as _};
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::{Code, Status, transport::Channel};

use crate::served::{CDS, Served, cluster, next, serve, serve_with};

type Csds = ClientStatusDiscoveryServiceClient<Channel>;

async fn connect(served: &Served, node: Node) -> ModelClient<Connection> {
    let node = Node { cluster: "c".into(), ..node };
    ModelClient::connect(served.channel().await, node, Variant::Delta).await.unwrap()
}

fn node(id: &str) -> Node {
    Node { id: id.into(), ..Node::default() }
}

async fn fetch(csds: &mut Csds, request: ClientStatusRequest) -> Vec<ClientConfig> {
    csds.fetch_client_status(request).await.unwrap().into_inner().config
}

async fn csds(served: &Served) -> Csds {
    Csds::new(served.channel().await)
}

/// Waits until a resource of the only client stands so.
async fn stands(csds: &mut Csds, name: &str, status: ConfigStatus) -> GenericXdsConfig {
    let mut last = Vec::new();
    let found = async {
        loop {
            last = fetch(csds, ClientStatusRequest::default()).await;
            let configs = last.iter().flat_map(|client| &client.generic_xds_configs);
            let mut configs = configs.filter(|config| config.name == name);
            if let Some(found) = configs.find(|config| config.config_status() == status) {
                return found.clone();
            }
        }
    };
    match timeout(Duration::from_secs(10), found).await {
        Ok(found) => found,
        Err(_) => panic!("{name} is not {status:?}, but {last:#?}"),
    }
}

fn shown(any: Option<&Any>) -> String {
    Cluster::decode(&*any.unwrap().value).unwrap().alt_stat_name
}

#[tokio::test]
async fn c01_each_request_on_a_stream_is_answered_once() {
    let served = serve().await;
    let mut client = connect(&served, node("n")).await;
    client.subscribe(CDS, &[]);
    served.heard.expect("n: subscribed Cluster").await;
    let requests = tokio_stream::iter([ClientStatusRequest::default(), by_id(exact("other"))]);
    let requests = requests.chain(tokio_stream::pending());
    let mut answers =
        csds(&served).await.stream_client_status(requests).await.unwrap().into_inner();
    let [first, second] =
        [next(&mut answers).await, next(&mut answers).await].map(|answer| answer.unwrap().unwrap());
    let ids = |answer: &ClientStatusResponse| {
        let nodes = answer.config.iter().map(|client| client.node.clone().unwrap().id);
        nodes.collect::<Vec<_>>()
    };
    assert_eq!((ids(&first), ids(&second)), (vec!["n".to_owned()], vec![]));
}

fn exact(text: &str) -> MatchPattern {
    MatchPattern::Exact(text.into())
}

fn by_id(pattern: MatchPattern) -> ClientStatusRequest {
    let node_id = Some(StringMatcher { match_pattern: Some(pattern), ignore_case: false });
    let node_matchers = vec![NodeMatcher { node_id, ..NodeMatcher::default() }];
    ClientStatusRequest { node_matchers, ..ClientStatusRequest::default() }
}

fn by_metadata(path: &[&str], value: value_matcher::MatchPattern) -> ClientStatusRequest {
    let step = |key: &&str| PathSegment { segment: Some(Segment::Key((*key).to_owned())) };
    let matcher = StructMatcher {
        path: path.iter().map(step).collect(),
        value: Some(ValueMatcher { match_pattern: Some(value) }),
    };
    let node_matchers = vec![NodeMatcher { node_id: None, node_metadatas: vec![matcher] }];
    ClientStatusRequest { node_matchers, ..ClientStatusRequest::default() }
}

#[tokio::test]
async fn c02_nodes_are_chosen_by_matchers_and_unknown_ones_are_refused() {
    let served = serve().await;
    let value = |kind| Value { kind: Some(kind) };
    let inner =
        Struct { fields: [("zone".to_owned(), value(Kind::StringValue("east".into())))].into() };
    let fields = [
        ("where".to_owned(), value(Kind::StructValue(inner))),
        ("canary".to_owned(), value(Kind::BoolValue(true))),
    ];
    let metadata = Some(Struct { fields: fields.into() });
    let mut clients = Vec::new();
    for node in [Node { metadata, ..node("n1") }, node("n2"), node("x.3")] {
        let mut client = connect(&served, node.clone()).await;
        client.subscribe(CDS, &[]);
        served.heard.expect(&format!("{}: subscribed Cluster", node.id)).await;
        clients.push(client);
    }
    let mut csds = csds(&served).await;
    let mut ask = async |request| -> Result<String, Status> {
        let answer = csds.fetch_client_status(request).await?.into_inner();
        let ids = answer.config.into_iter().map(|client| client.node.unwrap().id);
        Ok(ids.collect::<Vec<_>>().join(" "))
    };
    let both = [by_id(exact("n1")), by_id(exact("n2"))].into_iter();
    let node_matchers = both.flat_map(|request| request.node_matchers).collect();
    let both = ClientStatusRequest { node_matchers, ..ClientStatusRequest::default() };
    let regex = |regex: &str| {
        MatchPattern::SafeRegex(RegexMatcher { regex: regex.into(), ..RegexMatcher::default() })
    };
    let text = |pattern| {
        let matcher = StringMatcher { match_pattern: Some(pattern), ignore_case: true };
        value_matcher::MatchPattern::StringMatch(matcher)
    };
    use value_matcher::MatchPattern::{BoolMatch, PresentMatch};
    for (request, expected) in [
        (ClientStatusRequest::default(), "n1 n2 x.3"),
        (by_id(exact("n1")), "n1"),
        (both, "n1 n2"),
        (by_id(MatchPattern::Prefix("n".into())), "n1 n2"),
        (by_id(MatchPattern::Suffix(".3".into())), "x.3"),
        (by_id(MatchPattern::Contains("2".into())), "n2"),
        (by_id(regex("n.|y")), "n1 n2"),
        (by_id(exact("N1")), ""),
        (by_metadata(&["where", "zone"], text(exact("EAST"))), "n1"),
        (by_metadata(&["canary"], BoolMatch(true)), "n1"),
        (by_metadata(&["canary"], PresentMatch(false)), "n2 x.3"),
    ] {
        assert_eq!(ask(request.clone()).await.unwrap(), expected, "{request:?}");
    }
    let double = value_matcher::MatchPattern::DoubleMatch(DoubleMatcher::default());
    for request in [by_metadata(&["where"], double), by_id(regex("("))] {
        assert_eq!(ask(request).await.unwrap_err().code(), Code::InvalidArgument);
    }
}

#[tokio::test]
#[allow(deprecated, reason = "that it is not used")]
async fn c03_c04_c05_each_resource_is_told_with_how_it_stands() {
    let served = serve().await;
    served.put_all([cluster("a", "1"), cluster("b", "1")]);
    let mut client = connect(&served, node("n")).await;
    client.subscribe(CDS, &[]);
    let update = client.expect(CDS).await;
    let mut csds = csds(&served).await;
    let stale = stands(&mut csds, "a", ConfigStatus::Stale).await;
    assert_eq!((&*stale.type_url, &*shown(stale.xds_config.as_ref())), (CDS.as_str(), "1"));
    assert!(!stale.version_info.is_empty() && stale.last_updated.is_some());
    assert_eq!(stale.client_status, 0);
    client.ack(&update);
    stands(&mut csds, "a", ConfigStatus::Synced).await;
    served.put_all([cluster("a", "2")]);
    let update = client.expect(CDS).await;
    client.nack(&update, "a: not that");
    let error = stands(&mut csds, "a", ConfigStatus::Error).await;
    let state = error.error_state.unwrap();
    assert_eq!((&*shown(error.xds_config.as_ref()), &*state.details), ("2", "a: not that"));
    assert_eq!(shown(state.failed_configuration.as_ref()), "2");
    assert!(state.last_update_attempt.is_some());
    assert_eq!((state.version_info, error.version_info.len()), (error.version_info, 16));
    stands(&mut csds, "b", ConfigStatus::Synced).await;
    let bare = ClientStatusRequest { exclude_resource_contents: true, ..Default::default() };
    let config = fetch(&mut csds, bare).await.remove(0);
    assert!(config.xds_config.is_empty());
    let [a, b] = &config.generic_xds_configs[..] else { panic!("{config:?}") };
    assert_eq!((&a.xds_config, &b.xds_config), (&None, &None));
    let state = a.error_state.as_ref().unwrap();
    assert_eq!((&state.failed_configuration, &*state.details), (&None, "a: not that"));
    served.put_all([cluster("a", "3")]);
    let update = client.expect(CDS).await;
    client.ack(&update);
    let synced = stands(&mut csds, "a", ConfigStatus::Synced).await;
    assert_eq!((shown(synced.xds_config.as_ref()), synced.error_state), ("3".into(), None));
}

#[tokio::test]
async fn c04_what_waits_to_be_sent_is_not_sent() {
    let hour = Duration::from_secs(3_600);
    let served = serve_with(|builder| builder.pace(Pace::default().debounce(hour, hour))).await;
    served.put_all([cluster("a", "1")]);
    let mut client = connect(&served, node("n")).await;
    client.subscribe(CDS, &["a", "b", "c"]);
    let update = client.expect(CDS).await;
    client.ack(&update);
    let mut csds = csds(&served).await;
    stands(&mut csds, "a", ConfigStatus::Synced).await;
    served.put_all([cluster("a", "2"), cluster("b", "1")]);
    let waits = stands(&mut csds, "a", ConfigStatus::NotSent).await;
    assert_eq!(shown(waits.xds_config.as_ref()), "2");
    stands(&mut csds, "b", ConfigStatus::NotSent).await;
}

const KEY: &str = "-----BEGIN PRIVATE KEY-----";

fn tls() -> TlsCertificate {
    let source = |text: &str| {
        Some(DataSource {
            specifier: Some(Specifier::InlineString(text.into())),
            ..DataSource::default()
        })
    };
    TlsCertificate {
        certificate_chain: source("chain"),
        private_key: source(KEY),
        ..TlsCertificate::default()
    }
}

#[tokio::test]
async fn c06_secrets_are_redacted_wherever_they_are_and_late_acks_settle_nothing() {
    let served = serve().await;
    let secret = |name: &str| {
        let certificate = secret::Type::TlsCertificate(tls());
        envoy::resource(&Secret { name: name.into(), r#type: Some(certificate) })
    };
    let context = UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificates: vec![tls()],
            ..CommonTlsContext::default()
        }),
        ..UpstreamTlsContext::default()
    };
    let any = Any { type_url: UpstreamTlsContext::type_url(), value: context.encode_to_vec() };
    let unknown = Any { type_url: "type.googleapis.com/of.Somebody".into(), value: KEY.into() };
    let socket = |name: &str, any: Any| {
        let config = Some(
            deltaplane_server::envoy_types::pb::envoy::config::core::v3::transport_socket::ConfigType::TypedConfig(any),
        );
        let transport_socket = Some(TransportSocket { name: "tls".into(), config_type: config });
        envoy::resource(&Cluster { name: name.into(), transport_socket, ..Cluster::default() })
    };
    served.put_all([secret("s"), socket("known", any), socket("unknown", unknown)]);
    let mut client = connect(&served, node("n")).await;
    client.subscribe(CDS, &[]);
    let clusters = client.expect(CDS).await;
    client.ack(&clusters);
    client.subscribe(TypeUrl::SECRET, &["s"]);
    let first = client.expect(TypeUrl::SECRET).await;
    let mut csds = csds(&served).await;
    for (name, has_chain) in [("s", true), ("known", true), ("unknown", false)] {
        let status = if name == "s" { ConfigStatus::Stale } else { ConfigStatus::Synced };
        let any = stands(&mut csds, name, status).await.xds_config.unwrap();
        let text = String::from_utf8_lossy(&any.value).into_owned();
        assert_eq!((text.contains(KEY), text.contains("chain")), (false, has_chain), "{text}");
        assert_eq!(text.contains("[redacted]"), has_chain, "{text}");
    }
    // A change crosses the ACK of what was before it.
    let mut changed = tls();
    changed.certificate_chain = None;
    let certificate = secret::Type::TlsCertificate(changed);
    served.put_all([envoy::resource(&Secret { name: "s".into(), r#type: Some(certificate) })]);
    let second = client.expect(TypeUrl::SECRET).await;
    client.ack(&first);
    client.subscribe(TypeUrl::ROUTE, &["r"]);
    served.heard.expect("n: subscribed RouteConfiguration").await;
    stands(&mut csds, "s", ConfigStatus::Stale).await;
    client.ack(&second);
    stands(&mut csds, "s", ConfigStatus::Synced).await;
}
