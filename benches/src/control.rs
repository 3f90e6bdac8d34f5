//! The control port of a contestant, over HTTP/1.1, both ends.
//!
//! * `POST /load?n=N` loads clusters 0 to N - 1, at generation 0
//! * `POST /update?i=I&gen=G` changes cluster I to generation G
//!
//! Either is answered with 200 when it is done. Ours also knows `&settled=1`, and answers when every client
//! has acknowledged the change.

use std::{convert::Infallible, net::Ipv4Addr, path::PathBuf, sync::Arc};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{body::Incoming, client::conn::http1::SendRequest, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use crate::Result;

/// Where a contestant is to be reached.
#[derive(Debug, Clone, clap::Args)]
#[non_exhaustive]
pub struct Ports {
    /// The port on which to serve ADS.
    #[arg(long, value_name = "PORT")]
    pub grpc: u16,
    /// The port on which to be told what to serve: POST /load?n=N and /update?i=I&gen=G.
    #[arg(long, value_name = "PORT")]
    pub http: u16,
    /// Serve ADS over mutual TLS, with the certificates in this folder.
    #[arg(long, value_name = "FOLDER")]
    pub tls: Option<PathBuf>,
}

impl Ports {
    /// Listens on the control port, on loopback only.
    ///
    /// # Errors
    /// If it is taken.
    pub async fn control(&self) -> Result<TcpListener> {
        Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, self.http)).await?)
    }
}

/// What a contestant is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Load so many clusters.
    Load(usize),
    /// Change one.
    Update {
        /// Which.
        i: usize,
        /// To what.
        generation: u32,
        /// Whether to answer only when all clients have acknowledged it.
        settled: bool,
    },
}

impl Command {
    /// Where to post it.
    fn path(self) -> String {
        match self {
            Self::Load(n) => format!("/load?n={n}"),
            Self::Update { i, generation, settled: false } => {
                format!("/update?i={i}&gen={generation}")
            }
            Self::Update { i, generation, settled: true } => {
                format!("/update?i={i}&gen={generation}&settled=1")
            }
        }
    }

    fn parse(request: &Request<Incoming>) -> Option<Self> {
        let query = request.uri().query()?;
        let number = |name: &str| {
            query
                .split('&')
                .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
        };
        match (request.method(), request.uri().path()) {
            (&Method::POST, "/load") => Some(Self::Load(number("n")?)),
            (&Method::POST, "/update") => Some(Self::Update {
                i: number("i")?,
                generation: u32::try_from(number("gen")?).ok()?,
                settled: number("settled") == Some(1),
            }),
            _ => None,
        }
    }
}

/// Serves a control port, until the listener fails.
///
/// # Errors
/// If it does.
pub async fn serve<F>(
    listener: TcpListener,
    execute: impl Fn(Command) -> F + Send + Sync + 'static,
) -> Result<()>
where
    F: Future<Output = Result<()>> + Send + 'static,
{
    let execute = Arc::new(execute);
    loop {
        let (connection, _) = listener.accept().await?;
        connection.set_nodelay(true)?;
        let execute = execute.clone();
        let service = service_fn(move |request| {
            let execute = execute.clone();
            async move { Ok::<_, Infallible>(answer(&request, &*execute).await) }
        });
        let serving = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(connection), service);
        tokio::spawn(serving);
    }
}

async fn answer<F: Future<Output = Result<()>>>(
    request: &Request<Incoming>,
    execute: &impl Fn(Command) -> F,
) -> Response<Full<Bytes>> {
    let (status, text) = match Command::parse(request) {
        None => (StatusCode::NOT_FOUND, "POST /load?n=N or /update?i=I&gen=G\n".to_owned()),
        Some(command) => match execute(command).await {
            Ok(()) => (StatusCode::OK, String::new()),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}

/// Who tells a contestant what to do.
#[derive(Debug)]
pub struct Control {
    sender: SendRequest<Empty<Bytes>>,
}

impl Control {
    /// Connects to a contestant's control port.
    ///
    /// # Errors
    /// If nobody listens there.
    pub async fn connect(port: u16) -> Result<Self> {
        let connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        connection.set_nodelay(true)?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(connection)).await?;
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// Returns when it is done.
    ///
    /// # Errors
    /// If the contestant says that it could not.
    pub async fn tell(&mut self, command: Command) -> Result<()> {
        let (status, text) = self.post(&command.path()).await?;
        if status != StatusCode::OK {
            let text = String::from_utf8_lossy(&text);
            return Err(format!("{} was answered with {status}: {text}", command.path()).into());
        }
        Ok(())
    }

    /// Asks for what no contestant knows, and returns when it has said so: what a request alone costs.
    ///
    /// # Errors
    /// If there is no answer.
    pub async fn ask_for_nothing(&mut self) -> Result<()> {
        self.post("/nothing").await.map(|_| ())
    }

    async fn post(&mut self, path: &str) -> Result<(StatusCode, Bytes)> {
        let request = Request::post(path).header("host", "localhost").body(Empty::new())?;
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        Ok((response.status(), response.into_body().collect().await?.to_bytes()))
    }
}
