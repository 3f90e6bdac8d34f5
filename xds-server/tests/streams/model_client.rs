//! The model client of the feature `testing`.

use deltaplane_server::{
    Cache, Resource, Transaction, TypeUrl, Variant,
    testing::{InMemory, ModelClient, Received},
};
use tonic::Code;

use crate::served::{CDS, serve};

const RDS: TypeUrl = TypeUrl::ROUTE;

/// A message with this name, and as its second field a number.
fn resource(type_url: TypeUrl, name: &str, content: u8) -> Resource {
    let mut value = vec![0x0a, u8::try_from(name.len()).unwrap()];
    value.extend(name.as_bytes());
    value.extend([0x10, content]);
    Resource::raw(type_url, name, value).build()
}

fn put(cache: &Cache, resources: impl IntoIterator<Item = Resource>) {
    let mut transaction = Transaction::new();
    for resource in resources {
        transaction.upsert("c", resource);
    }
    cache.commit(transaction).unwrap();
}

/// `name=content` of each resource.
fn shown<'a>(resources: impl IntoIterator<Item = &'a Received>) -> Vec<String> {
    let show = |r: &Received| format!("{}={}", r.name, r.value.last().unwrap());
    resources.into_iter().map(show).collect()
}

fn over_two_clusters(variant: Variant) -> (Cache, ModelClient<InMemory>) {
    let cache = Cache::new();
    put(&cache, [resource(CDS, "a", 1), resource(CDS, "b", 1), resource(RDS, "r", 1)]);
    let client = ModelClient::over(&cache, ["c"], variant);
    (cache, client)
}

#[test]
fn it_runs_what_it_accepted_and_neither_gave_up_nor_lost() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let (cache, mut client) = over_two_clusters(variant);
        client.subscribe(CDS, &[]);
        client.subscribe(RDS, &["r"]);
        let update = client.expect(CDS);
        assert_eq!(shown(&update.resources), ["a=1", "b=1"]);
        assert_eq!(client.running(&CDS).count(), 0, "not before it accepts");
        client.ack(&update);
        let update = client.expect(RDS);
        client.ack(&update);
        client.silence();
        put(&cache, [resource(CDS, "a", 2)]);
        let update = client.expect(CDS);
        client.nack(&update, "no such thing as a");
        client.silence();
        assert_eq!(shown(client.running(&CDS)), ["a=1", "b=1"]);
        put(&cache, [resource(CDS, "a", 3)]);
        let mut transaction = Transaction::new();
        transaction.remove("c", CDS, "b");
        cache.commit(transaction).unwrap();
        while let Some(update) = client.poll() {
            client.ack(&update);
        }
        assert_eq!(shown(client.running(&CDS)), ["a=3"]);
        client.unsubscribe(RDS, &["r"]);
        assert_eq!(client.running(&RDS).count(), 0);
        put(&cache, [resource(RDS, "r", 2)]);
        client.silence();
    }
}

#[test]
fn it_names_resources_beside_everything_and_alone() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let (cache, mut client) = over_two_clusters(variant);
        client.subscribe(CDS, &[]);
        client.subscribe(CDS, &["a"]);
        while let Some(update) = client.poll() {
            client.ack(&update);
        }
        assert_eq!(shown(client.running(&CDS)), ["a=1", "b=1"]);
        client.unsubscribe(CDS, &["*"]);
        client.silence();
        assert_eq!(shown(client.running(&CDS)), ["a=1"]);
        put(&cache, [resource(CDS, "b", 2)]);
        client.silence();
        put(&cache, [resource(CDS, "a", 2)]);
        let update = client.expect(CDS);
        assert_eq!(update.names(), ["a"]);
    }
}

#[test]
#[should_panic(expected = "expected silence, but got")]
fn it_panics_where_silence_was_expected() {
    let (_cache, mut client) = over_two_clusters(Variant::Delta);
    client.subscribe(CDS, &[]);
    client.silence();
}

#[test]
#[should_panic(expected = "Listener, but got Some")]
fn it_panics_where_another_type_was_expected() {
    let (_cache, mut client) = over_two_clusters(Variant::Sotw);
    client.subscribe(CDS, &[]);
    client.expect(TypeUrl::LISTENER);
}

#[tokio::test]
async fn over_a_connection_it_is_the_same_client() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let mut served = serve().await;
        put(&served.cache, [resource(CDS, "a", 1), resource(CDS, "b", 1)]);
        let mut client = served.model("n", variant).await;
        client.subscribe(CDS, &[]);
        let update = client.expect(CDS).await;
        assert_eq!(shown(&update.resources), ["a=1", "b=1"]);
        client.ack(&update);
        client.silence().await;
        put(&served.cache, [resource(CDS, "a", 2)]);
        let update = client.expect(CDS).await;
        client.nack(&update, "boom");
        served.heard.expect("n: rejected boom").await;
        client.silence().await;
        assert_eq!(shown(client.running(&CDS)), ["a=1", "b=1"]);
        drop(served.stop.take());
        assert_eq!(client.next().await.unwrap_err().code(), Code::Unavailable);
    }
}

#[tokio::test]
async fn it_comes_back_with_what_it_runs() {
    for variant in [Variant::Sotw, Variant::Delta] {
        let served = serve().await;
        let other = serve().await;
        for served in [&served, &other] {
            put(&served.cache, [resource(CDS, "a", 1), resource(CDS, "b", 1)]);
            put(&served.cache, [resource(RDS, "r", 1)]);
        }
        let mut client = served.model("n", variant).await;
        client.subscribe(CDS, &[]);
        client.subscribe(RDS, &["r"]);
        for type_url in [CDS, RDS] {
            let update = client.expect(type_url).await;
            client.ack(&update);
        }
        client.silence().await;
        // R-10: what it names is sent again, and nothing else is.
        client.reconnect(other.channel().await).await.unwrap();
        let update = client.expect(RDS).await;
        client.ack(&update);
        client.silence().await;
        assert_eq!(shown(client.running(&CDS)), ["a=1", "b=1"]);
        // What it has not accepted is not held against it.
        put(&other.cache, [resource(CDS, "a", 2)]);
        let unanswered = client.expect(CDS).await;
        client.reconnect(other.channel().await).await.unwrap();
        let update = client.expect(CDS).await;
        assert_eq!(update.resources, unanswered.resources);
        client.ack(&update);
        let update = client.expect(RDS).await;
        client.ack(&update);
        client.silence().await;
        assert_eq!(shown(client.running(&CDS)), ["a=2", "b=1"]);
    }
}
