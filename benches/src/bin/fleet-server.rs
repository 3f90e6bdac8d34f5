//! Our contestant: a cache, and its server, as the README shows them.

use std::net::Ipv4Addr;
use std::time::Duration;

use clap::Parser;
use deltaplane_benches::{
    Result,
    cluster::cluster,
    control::{self, Command, Ports},
    tls,
};
use deltaplane_server::{Cache, HowMany, Transaction, TypeUrl, XdsServer, envoy};
use tokio::net::TcpListener;

/// Serves the fleet benchmark's clusters with Deltaplane.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    ports: Ports,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let cache = Cache::new();
    let server = XdsServer::builder(cache.clone()).build();
    let grpc = TcpListener::bind((Ipv4Addr::LOCALHOST, args.ports.grpc)).await?;
    let http = args.ports.control().await?;
    let publisher = server.clone();
    let control =
        control::serve(http, move |command| execute(cache.clone(), publisher.clone(), command));
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    let serving = async {
        match &args.ports.tls {
            None => Ok(server.serve(grpc, stop).await?),
            Some(folder) => Ok(server.serve_tls(grpc, tls::server(folder)?, stop).await?),
        }
    };
    tokio::select! {
        served = serving => served,
        failed = control => failed,
    }
}

async fn execute(cache: Cache, server: XdsServer, command: Command) -> Result<()> {
    let mut transaction = Transaction::new();
    let mut waits = false;
    match command {
        Command::Load(n) => {
            let clusters = (0..n).map(|i| envoy::resource(&cluster(i, 0)));
            transaction.replace("default", TypeUrl::CLUSTER, clusters);
        }
        Command::Update { i, generation, settled } => {
            transaction.upsert("default", envoy::resource(&cluster(i, generation)));
            waits = settled;
        }
        _ => return Err(format!("{command:?} is not known here").into()),
    }
    let commit = cache.commit(transaction)?;
    if waits {
        let timeout = Duration::from_secs(60);
        let delivery = server.wait(commit.revision, |_| true, HowMany::All, timeout).await;
        if let Some(client) = delivery.pending().next() {
            return Err(format!("{} has not settled", client.node.id).into());
        }
    }
    Ok(())
}
