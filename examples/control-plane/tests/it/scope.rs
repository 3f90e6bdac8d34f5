use deltaplane::fleets::Directory;
use deltaplane::fleets::scope::{choose, name, of_cluster, of_raw};
use deltaplane_server::envoy_types::pb::envoy::config::core::v3::Node;
use deltaplane_server::{Cache, Scope, Transaction, TypeUrl};

fn node(cluster: &str, id: &str) -> Node {
    Node { cluster: cluster.to_owned(), id: id.to_owned(), ..Node::default() }
}

#[test]
fn the_first_scope_that_was_ever_filled_is_seen() {
    let cache = Cache::new();
    let mut transaction = Transaction::new();
    for cluster in [1, 2, 3] {
        transaction.replace(of_cluster(cluster), TypeUrl::CLUSTER, []);
    }
    transaction.replace(of_raw("cluster-2"), TypeUrl::CLUSTER, []);
    transaction.replace(of_raw("raw alone"), TypeUrl::CLUSTER, []);
    let _ = cache.commit(transaction).unwrap();
    let seen = |cluster: &str, id: &str, fallback: Option<&str>| {
        let scopes = choose(&node(cluster, id), fallback, &Directory::default(), &cache);
        scopes.iter().map(Scope::to_string).collect::<Vec<_>>()
    };
    let last = Some("cluster-3");
    assert_eq!(seen("cluster-1", "cluster-2", last), ["raw/cluster-1", "cluster-1"]);
    assert_eq!(seen("cluster-9", "cluster-2", last), ["raw/cluster-2", "cluster-2"]);
    assert_eq!(seen("", "", last), ["raw/cluster-3", "cluster-3"]);
    assert_eq!(seen("raw alone", "", last), ["raw/raw alone", "raw alone"]);
    assert_eq!(seen("cluster-9", "x", Some("y")), [""; 0]);
    assert_eq!(seen("1", "", None), [""; 0], "a fleet goes by its whole name");
    assert_eq!(seen("raw/cluster-2", "", None), [""; 0], "a layer is no scope");
}

#[test]
fn a_layer_of_a_canary_is_seen_by_nobody_who_names_it() {
    let cache = Cache::new();
    let mut transaction = Transaction::new();
    let layers = ["raw/edge~canary-3", "edge~canary-3", "cluster-2~canary-3", "cluster-1"];
    for layer in layers {
        transaction.replace(layer, TypeUrl::CLUSTER, []);
    }
    let _ = cache.commit(transaction).unwrap();
    let seen = |cluster: &str, id: &str, fallback: Option<&str>| {
        choose(&node(cluster, id), fallback, &Directory::default(), &cache)
    };
    for layer in ["edge~canary-3", "cluster-2~canary-3"] {
        assert_eq!(seen(layer, layer, Some(layer)), [], "{layer}");
        let next = [of_raw("cluster-1"), of_cluster(1)];
        assert_eq!(seen(layer, "cluster-1", None), next);
    }
}

#[test]
fn layers_go_by_the_name_of_their_scope() {
    assert_eq!(name(&[of_raw("edge"), Scope::from("edge")]), Some("edge"));
    assert_eq!(name(&[]), None);
}
