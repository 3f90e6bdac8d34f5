//! The fleet benchmark's contestant from rust-control-plane, which speaks State of the World only.

use std::{net::Ipv4Addr, sync::Arc};

use clap::Parser;
use data_plane_api::envoy::{
    config::cluster::v3::Cluster,
    service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
};
use deltaplane_benches::{
    Result, cluster,
    control::{self, Command, Ports},
};
use prost::Message as _;
use rust_control_plane::{
    cache::Cache,
    service::common::Service,
    snapshot::{Resource, Resources, Snapshot},
};
use tokio::sync::Mutex;
use tonic::transport::Server;

/// Serves the fleet benchmark's clusters with rust-control-plane, to the node `node`.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    ports: Ports,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    // Told that it serves ADS, it never answers who asks for everything.
    let cache = Arc::new(Cache::new(false));
    let content = Arc::new(Content {
        cache: cache.clone(),
        resources: Mutex::new((0, Resources::new(String::new()))),
    });
    let http = args.ports.control().await?;
    tokio::spawn(control::serve(http, move |command| content.clone().execute(command)));
    let ads = AggregatedDiscoveryServiceServer::new(Service::new(cache));
    Server::builder().add_service(ads).serve((Ipv4Addr::LOCALHOST, args.ports.grpc).into()).await?;
    Ok(())
}

struct Content {
    cache: Arc<Cache>,
    resources: Mutex<(u64, Resources)>,
}

impl Content {
    async fn execute(self: Arc<Self>, command: Command) -> Result<()> {
        let mut resources = self.resources.lock().await;
        let (version, resources) = &mut *resources;
        match command {
            Command::Load(n) => {
                resources.items.clear();
                for i in 0..n {
                    resources.items.insert(cluster::name(i), resource(i, 0)?);
                }
            }
            Command::Update { i, generation, .. } => {
                resources.items.insert(cluster::name(i), resource(i, generation)?);
            }
            _ => return Err(format!("{command:?} is not known here").into()),
        }
        *version += 1;
        resources.version = version.to_string();
        let mut snapshot = Snapshot::new();
        snapshot.insert(cluster::TYPE_URL.into(), resources.clone());
        self.cache.set_snapshot("node", snapshot).await;
        Ok(())
    }
}

fn resource(i: usize, generation: u32) -> Result<Resource> {
    let bytes = cluster::encoded(i, generation);
    Ok(Resource::Cluster(Cluster::decode(&*bytes)?))
}
