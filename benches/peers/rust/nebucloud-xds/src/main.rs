//! The fleet benchmark's contestant from nebucloud-xds.

use std::{
    any::Any as StdAny,
    error::Error,
    net::Ipv4Addr,
    sync::{Arc, Mutex, PoisonError},
};

use clap::Parser;
use deltaplane_benches::{
    Result, cluster,
    control::{self, Command, Ports},
};
use nebucloud_xds::prelude::*;
use prost_types::Any;

/// Serves the fleet benchmark's clusters with nebucloud-xds, to the node `node`.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    ports: Ports,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let cache = Arc::new(ShardedCache::new());
    let content = Arc::new(Content { cache: cache.clone(), state: Mutex::default() });
    let http = args.ports.control().await?;
    tokio::spawn(control::serve(http, move |command| std::future::ready(content.execute(command))));
    let server = XdsServer::builder().cache(cache).enable_sotw().enable_delta().build()?;
    server.serve((Ipv4Addr::LOCALHOST, args.ports.grpc).into()).await?;
    Ok(())
}

struct Content {
    cache: Arc<ShardedCache>,
    state: Mutex<(u64, Vec<BoxResource>)>,
}

impl Content {
    fn execute(&self, command: Command) -> Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (version, resources) = &mut *state;
        match command {
            Command::Load(n) => *resources = (0..n).map(|i| resource(i, 0)).collect(),
            Command::Update { i, generation, .. } => resources[i] = resource(i, generation),
            _ => return Err(format!("{command:?} is not known here").into()),
        }
        *version += 1;
        let snapshot = Snapshot::builder()
            .version(version.to_string())
            .resources(TypeUrl::new(TypeUrl::CLUSTER), resources.iter().cloned())
            .build();
        self.cache.set_snapshot(NodeHash::from_id("node"), snapshot);
        Ok(())
    }
}

fn resource(i: usize, generation: u32) -> BoxResource {
    let (name, version) = (cluster::name(i), generation.to_string());
    Arc::new(Encoded { name, version, value: cluster::encoded(i, generation) })
}

/// A cluster that is encoded already.
#[derive(Debug)]
struct Encoded {
    name: String,
    version: String,
    value: Vec<u8>,
}

impl Resource for Encoded {
    fn type_url(&self) -> &str {
        cluster::TYPE_URL
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn encode(&self) -> std::result::Result<Any, Box<dyn Error + Send + Sync>> {
        Ok(Any { type_url: cluster::TYPE_URL.into(), value: self.value.clone() })
    }

    fn version(&self) -> Option<&str> {
        Some(&self.version)
    }

    fn as_any(&self) -> &dyn StdAny {
        self
    }
}
