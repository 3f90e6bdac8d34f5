//! TLS.

use std::{
    io::Read,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use deltaplane_server::{
    Limits, Tls, Variant, XdsServer,
    rustls::{
        RootCertStore, ServerConfig,
        pki_types::{PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
    testing::{Connection, ModelClient},
};
use rcgen::{CertificateParams, CertifiedIssuer, Issuer, KeyPair, SanType, date_time_ymd};
use tokio::{net::TcpListener, task::spawn_blocking};
use tonic::{
    Code, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};

use crate::served::{CDS, Served, node, serve_with, until};

/// A CA, and what it has signed.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for the name of a host, or a URI, which may end when so much time is over.
    fn sign(&self, name: &str, lifetime: Option<Duration>) -> (rcgen::Certificate, KeyPair) {
        let issuer: &Issuer<'_, KeyPair> = &self.0;
        let key = KeyPair::generate().unwrap();
        let is_uri = name.contains("://");
        let hosts = if is_uri { Vec::new() } else { vec![name.to_owned()] };
        let mut params = CertificateParams::new(hosts).unwrap();
        if let Some(lifetime) = lifetime {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            params.not_after = date_time_ymd(1970, 1, 1) + now + lifetime;
        }
        if is_uri {
            params.subject_alt_names.push(SanType::URI(name.try_into().unwrap()));
        }
        (params.signed_by(&key, issuer).unwrap(), key)
    }

    /// A server's configuration that wants clients to show a certificate of this CA.
    pub fn server(&self) -> Arc<ServerConfig> {
        let mut authorities = RootCertStore::empty();
        authorities.add(self.0.der().clone()).unwrap();
        let clients = WebPkiClientVerifier::builder(Arc::new(authorities)).build().unwrap();
        let (certificate, key) = self.sign("localhost", None);
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let mut config = ServerConfig::builder()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    /// What a client trusts, and what it shows if it has been given something.
    fn client(&self, shows: Option<&Authority>) -> ClientTlsConfig {
        self.client_named(shows.map(|shows| (shows, "client")))
    }

    /// The same, with a certificate of that name.
    pub fn client_named(&self, shows: Option<(&Authority, &str)>) -> ClientTlsConfig {
        self.client_with(shows.map(|(shows, name)| shows.sign(name, None)))
    }

    fn client_with(&self, shown: Option<(rcgen::Certificate, KeyPair)>) -> ClientTlsConfig {
        let trusts = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.0.pem()))
            .domain_name("localhost");
        let Some((certificate, key)) = shown else { return trusts };
        trusts.identity(Identity::from_pem(certificate.pem(), key.serialize_pem()))
    }
}

pub async fn connect(
    address: SocketAddr,
    tls: ClientTlsConfig,
) -> Result<ModelClient<Connection>, Status> {
    let endpoint = Channel::from_shared(format!("https://{address}")).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect().await;
    let channel = channel.map_err(|error| Status::from_error(error.into()))?;
    ModelClient::connect(channel, node("n", "c").unwrap(), Variant::Delta).await
}

/// Serves the same content over TLS, too.
pub async fn secured(served: &Served, tls: impl Into<Tls>) -> SocketAddr {
    let tls = tls.into();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server: XdsServer = served.server.clone();
    tokio::spawn(async move { server.serve_tls(listener, tls, std::future::pending()).await });
    address
}

#[tokio::test]
async fn who_shows_a_certificate_is_served_and_nobody_else() {
    let served = serve_with(|builder| builder).await;
    served.put("c", "a", "1");
    let (ours, theirs) = (Authority::new(), Authority::new());
    let address = secured(&served, ours.server()).await;
    let mut client = connect(address, ours.client(Some(&ours))).await.unwrap();
    client.subscribe(CDS, &[]);
    let update = client.expect(CDS).await;
    assert_eq!(update.names(), ["a"]);
    client.ack(&update);
    for shows in [None, Some(&theirs)] {
        assert!(connect(address, ours.client(shows)).await.is_err());
    }
    served.put("c", "a", "2");
    client.expect(CDS).await;
}

#[tokio::test]
async fn who_does_not_get_through_tls_in_time_is_let_go() {
    let mut limits = Limits::default();
    limits.handshake = Duration::from_millis(100);
    let served = serve_with(|builder| builder.limits(limits)).await;
    served.put("c", "a", "1");
    let ours = Authority::new();
    let address = secured(&served, ours.server()).await;
    let silent = spawn_blocking(move || {
        let mut silent = std::net::TcpStream::connect(address).unwrap();
        silent.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        silent.read(&mut [0]).unwrap()
    });
    assert_eq!(silent.await.unwrap(), 0, "the connection is closed");
    let mut client = connect(address, ours.client(Some(&ours))).await.unwrap();
    client.subscribe(CDS, &[]);
    client.expect(CDS).await;
}

#[tokio::test]
async fn the_configuration_of_tls_is_replaced_while_it_serves() {
    let served = serve_with(|builder| builder).await;
    served.put("c", "a", "1");
    let (old, new) = (Authority::new(), Authority::new());
    let tls = Tls::from(old.server());
    let address = secured(&served, tls.clone()).await;
    let mut before = connect(address, old.client(Some(&old))).await.unwrap();
    before.subscribe(CDS, &[]);
    let update = before.expect(CDS).await;
    before.ack(&update);
    assert!(connect(address, new.client(Some(&new))).await.is_err());
    tls.replace(new.server());
    let mut after = connect(address, new.client(Some(&new))).await.unwrap();
    after.subscribe(CDS, &[]);
    after.expect(CDS).await;
    // Whom the old authority vouches for is let in no more; who is there stays.
    assert!(connect(address, new.client(Some(&old))).await.is_err());
    served.put("c", "a", "2");
    before.expect(CDS).await;
}

/// Has it go, and not only its streams, for it would be no other connection on which they came back.
#[tokio::test]
async fn a_connection_ends_with_the_certificate_of_its_client() {
    let served = serve_with(|builder| builder).await;
    served.put("c", "a", "1");
    let ours = Authority::new();
    let address = secured(&served, ours.server()).await;
    let brief = ours.client_with(Some(ours.sign("client", Some(Duration::from_secs(3)))));
    let mut ending = connect(address, brief.clone()).await.unwrap();
    let mut staying = connect(address, ours.client(Some(&ours))).await.unwrap();
    for client in [&mut ending, &mut staying] {
        client.subscribe(CDS, &[]);
        let update = client.expect(CDS).await;
        client.ack(&update);
    }
    let ended = ending.next().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
    assert!(ended.message().contains("certificate"), "{ended}");
    until("the connection is gone", || served.server.occupancy().connections == 1).await;
    assert!(connect(address, brief).await.is_err());
    served.put("c", "a", "2");
    staying.expect(CDS).await;
}

#[tokio::test]
async fn connections_end_whose_certificates_are_accepted_no_more() {
    let served = serve_with(|builder| builder).await;
    served.put("c", "a", "1");
    let ours = Authority::new();
    let address = secured(&served, ours.server()).await;
    let mut clients = Vec::new();
    for name in ["listed.test", "other.test"] {
        let mut client = connect(address, ours.client_named(Some((&ours, name)))).await.unwrap();
        client.subscribe(CDS, &[]);
        let update = client.expect(CDS).await;
        client.ack(&update);
        clients.push(client);
    }
    let ended = served.server.end_connections(|peer| {
        let certificate = peer.certificate.as_ref();
        certificate.is_some_and(|shown| shown.dns_names == ["listed.test"])
    });
    assert_eq!(ended, 1);
    let ended = clients[0].next().await.unwrap_err();
    assert!(ended.message().contains("certificate"), "{ended}");
    until("the connection is gone", || served.server.occupancy().connections == 1).await;
    served.put("c", "a", "2");
    clients[1].expect(CDS).await;
}
