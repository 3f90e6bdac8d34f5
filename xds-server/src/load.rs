//! Load reports (LRS): what clients say of the traffic that they sent, and where, summed up.
//!
//! A client says who it is, is told which clusters to report and how often, and then reports what happened
//! since its last report. What it counts is added up here by cluster, service and locality over all
//! clients and for as long as the server runs; what is in progress is the sum of everybody's last word.

mod sums;

use std::{
    collections::BTreeMap,
    fmt,
    future::pending,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use deltaplane_core::{TypeUrl, View};
use envoy_types::pb::{
    envoy::{
        config::{
            core::v3::{Locality, Node},
            endpoint::v3::{ClusterStats, UpstreamLocalityStats},
        },
        service::load_stats::v3::{
            LoadStatsRequest, LoadStatsResponse,
            load_reporting_service_server::{LoadReportingService, LoadReportingServiceServer},
        },
    },
    google::protobuf::Duration as Interval,
};
use futures::{Stream, stream};
use tokio::{sync::watch, time::Instant};
use tonic::{Response, Status, Streaming};

use self::sums::{Sums, UnderWay};
use crate::{
    authorizer::Admission,
    peer::Credentials,
    server::{Shared, XdsServer, XdsServerBuilder},
    spread,
};

/// Which load clients report, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadReporting {
    interval: Duration,
    clusters: Option<Vec<String>>,
}

impl LoadReporting {
    /// That of all clusters, so often; at least a millisecond passes between two reports, and at most ten
    /// years, since clients take no interval that is much longer.
    ///
    /// Clients that do not know how to report all clusters (Envoy and gRPC do) are asked for those that
    /// they see when they are asked.
    #[must_use]
    pub fn every(interval: Duration) -> Self {
        Self { interval: spread::bounded(interval).max(Duration::from_millis(1)), clusters: None }
    }

    /// That of these clusters alone, by the names that clients know them by.
    #[must_use]
    pub fn clusters(mut self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.clusters = Some(names.into_iter().map(Into::into).collect());
        self
    }
}

/// What load is of: a cluster, and the name that its endpoints go by in EDS, if that is another. Several
/// clusters may share a service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct LoadKey {
    /// The cluster.
    pub cluster: String,
    /// Its service name, or nothing.
    pub service: String,
}

/// What was reported of one cluster and service, by all clients since the server started, or since it was
/// forgotten: of 100,000 clusters and localities in all is kept what was reported last.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Load {
    /// By locality and priority.
    pub localities: BTreeMap<LocalityKey, LocalityLoad>,
    /// Requests that clients dropped, in all.
    pub dropped: u64,
    /// Those of them that they dropped for a category of `drop_overloads`.
    pub dropped_by_category: BTreeMap<String, u64>,
    /// How long the reports were about, added up over clients.
    pub reported: Duration,
}

/// Where requests were sent.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct LocalityKey {
    /// The region.
    pub region: String,
    /// The zone.
    pub zone: String,
    /// The part of the zone.
    pub sub_zone: String,
    /// The priority of these endpoints; 0 is the highest.
    pub priority: u32,
}

/// What was reported of one locality, or of several.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct LocalityLoad {
    /// Requests that succeeded.
    pub successful: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests that were sent.
    pub issued: u64,
    /// Requests that are under way, by the last word of every client that is connected.
    pub in_progress: u64,
    /// What backends report by ORCA: of each metric, how many requests had it, and its sum.
    pub metrics: BTreeMap<String, (u64, f64)>,
}

impl Load {
    /// All localities together.
    #[must_use]
    pub fn total(&self) -> LocalityLoad {
        let mut total = LocalityLoad::default();
        for locality in self.localities.values() {
            total.successful = total.successful.saturating_add(locality.successful);
            total.failed = total.failed.saturating_add(locality.failed);
            total.issued = total.issued.saturating_add(locality.issued);
            total.in_progress = total.in_progress.saturating_add(locality.in_progress);
            for (name, (count, sum)) in &locality.metrics {
                let metric = total.metrics.entry(name.clone()).or_default();
                metric.0 = metric.0.saturating_add(*count);
                metric.1 += sum;
            }
        }
        total
    }
}

/// Who hears each report.
type Heard = dyn Fn(&Node, &ClusterStats) + Send + Sync;

/// What is asked for, and what came.
pub(crate) struct Loads {
    reporting: watch::Sender<LoadReporting>,
    heard: Box<Heard>,
    sums: Mutex<Sums>,
}

impl Loads {
    pub(crate) fn new(reporting: LoadReporting, heard: Box<Heard>) -> Self {
        Self { reporting: watch::Sender::new(reporting), heard, sums: Mutex::default() }
    }

    fn sums(&self) -> MutexGuard<'_, Sums> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, this is asked for, of clients that are connected too.
    pub(crate) fn ask(&self, reporting: LoadReporting) {
        self.reporting.send_replace(reporting);
    }

    pub(crate) fn all(&self) -> BTreeMap<LoadKey, Load> {
        self.sums().all()
    }
}

impl LocalityKey {
    fn of(stats: &UpstreamLocalityStats) -> Self {
        let Locality { region, zone, sub_zone } = stats.locality.clone().unwrap_or_default();
        Self { region, zone, sub_zone, priority: stats.priority }
    }
}

impl LocalityLoad {
    fn add(&mut self, stats: &UpstreamLocalityStats) {
        self.successful = self.successful.saturating_add(stats.total_successful_requests);
        self.failed = self.failed.saturating_add(stats.total_error_requests);
        self.issued = self.issued.saturating_add(stats.total_issued_requests);
        self.in_progress = self.in_progress.saturating_add(stats.total_requests_in_progress);
        for metric in &stats.load_metric_stats {
            let Some((count, sum)) = sums::entry(&mut self.metrics, &metric.metric_name) else {
                continue;
            };
            *count = count.saturating_add(metric.num_requests_finished_with_metric);
            *sum += metric.total_metric_value;
        }
    }
}

impl XdsServer {
    /// What clients have reported of the load that they send, by cluster and service, since the server
    /// started; nothing, unless [they are asked](XdsServerBuilder::load_reports). Costs what is known.
    #[must_use]
    pub fn loads(&self) -> BTreeMap<LoadKey, Load> {
        self.shared.loads.as_ref().map(Loads::all).unwrap_or_default()
    }

    /// From now on, clients report other load, or at another interval, those that are connected too.
    pub fn ask_for_loads(&self, reporting: LoadReporting) {
        if let Some(loads) = &self.shared.loads {
            loads.ask(reporting);
        }
    }

    /// Load reports (LRS) for a tonic router of your own; [`serve`](XdsServer::serve) has them by itself.
    #[must_use]
    pub fn load_reporting(&self) -> LoadReportingServiceServer<LoadService> {
        service(&self.shared)
    }
}

impl XdsServerBuilder {
    /// Asks clients to report the load that they send, and where (LRS), and tells each report to `heard`;
    /// [`XdsServer::loads`] has them summed up. Without this, clients are told that nobody asks.
    ///
    /// `heard` is called on the task of the client's report, and should return quickly. The statistics are
    /// the client's own words: each of its counters counts from its last report.
    pub fn load_reports(
        mut self,
        reporting: LoadReporting,
        heard: impl Fn(&Node, &ClusterStats) + Send + Sync + 'static,
    ) -> Self {
        self.loads = Some(Loads::new(reporting, Box::new(heard)));
        self
    }
}

/// The service of load reports: see [`XdsServer::load_reporting`](crate::XdsServer::load_reporting).
pub struct LoadService(Arc<Shared>);

impl fmt::Debug for LoadService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LoadService")
    }
}

/// The service, for a router.
pub(crate) fn service(shared: &Arc<Shared>) -> LoadReportingServiceServer<LoadService> {
    LoadReportingServiceServer::new(LoadService(shared.clone()))
}

#[tonic::async_trait]
impl LoadReportingService for LoadService {
    type StreamLoadStatsStream =
        Pin<Box<dyn Stream<Item = Result<LoadStatsResponse, Status>> + Send>>;

    async fn stream_load_stats(
        &self,
        request: tonic::Request<Streaming<LoadStatsRequest>>,
    ) -> Result<Response<Self::StreamLoadStatsStream>, Status> {
        let Some(loads) = &self.0.loads else {
            return Err(Status::unimplemented("this server does not ask for load reports"));
        };
        let credentials = Credentials::of(request.metadata().as_ref(), request.extensions());
        let reporter = Reporter {
            admission: self.0.admission(credentials),
            opened: Instant::now(),
            reporting: loads.reporting.subscribe(),
            over: Box::pin(self.0.over_with(&request)),
            shared: self.0.clone(),
            reports: request.into_inner(),
            node: None,
            under_way: UnderWay::new(),
        };
        let selections = stream::try_unfold(reporter, |mut reporter| async move {
            Ok(reporter.next().await?.map(|selection| (selection, reporter)))
        });
        Ok(Response::new(Box::pin(selections)))
    }
}

/// One client that reports.
struct Reporter {
    shared: Arc<Shared>,
    reports: Streaming<LoadStatsRequest>,
    reporting: watch::Receiver<LoadReporting>,
    /// Done when its connection ends, or the server.
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
    admission: Option<Admission>,
    opened: Instant,
    /// Who it is, by its first message (L-03).
    node: Option<Node>,
    under_way: UnderWay,
}

impl Reporter {
    /// What to ask the client for next: when it came, and when something else is asked for (L-01, L-04).
    async fn next(&mut self) -> Result<Option<LoadStatsResponse>, Status> {
        loop {
            let Self { reports, reporting, over, node, admission, opened, .. } = self;
            let refused = async {
                match (admission, &*node) {
                    (Some(admission), Some(node)) => admission.refusal(node, *opened).await,
                    _ => pending().await,
                }
            };
            let report = tokio::select! {
                report = reports.message() => report?,
                Ok(()) = reporting.changed(), if node.is_some() => return Ok(Some(self.selection())),
                status = refused => return Err(status),
                () = over => {
                    return Err(Status::unavailable("the connection ends: reconnect"));
                }
            };
            let Some(report) = report else { return Ok(None) };
            let is_first = self.node.is_none();
            if is_first {
                let node = report.node.clone().unwrap_or_default();
                if let Some(admission) = &mut self.admission {
                    admission.admit(&node).await?;
                }
                self.node = Some(node);
            }
            self.take(&report);
            if is_first {
                return Ok(Some(self.selection()));
            }
        }
    }

    fn take(&mut self, report: &LoadStatsRequest) {
        let (Some(loads), Some(node)) = (&self.shared.loads, &self.node) else { return };
        loads.sums().take(&report.cluster_stats, &mut self.under_way);
        report.cluster_stats.iter().for_each(|stats| (loads.heard)(node, stats));
    }

    fn selection(&mut self) -> LoadStatsResponse {
        let LoadReporting { interval, clusters } = self.reporting.borrow_and_update().clone();
        let knows_all = |node: &Node| node.client_features.iter().any(|known| known == ALL);
        let send_all_clusters = clusters.is_none() && self.node.as_ref().is_some_and(knows_all);
        let clusters = match clusters {
            Some(clusters) => clusters,
            None if send_all_clusters => Vec::new(),
            None => self.seen(),
        };
        LoadStatsResponse {
            clusters,
            send_all_clusters,
            load_reporting_interval: Some(Interval {
                seconds: i64::try_from(interval.as_secs()).unwrap_or(i64::MAX),
                nanos: i32::try_from(interval.subsec_nanos()).unwrap_or(0),
            }),
            report_endpoint_granularity: false,
        }
    }

    /// The clusters that the client sees.
    fn seen(&self) -> Vec<String> {
        let grant = self.admission.as_ref().and_then(Admission::grant);
        let scopes = self.shared.scopes_of(&self.node.clone().unwrap_or_default(), grant);
        let view = self.shared.cache.view(&scopes);
        view.resources(&TypeUrl::CLUSTER).map(|cluster| cluster.name().to_string()).collect()
    }
}

/// What a client says of how long it was; nothing, if that is negative.
fn duration(interval: Interval) -> Duration {
    let seconds = u64::try_from(interval.seconds).unwrap_or(0);
    Duration::new(seconds, u32::try_from(interval.nanos.min(999_999_999)).unwrap_or(0))
}

/// By this feature a client says that it can report all clusters (L-02).
const ALL: &str = "envoy.lrs.supports_send_all_clusters";

impl Drop for Reporter {
    fn drop(&mut self) {
        if let Some(loads) = &self.shared.loads {
            loads.sums().end(std::mem::take(&mut self.under_way));
        }
    }
}
