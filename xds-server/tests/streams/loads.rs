//! Load reports.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use deltaplane_server::{
    Load, LoadKey, LoadReporting,
    envoy_types::pb::{
        envoy::{
            config::{
                core::v3::{Locality, Node},
                endpoint::v3::{
                    ClusterStats, EndpointLoadMetricStats, UpstreamLocalityStats,
                    cluster_stats::DroppedRequests,
                },
            },
            service::load_stats::v3::{
                LoadStatsRequest, LoadStatsResponse,
                load_reporting_service_client::LoadReportingServiceClient,
            },
        },
        google::protobuf::Duration as Interval,
    },
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::served::{Served, next, serve, serve_with};

const ALL: &str = "envoy.lrs.supports_send_all_clusters";

/// What the embedder heard: of which node, about which cluster.
type Heard = Arc<Mutex<Vec<(String, String)>>>;

/// A server that asks for the load of all clusters.
async fn asking() -> (Served, Heard) {
    let heard = Heard::default();
    let hears = heard.clone();
    let served = serve_with(|builder| {
        builder.load_reports(LoadReporting::every(Duration::from_secs(10)), move |node, stats| {
            hears.lock().unwrap().push((node.id.clone(), stats.cluster_name.clone()));
        })
    })
    .await;
    (served, heard)
}

struct Reporter {
    reports: mpsc::UnboundedSender<LoadStatsRequest>,
    selections: Streaming<LoadStatsResponse>,
}

impl Reporter {
    async fn connect(served: &Served, node: Node) -> Result<Self, Status> {
        let (reports, receiver) = mpsc::unbounded_channel();
        let first = LoadStatsRequest { node: Some(node), ..LoadStatsRequest::default() };
        reports.send(first).unwrap();
        let mut client = LoadReportingServiceClient::new(served.channel().await);
        let selections = client.stream_load_stats(UnboundedReceiverStream::new(receiver)).await?;
        Ok(Self { reports, selections: selections.into_inner() })
    }

    async fn selection(&mut self) -> LoadStatsResponse {
        next(&mut self.selections).await.unwrap().expect("a selection")
    }

    fn report(&self, cluster_stats: impl IntoIterator<Item = ClusterStats>) {
        let cluster_stats = cluster_stats.into_iter().collect();
        self.reports.send(LoadStatsRequest { node: None, cluster_stats }).unwrap();
    }
}

fn node(id: &str, features: &[&str]) -> Node {
    let client_features = features.iter().map(|feature| (*feature).to_owned()).collect();
    Node { id: id.into(), cluster: "c".into(), client_features, ..Node::default() }
}

fn stats(cluster: &str, service: &str, zone: &str, (ok, busy): (u64, u64)) -> ClusterStats {
    let locality = Some(Locality { zone: zone.into(), ..Locality::default() });
    let metric = EndpointLoadMetricStats {
        metric_name: "named_metrics.queue".into(),
        num_requests_finished_with_metric: ok,
        total_metric_value: 1.5,
    };
    ClusterStats {
        cluster_name: cluster.into(),
        cluster_service_name: service.into(),
        upstream_locality_stats: vec![UpstreamLocalityStats {
            locality,
            total_successful_requests: ok,
            total_error_requests: 1,
            total_issued_requests: ok + 1,
            total_requests_in_progress: busy,
            load_metric_stats: vec![metric],
            ..UpstreamLocalityStats::default()
        }],
        total_dropped_requests: 3,
        dropped_requests: vec![DroppedRequests { category: "lb".into(), dropped_count: 2 }],
        load_report_interval: Some(Interval { seconds: 9, nanos: 500_000_000 }),
    }
}

/// Waits until a load is as it should be.
async fn expect(served: &Served, cluster: &str, is_so: impl Fn(&Load) -> bool) -> Load {
    let found = async {
        loop {
            let mut all = served.server.loads();
            let key = all.keys().find(|key| key.cluster == cluster).cloned();
            match key.and_then(|key| all.remove(&key)).filter(&is_so) {
                Some(load) => return load,
                None => tokio::task::yield_now().await,
            }
        }
    };
    match timeout(Duration::from_secs(10), found).await {
        Ok(load) => load,
        Err(_) => panic!("{cluster}: {:?}", served.server.loads()),
    }
}

#[tokio::test]
async fn l01_l02_a_client_is_told_at_once_what_to_report_all_if_it_can() {
    let (served, _) = asking().await;
    served.put("c", "a", "1");
    served.put("c", "b", "1");
    let mut able = Reporter::connect(&served, node("able", &[ALL])).await.unwrap();
    let selection = able.selection().await;
    assert_eq!((selection.send_all_clusters, selection.clusters), (true, vec![]));
    assert_eq!(selection.load_reporting_interval, Some(Interval { seconds: 10, nanos: 0 }));
    let mut plain = Reporter::connect(&served, node("plain", &[])).await.unwrap();
    let selection = plain.selection().await;
    assert!(!selection.send_all_clusters);
    assert_eq!(selection.clusters, ["a", "b"]);
}

#[tokio::test]
async fn l03_l04_reports_are_the_first_nodes_and_only_another_wish_is_said() {
    let (served, heard) = asking().await;
    let mut client = Reporter::connect(&served, node("n", &[ALL])).await.unwrap();
    client.selection().await;
    client.report([stats("a", "", "z", (5, 2))]);
    client.report([stats("b", "", "z", (5, 2))]);
    expect(&served, "b", |_| true).await;
    let said = |cluster: &str| ("n".to_owned(), cluster.to_owned());
    assert_eq!(*heard.lock().unwrap(), [said("a"), said("b")]);
    // The next that is said is this, so nothing was said to the reports.
    let less = LoadReporting::every(Duration::from_millis(2_500)).clusters(["a"]);
    served.server.ask_for_loads(less);
    let selection = client.selection().await;
    assert_eq!((selection.send_all_clusters, selection.clusters), (false, vec!["a".to_owned()]));
    let interval = Some(Interval { seconds: 2, nanos: 500_000_000 });
    assert_eq!(selection.load_reporting_interval, interval);
}

#[tokio::test]
async fn l05_what_clients_report_is_summed_up_by_cluster_service_and_locality() {
    let (served, _) = asking().await;
    let mut one = Reporter::connect(&served, node("one", &[ALL])).await.unwrap();
    let mut two = Reporter::connect(&served, node("two", &[ALL])).await.unwrap();
    one.selection().await;
    two.selection().await;
    one.report([stats("a", "shop", "east", (5, 2)), stats("b", "shop", "east", (1, 0))]);
    two.report([stats("a", "shop", "east", (7, 4)), stats("a", "shop", "west", (9, 1))]);
    let load = expect(&served, "a", |load| load.reported == Duration::from_millis(28_500)).await;
    let [east, west] = ["east", "west"].map(|zone| {
        let mut localities = load.localities.iter();
        localities.find(|(locality, _)| locality.zone == zone).unwrap().1.clone()
    });
    assert_eq!((east.successful, east.failed, east.issued, east.in_progress), (12, 2, 14, 6));
    assert_eq!((west.successful, west.in_progress), (9, 1));
    assert_eq!((load.dropped, load.dropped_by_category["lb"]), (9, 6));
    assert_eq!(load.total().successful, 21);
    assert_eq!(load.total().metrics["named_metrics.queue"], (21, 4.5));
    let keys: Vec<LoadKey> = served.server.loads().into_keys().collect();
    let names: Vec<_> = keys.iter().map(|key| (&*key.cluster, &*key.service)).collect();
    assert_eq!(names, [("a", "shop"), ("b", "shop")]);
    // What is under way is what was said last, by those who are there.
    one.report([]);
    expect(&served, "a", |load| load.total().in_progress == 5).await;
    drop(two);
    let load = expect(&served, "a", |load| load.total().in_progress == 0).await;
    assert_eq!(load.total().successful, 21);
}

#[tokio::test]
async fn l06_who_is_not_asked_for_load_is_told_so() {
    let served = serve().await;
    let refused = Reporter::connect(&served, node("n", &[ALL])).await.err().unwrap();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(served.server.loads().is_empty());
}

#[tokio::test]
async fn who_reports_is_told_when_the_server_ends() {
    let (mut served, _) = asking().await;
    let mut client = Reporter::connect(&served, node("n", &[ALL])).await.unwrap();
    client.selection().await;
    drop(served.stop.take());
    let ended = next(&mut client.selections).await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable);
    timeout(Duration::from_secs(10), served.task).await.unwrap().unwrap().unwrap();
}
