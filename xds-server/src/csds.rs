//! Client status discovery (CSDS): what each client was sent of each resource, and what it said to that.

use std::{fmt, pin::Pin, sync::Arc, time::SystemTime};

use deltaplane_core::Reception;
use envoy_types::pb::{
    envoy::{
        admin::v3::UpdateFailureState,
        config::core::v3::Node,
        service::status::v3::{
            ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus,
            client_config::GenericXdsConfig,
            client_status_discovery_service_server::{
                ClientStatusDiscoveryService, ClientStatusDiscoveryServiceServer,
            },
        },
        r#type::matcher::v3::{
            NodeMatcher, StringMatcher, StructMatcher, ValueMatcher,
            string_matcher::MatchPattern as TextPattern, struct_matcher::path_segment,
            value_matcher::MatchPattern as ValuePattern,
        },
    },
    google::protobuf::{Struct, Timestamp, Value, value::Kind},
};
use futures::{Stream, StreamExt as _, stream};
use regex_lite::{Regex, RegexBuilder};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    envoy,
    peer::Credentials,
    server::{Shared, XdsServer},
    status::{ClientResource, ClientStatus},
};

/// The service: see [`XdsServer::client_status`](crate::XdsServer::client_status).
pub struct StatusService(Arc<Shared>);

impl fmt::Debug for StatusService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StatusService")
    }
}

impl XdsServer {
    /// Client status discovery (CSDS) for a tonic router of your own; [`serve`](XdsServer::serve) has it by
    /// itself, behind the feature `csds`. It tells what each client was sent and what it said to that; of
    /// all clients, if a request names none. What the Envoy API marks as sensitive is left out. Where there is
    /// an authorizer, it is told to whom that [grants](crate::Grant::and_client_status) it.
    #[must_use]
    pub fn client_status(&self) -> ClientStatusDiscoveryServiceServer<StatusService> {
        service(&self.shared)
    }
}

/// The service, for a router.
pub(crate) fn service(shared: &Arc<Shared>) -> ClientStatusDiscoveryServiceServer<StatusService> {
    ClientStatusDiscoveryServiceServer::new(StatusService(shared.clone()))
}

#[tonic::async_trait]
impl ClientStatusDiscoveryService for StatusService {
    type StreamClientStatusStream =
        Pin<Box<dyn Stream<Item = Result<ClientStatusResponse, Status>> + Send>>;

    /// Answers each request once; it is no watch (C-01).
    async fn stream_client_status(
        &self,
        requests: Request<Streaming<ClientStatusRequest>>,
    ) -> Result<Response<Self::StreamClientStatusStream>, Status> {
        let over = self.0.over_with(&requests);
        let credentials = Credentials::of(requests.metadata().as_ref(), requests.extensions());
        let answers = stream::try_unfold(
            (self.0.clone(), credentials, requests.into_inner()),
            |(shared, credentials, mut requests)| async move {
                let Some(request) = requests.message().await? else { return Ok(None) };
                let status = status(&shared, credentials.clone(), request).await?;
                Ok(Some((status, (shared, credentials, requests))))
            },
        );
        Ok(Response::new(Box::pin(answers.take_until(over))))
    }

    async fn fetch_client_status(
        &self,
        request: Request<ClientStatusRequest>,
    ) -> Result<Response<ClientStatusResponse>, Status> {
        let credentials = Credentials::of(request.metadata().as_ref(), request.extensions());
        Ok(Response::new(status(&self.0, credentials, request.into_inner()).await?))
    }
}

/// The status of all clients whose nodes one of the matchers means; of all, if there is none (C-02).
pub(crate) async fn status(
    shared: &Shared,
    credentials: Credentials,
    request: ClientStatusRequest,
) -> Result<ClientStatusResponse, Status> {
    let ClientStatusRequest { node, node_matchers, exclude_resource_contents } = request;
    let grant = shared.admit(credentials, &node.unwrap_or_default()).await?;
    if !grant.is_none_or(|grant| grant.sees_clients()) {
        return Err(Status::permission_denied("this caller may not ask how clients are"));
    }
    let matchers: Vec<_> = node_matchers.iter().map(Matcher::new).collect::<Result<_, _>>()?;
    let mut config = Vec::new();
    for client in shared.clients.all() {
        let node = &client.client.node;
        if !matchers.is_empty() && !matchers.iter().any(|matcher| matcher.matches(node)) {
            continue;
        }
        // Who is gone since then is not spoken of.
        if let Some(resources) = shared.clients.resources(client.client.id).await {
            let configs = resources.iter();
            let configs = configs.map(|it| generic(&client, it, !exclude_resource_contents));
            config.push(ClientConfig {
                node: Some(node.clone()),
                generic_xds_configs: configs.collect(),
                ..ClientConfig::default()
            });
        }
    }
    Ok(ClientStatusResponse { config })
}

/// One resource of one client. The client's own side is not ours to fill (C-03).
fn generic(
    client: &ClientStatus,
    ClientResource { resource, reception, committed }: &ClientResource,
    with_content: bool,
) -> GenericXdsConfig {
    // What may be shown of it (C-06).
    let content = || with_content.then(|| envoy::redacted(resource)).flatten();
    let status = match reception {
        Reception::Acknowledged => ConfigStatus::Synced,
        Reception::Unanswered => ConfigStatus::Stale,
        Reception::Rejected => ConfigStatus::Error,
        _ => ConfigStatus::NotSent,
    };
    let rejection = client.types.get(resource.type_url()).and_then(|of_type| {
        let rejection = of_type.rejection.as_ref();
        rejection.filter(|_| *reception == Reception::Rejected)
    });
    GenericXdsConfig {
        type_url: resource.type_url().to_string(),
        name: resource.name().to_string(),
        version_info: resource.version().to_string(),
        xds_config: content(),
        last_updated: committed.map(timestamp),
        config_status: status.into(),
        error_state: rejection.map(|rejection| UpdateFailureState {
            failed_configuration: content(),
            last_update_attempt: Some(timestamp(rejection.at)),
            details: rejection.error.message.clone(),
            version_info: resource.version().to_string(),
        }),
        ..GenericXdsConfig::default()
    }
}

fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

/// Which nodes are meant.
struct Matcher {
    id: Option<Text>,
    metadata: Vec<Entry>,
}

/// What is at a path of a node's metadata.
struct Entry {
    path: Vec<String>,
    value: Expected,
}

enum Expected {
    Text(Text),
    Bool(bool),
    Null,
    Present(bool),
}

/// How a text has to look.
struct Text(Regex);

impl Matcher {
    fn new(matcher: &NodeMatcher) -> Result<Self, Status> {
        Ok(Self {
            id: matcher.node_id.as_ref().map(Text::new).transpose()?,
            metadata: matcher.node_metadatas.iter().map(Entry::new).collect::<Result<_, _>>()?,
        })
    }

    /// The id has to match, and one of the metadata matchers, as far as there are any.
    fn matches(&self, node: &Node) -> bool {
        self.id.as_ref().is_none_or(|id| id.matches(&node.id))
            && (self.metadata.is_empty()
                || self.metadata.iter().any(|entry| entry.matches(node.metadata.as_ref())))
    }
}

impl Text {
    /// All kinds are written as an expression that has to match from the beginning to the end.
    fn new(matcher: &StringMatcher) -> Result<Self, Status> {
        let literal = regex_lite::escape;
        let pattern = match &matcher.match_pattern {
            Some(TextPattern::Exact(text)) => literal(text),
            Some(TextPattern::Prefix(text)) => literal(text) + "(?s:.*)",
            Some(TextPattern::Suffix(text)) => "(?s:.*)".to_owned() + &literal(text),
            Some(TextPattern::Contains(text)) => format!("(?s:.*){}(?s:.*)", literal(text)),
            Some(TextPattern::SafeRegex(regex)) => format!("(?:{})", regex.regex),
            _ => {
                return Err(unsupported("a text by exact, prefix, suffix, contains or safe_regex"));
            }
        };
        let regex = RegexBuilder::new(&format!("^{pattern}$"))
            .case_insensitive(matcher.ignore_case)
            .build()
            .map_err(|error| Status::invalid_argument(format!("safe_regex: {error}")))?;
        Ok(Self(regex))
    }

    fn matches(&self, text: &str) -> bool {
        self.0.is_match(text)
    }
}

impl Entry {
    fn new(matcher: &StructMatcher) -> Result<Self, Status> {
        let keys = matcher.path.iter().map(|step| match &step.segment {
            Some(path_segment::Segment::Key(key)) => Ok(key.clone()),
            None => Err(unsupported("a path of keys")),
        });
        let path: Vec<_> = keys.collect::<Result<_, _>>()?;
        let Some(ValueMatcher { match_pattern: Some(pattern) }) = &matcher.value else {
            return Err(unsupported("a value"));
        };
        let value = match pattern {
            ValuePattern::StringMatch(text) => Expected::Text(Text::new(text)?),
            ValuePattern::BoolMatch(value) => Expected::Bool(*value),
            ValuePattern::NullMatch(_) => Expected::Null,
            ValuePattern::PresentMatch(is_present) => Expected::Present(*is_present),
            _ => return Err(unsupported("a value by string, bool, null or present")),
        };
        Ok(Self { path, value })
    }

    fn matches(&self, metadata: Option<&Struct>) -> bool {
        let found = find(metadata, &self.path);
        match (&self.value, found.and_then(|value| value.kind.as_ref())) {
            (Expected::Text(text), Some(Kind::StringValue(value))) => text.matches(value),
            (Expected::Bool(expected), Some(Kind::BoolValue(value))) => expected == value,
            (Expected::Null, Some(Kind::NullValue(_))) => true,
            (Expected::Present(expected), found) => *expected == found.is_some(),
            _ => false,
        }
    }
}

fn find<'a>(metadata: Option<&'a Struct>, path: &[String]) -> Option<&'a Value> {
    let (key, rest) = path.split_first()?;
    let value = metadata?.fields.get(key)?;
    match (rest, value.kind.as_ref()) {
        ([], _) => Some(value),
        (rest, Some(Kind::StructValue(inner))) => find(Some(inner), rest),
        _ => None,
    }
}

/// Never all clients instead of those that were meant (C-02).
fn unsupported(what: &str) -> Status {
    Status::invalid_argument(format!("a node matcher of this kind is not supported: match {what}"))
}
