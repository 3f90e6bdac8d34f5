//! What Prometheus is told, at `/metrics`.
//!
//! Nearly all of it is read off the running server when it is asked for. What
//! has to be measured while it happens is how long a change takes to reach all
//! clients, and how long the database takes.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use deltaplane_server::{HowMany, Occupancy};
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{
    Error, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry,
    TextEncoder, process_collector::ProcessCollector,
};

use crate::canary::rollouts::Ended;
use crate::rest::client::{State, variant};
use crate::serve::running::Running;
use crate::status::health::{Published, Status};
use crate::tls::TlsStatus;

/// A change that takes longer than this is no longer waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// How soon after a change one looks first whether it has settled. Each look comes later than the one before
/// by a quarter, so that there are some dozen of them however many clients there are.
const FIRST_LOOK: Duration = Duration::from_millis(1);

/// In seconds.
const BUCKETS: [f64; 15] =
    [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0];

/// How long the database takes for what is asked of it. It is asked in many places, and by tests without a
/// server; so there is one for the process.
static DATABASE: LazyLock<Option<HistogramVec>> = LazyLock::new(|| {
    let options = HistogramOpts::new(
        "deltaplane_database_seconds",
        "How long the database takes for what is asked of it, by whether it did it: ok or failed",
    );
    HistogramVec::new(options.buckets(BUCKETS.to_vec()), &["result"]).ok()
});

/// The database did something, or failed to.
pub(crate) fn database_answered(after: Duration, is_done: bool) {
    if let Some(answers) = &*DATABASE {
        let result = if is_done { "ok" } else { "failed" };
        answers.with_label_values(&[result]).observe(after.as_secs_f64());
    }
}

/// What is measured while it happens. Clones share it.
#[derive(Clone, Debug)]
pub struct Metrics {
    settled: Histogram,
    outcomes: IntCounterVec,
    process: Registry,
}

/// What became of a change.
#[derive(Clone, Copy)]
enum Outcome {
    Settled,
    Rejected,
    Late,
    /// Another one came before it had reached everybody.
    Overtaken,
}

impl Metrics {
    /// Nothing is measured yet.
    ///
    /// # Errors
    /// If a name is none for Prometheus.
    pub fn new() -> Result<Metrics, Error> {
        let settled = HistogramOpts::new(
            "deltaplane_commit_to_settled_seconds",
            "From a change to the moment when every connected client has acknowledged it",
        );
        let outcomes = Opts::new(
            "deltaplane_commits_total",
            "Changes while clients were connected, by what became of them: settled, rejected by a \
             client, late (not settled within a minute), or overtaken by the next change",
        );
        let process = Registry::new();
        process.register(Box::new(ProcessCollector::for_self()))?;
        Ok(Metrics {
            settled: Histogram::with_opts(settled.buckets(BUCKETS.to_vec()))?,
            outcomes: IntCounterVec::new(outcomes, &["outcome"])?,
            process,
        })
    }

    /// Measures for ever how long changes take. While one is on its way, the next ones overtake it: a client
    /// that acknowledged those acknowledged it.
    pub async fn measure(self, running: Running) {
        let mut health = running.health.watch();
        let mut last = None;
        loop {
            let published = health.borrow_and_update().published;
            if let Some(published) = published.filter(|_| published != last) {
                last = Some(published);
                if let Some(outcome) = self.follow(&running, &published).await {
                    self.outcomes.with_label_values(&[outcome.word()]).inc();
                }
            } else if health.changed().await.is_err() {
                return;
            }
        }
    }

    /// Looks until all clients have the change; nothing, if there are none.
    async fn follow(&self, running: &Running, published: &Published) -> Option<Outcome> {
        let mut pause = FIRST_LOOK;
        loop {
            tokio::time::sleep(pause).await;
            pause = pause.mul_f64(1.25).min(Duration::from_secs(1));
            let delivery = running.server.delivery(published.revision);
            if delivery.clients.is_empty() {
                return None;
            }
            let elapsed = published.since.elapsed();
            if delivery.has_settled(HowMany::All) {
                self.settled.observe(elapsed.as_secs_f64());
                return Some(Outcome::Settled);
            }
            if delivery.pending().next().is_none() {
                return Some(Outcome::Rejected);
            }
            if elapsed > PATIENCE {
                return Some(Outcome::Late);
            }
            if running.health.status().published.as_ref() != Some(published) {
                return Some(Outcome::Overtaken);
            }
        }
    }

    /// All of it, in Prometheus' text format.
    ///
    /// # Errors
    /// If something cannot be written in it.
    pub fn text(&self, running: &Running) -> Result<String, Error> {
        let mut families = self.settled.collect();
        families.extend(self.outcomes.collect());
        families.extend(DATABASE.iter().flat_map(Collector::collect));
        families.extend(self.process.gather());
        let page = Page(Registry::new());
        server(&page, running)?;
        clients(&page, running)?;
        rollouts(&page, running)?;
        traffic(&page, running)?;
        loads(&page, running)?;
        families.extend(page.0.gather());
        families.retain(|family: &MetricFamily| !family.get_metric().is_empty());
        TextEncoder::new().encode_to_string(&families)
    }
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Outcome::Settled => "settled",
            Outcome::Rejected => "rejected",
            Outcome::Late => "late",
            Outcome::Overtaken => "overtaken",
        }
    }
}

/// What is read off at this moment.
struct Page(Registry);

impl Page {
    fn gauge(&self, name: &str, help: &str, value: f64) -> Result<(), Error> {
        self.gauges(name, help, [], [([], value)])
    }

    fn gauges<'a, const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&str; N],
        values: impl IntoIterator<Item = ([&'a str; N], f64)>,
    ) -> Result<(), Error> {
        let gauges = GaugeVec::new(Opts::new(name, help), &labels)?;
        for (labels, value) in values {
            gauges.get_metric_with_label_values(&labels)?.set(value);
        }
        self.0.register(Box::new(gauges))
    }

    fn counter(&self, name: &str, help: &str, value: u64) -> Result<(), Error> {
        self.counters(name, help, [], [([], value)])
    }

    fn counters<'a, const N: usize>(
        &self,
        name: &str,
        help: &str,
        labels: [&str; N],
        values: impl IntoIterator<Item = ([&'a str; N], u64)>,
    ) -> Result<(), Error> {
        let counters = IntCounterVec::new(Opts::new(name, help), &labels)?;
        for (labels, value) in values {
            counters.get_metric_with_label_values(&labels)?.inc_by(value);
        }
        self.0.register(Box::new(counters))
    }
}

/// Numbers that are counted are far below what a float can tell apart.
#[allow(clippy::cast_precision_loss)]
fn float(count: u64) -> f64 {
    count as f64
}

fn server(page: &Page, running: &Running) -> Result<(), Error> {
    let status = running.health.status();
    let version = [([env!("CARGO_PKG_VERSION")], 1.0)];
    page.gauges("deltaplane_build_info", "The version of deltaplane", ["version"], version)?;
    let ready = u64::from(status.is_ready());
    page.gauge("deltaplane_ready", "Whether /readyz says yes", float(ready))?;
    let revision = status.revision.unsigned_abs();
    page.gauge(
        "deltaplane_revision",
        "The revision of the database that is served",
        float(revision),
    )?;
    page.counter("deltaplane_publications_total", "Changes published", status.publications)?;
    let name = "deltaplane_database_untold_changes_total";
    let help = "Changes that were found without a notification by PostgreSQL, up to a second late";
    page.counter(name, help, status.untold)?;
    let name = "deltaplane_coalesced_total";
    page.counter(name, "Changes told together with what waited already", status.coalesced)?;
    let ends = status.certificates.iter();
    let ends = ends.map(|(name, end)| ([name.as_str()], float(end.unsigned_abs())));
    let name = "deltaplane_certificate_not_after_timestamp_seconds";
    page.gauges(name, "When each stored certificate ends", ["name"], ends)?;
    tls(page, &status.tls)?;
    let at = status.published.map_or(0.0, |published| {
        published.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
    });
    let name = "deltaplane_last_publication_timestamp_seconds";
    page.gauge(name, "When something was published last", at)?;
    page.counter(
        "deltaplane_rows_translated_total",
        "Services translated",
        status.rows_translated,
    )?;
    let name = "deltaplane_resources_built_total";
    page.counter(name, "Resources built, encoded and hashed", status.resources_built)?;
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        let tasks = runtime.metrics().num_alive_tasks();
        page.gauge(
            "deltaplane_tasks",
            "Tasks that were begun and have not ended",
            float(tasks as u64),
        )?;
    }
    database(page, running, &status)?;
    let mut sizes: BTreeMap<String, u64> = BTreeMap::new();
    for (_, type_url, resources) in running.cache.sizes() {
        *sizes.entry(type_url.message_name().to_owned()).or_default() += resources as u64;
    }
    let sizes = sizes.iter().map(|(name, size)| ([name.as_str()], float(*size)));
    page.gauges("deltaplane_resources", "Resources that are served, in all scopes", ["type"], sizes)
}

/// How the server stands with its database, and with what is in it.
fn database(page: &Page, running: &Running, status: &Status) -> Result<(), Error> {
    let invalid = float(status.invalid_rows as u64);
    let help = "Rows of the database that are not valid, so that what they were before is served";
    page.gauge("deltaplane_invalid_rows", help, invalid)?;
    let up = u64::from(status.trouble.is_none());
    page.gauge("deltaplane_database_up", "Whether the database can be followed", float(up))?;
    let writable = u64::from(status.unwritten.is_none());
    let help = "Whether the database stored what was written last";
    page.gauge("deltaplane_database_writable", help, float(writable))?;
    let unkept = u64::from(status.unkept.is_some());
    let help = "Whether the last known good state cannot be kept in its file";
    page.gauge("deltaplane_last_known_good_failing", help, float(unkept))?;
    let kept = u64::from(status.last_known_good.is_some());
    let name = "deltaplane_last_known_good_served";
    let help = "Whether the database was not read yet, and what was kept of it is served";
    page.gauge(name, help, float(kept))?;
    let (idle, all) = running.store.connections();
    let connections = [(["idle"], float(idle)), (["busy"], float(all.saturating_sub(idle)))];
    let name = "deltaplane_database_connections";
    page.gauges(name, "Connections to the database", ["state"], connections)
}

/// Of the faces that have TLS.
fn tls(page: &Page, faces: &BTreeMap<&'static str, TlsStatus>) -> Result<(), Error> {
    let ends = faces.iter().flat_map(|(face, tls)| {
        let authorities = tls.client_ca_not_after.map(|end| ([*face, "client_ca"], end));
        std::iter::once(([*face, "server"], tls.not_after)).chain(authorities)
    });
    let ends = ends.map(|(labels, end)| (labels, float(end.unsigned_abs())));
    let name = "deltaplane_tls_not_after_timestamp_seconds";
    let help = "When the certificate that a face shows ends, and the first of the client CAs";
    page.gauges(name, help, ["face", "of"], ends)?;
    let loads = faces.iter().map(|(face, tls)| ([*face], tls.loads));
    let help = "How often certificates were taken over from files";
    page.counters("deltaplane_tls_loads_total", help, ["face"], loads)?;
    let failing =
        faces.iter().map(|(face, tls)| ([*face], float(u64::from(tls.trouble.is_some()))));
    let help =
        "Whether what is in the files now cannot be used, so that the old ones stay in force";
    page.gauges("deltaplane_tls_reload_failing", help, ["face"], failing)
}

/// Changes that go to some of a fleet first.
fn rollouts(page: &Page, running: &Running) -> Result<(), Error> {
    let all = running.rollouts.all();
    let ended = all.iter().flat_map(|(fleet, progress)| {
        let Ended { promoted, withdrawn, .. } = progress.ended;
        [([fleet.as_str(), "promoted"], promoted), ([fleet, "withdrawn"], withdrawn)]
    });
    let name = "deltaplane_rollouts_total";
    let help = "Changes that went to a canary first, by fleet and by what became of them";
    page.counters(name, help, ["fleet", "outcome"], ended)?;
    let rolled_back = all.iter();
    let rolled_back =
        rolled_back.map(|(fleet, progress)| ([fleet.as_str()], progress.ended.rolled_back));
    let name = "deltaplane_rollbacks_total";
    let help = "Changes that clients rejected and that were rolled back by themselves, by fleet";
    page.counters(name, help, ["fleet"], rolled_back)?;
    let stages = ["in_canary", "promoted", "withdrawn"];
    let stages = all.iter().flat_map(|(fleet, progress)| {
        let is = |stage| float(u64::from(progress.stage.word() == stage));
        stages.map(|stage| ([fleet.as_str(), stage], is(stage)))
    });
    let name = "deltaplane_rollout_stage";
    page.gauges(name, "Where the last change of a fleet is: 1", ["fleet", "stage"], stages)
}

fn clients(page: &Page, running: &Running) -> Result<(), Error> {
    let mut clients: BTreeMap<[&str; 2], u64> = BTreeMap::new();
    for (client, fate) in running.server.delivery(running.cache.revision()).clients {
        *clients.entry([variant(&client), State::of(&fate).word()]).or_default() += 1;
    }
    replicas(page, running)?;
    let Occupancy { connections, refused, aged, shed, idle, .. } = running.server.occupancy();
    page.gauge("deltaplane_xds_connections", "Connections of clients", float(connections as u64))?;
    let help = "Streams that were refused, since there were too many or too little memory was left";
    page.counter("deltaplane_xds_streams_refused_total", help, refused)?;
    let ended = [(["age"], aged), (["fair_share"], shed), (["idle"], idle)];
    let help = "Connections that the server ended for others' sake";
    page.counters("deltaplane_xds_connections_ended_total", help, ["reason"], ended)?;
    let clients = clients.into_iter().map(|(labels, count)| (labels, float(count)));
    let help = "Streams of discovery, by variant and by how far their clients are";
    page.gauges("deltaplane_xds_streams", help, ["variant", "state"], clients)
}

/// The servers on one database, over which clients spread.
fn replicas(page: &Page, running: &Running) -> Result<(), Error> {
    let replicas = running.health.status().replicas;
    let servers = replicas.map_or(0, |replicas| replicas.servers);
    let help = "Servers on the database, this one included; 0 if that is not known";
    page.gauge("deltaplane_replicas", help, float(servers))?;
    let share = replicas.and_then(|replicas| replicas.share).unwrap_or_default();
    let help = "How many streams should stay while some are ended, since other servers have less; 0 if none is";
    page.gauge("deltaplane_xds_streams_fair_share", help, float(share))
}

fn traffic(page: &Page, running: &Running) -> Result<(), Error> {
    let counts = running.traffic.counts();
    page.counter("deltaplane_xds_streams_opened_total", "Streams that began", counts.opened)?;
    page.counter("deltaplane_xds_streams_closed_total", "Streams that ended", counts.closed)?;
    let by_type = |of: fn(&crate::status::traffic::TypeCounts) -> u64| {
        counts.types.iter().map(move |(name, counts)| ([name.as_str()], of(counts)))
    };
    let name = "deltaplane_xds_responses_total";
    page.counters(name, "Responses sent", ["type"], by_type(|counts| counts.responses))?;
    let name = "deltaplane_xds_response_bytes_total";
    let help = "Bytes of responses, before compression";
    page.counters(name, help, ["type"], by_type(|counts| counts.bytes))?;
    let name = "deltaplane_xds_acks_total";
    page.counters(name, "Responses acknowledged", ["type"], by_type(|counts| counts.acks))?;
    let name = "deltaplane_xds_nacks_total";
    page.counters(name, "Responses rejected", ["type"], by_type(|counts| counts.nacks))
}

/// What clients report of the load that they send, by cluster.
fn loads(page: &Page, running: &Running) -> Result<(), Error> {
    /// Requests that succeeded, failed, were dropped, and are under way.
    type Sums = (u64, u64, u64, u64);
    let mut clusters: BTreeMap<String, Sums> = BTreeMap::new();
    for (key, load) in running.server.loads() {
        let (total, sums) = (load.total(), clusters.entry(key.cluster).or_default());
        sums.0 = sums.0.saturating_add(total.successful);
        sums.1 = sums.1.saturating_add(total.failed);
        sums.2 = sums.2.saturating_add(load.dropped);
        sums.3 = sums.3.saturating_add(total.in_progress);
    }
    let results = clusters.iter().flat_map(|(name, (successful, failed, dropped, _))| {
        [("success", *successful), ("error", *failed), ("dropped", *dropped)]
            .map(|(result, count)| ([name.as_str(), result], count))
    });
    let help = "Requests to a cluster, as clients report them";
    page.counters("deltaplane_load_requests_total", help, ["cluster", "result"], results)?;
    let under_way =
        clusters.iter().map(|(name, (.., under_way))| ([name.as_str()], float(*under_way)));
    let help = "Requests to a cluster that are under way, as clients report them";
    page.gauges("deltaplane_load_requests_in_progress", help, ["cluster"], under_way)
}
