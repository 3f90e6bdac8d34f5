//! The servers on one database, which spread clients over each other.
//!
//! None leads, and none talks to another: each says in a table how many streams it has, and reads what the others
//! have. Who has had more than its share for a while ends some, which come back elsewhere.

use std::time::Duration;

use sqlx::AssertSqlSafe;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::database::store::{Store, StoreError, within};
use crate::serve::running::Running;

/// How often a server says that it is there, and how long the database may take to hear it.
const INTERVAL: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(2);

/// That a server is there, since it was heard of lately, in SQL.
pub(crate) const IS_THERE: &str = "seen > clock_timestamp() - INTERVAL '3 seconds'";

/// For how long there have to be too many streams. It is longer than a server is counted that fell silent, so that
/// who takes over its clients does not send them on.
const LONG_ENOUGH: Duration = Duration::from_secs(5);

/// After which time one looks whether it led anywhere to end streams.
const WINDOW: Duration = Duration::from_secs(10);

/// How long it is left when it did not, at first and at most.
const REST: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));

/// The library tolerates a tenth above the share.
const TOLERANCE: u64 = 10;

/// The servers on a database, and the streams of all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replicas {
    /// How many there are, this one included.
    pub servers: u64,
    /// How many streams they have.
    pub streams: u64,
    /// How many this one should have at most, while it has more and ends some.
    pub share: Option<u64>,
}

impl Replicas {
    /// How many streams a server should have; nothing, if there are no others.
    fn fair(self) -> Option<u64> {
        let share = (self.servers > 1).then(|| self.streams.div_ceil(self.servers))?;
        // A tenth of a few is nothing, and two more or less are nothing, too.
        Some(if share < TOLERANCE { share + 2 } else { share })
    }
}

/// Says that this server is there, for as long as it serves, and ends streams of which others should have some, if
/// it may. On SQLite there are no others.
pub(crate) async fn spread(running: Running, may_shed: bool, stopped: impl Future<Output = ()>) {
    if !running.store.has_others() {
        return;
    }
    tokio::select! {
        () = stopped => {}
        () = follow(&running, may_shed) => {}
    }
    running.server.set_fair_share(None);
    // From now on, nobody should send anybody here.
    if let Err(error) = running.store.leave().await {
        tracing::debug!(%error, "the others will find out by themselves that this server ends");
    }
}

async fn follow(running: &Running, may_shed: bool) {
    let mut balance = Balance::default();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if !running.health.status().serves_xds {
            continue;
        }
        let here = running.server.occupancy();
        let streams = here.streams as u64;
        let mut replicas = match running.store.tell(streams).await {
            Ok(replicas) => Some(replicas),
            // The publisher tells of a lost database.
            Err(error) => {
                tracing::debug!(%error, "nothing is known of other servers");
                balance = Balance::default();
                None
            }
        };
        if let Some(replicas) = &mut replicas
            && may_shed
        {
            replicas.share = balance.share(Instant::now(), *replicas, streams, here.shed);
        }
        let share = replicas.and_then(|replicas| replicas.share);
        running
            .server
            .set_fair_share(share.map(|share| usize::try_from(share).unwrap_or(usize::MAX)));
        if running.health.status().replicas != replicas {
            running.health.update(|status| status.replicas = replicas);
        }
    }
}

/// Whether some of the streams that are here are to be ended.
#[derive(Debug, Default)]
struct Balance {
    /// How many servers there were.
    servers: u64,
    /// Since when there are too many streams.
    full: Option<Instant>,
    /// What there was when it was begun to end some.
    effort: Option<Effort>,
    /// Until when it is left, and for how long.
    rest: Option<(Instant, Duration)>,
}

#[derive(Clone, Copy, Debug)]
struct Effort {
    since: Instant,
    streams: u64,
    shed: u64,
}

impl Balance {
    /// How many streams should stay, if some are to be ended, of which `shed` were until now.
    fn share(&mut self, now: Instant, all: Replicas, streams: u64, shed: u64) -> Option<u64> {
        if self.servers != all.servers {
            // Clients may reach who is new where they did not reach the others.
            *self = Balance { servers: all.servers, ..Balance::default() };
        }
        let Some(share) = all.fair().filter(|share| streams > share + share / TOLERANCE) else {
            (self.full, self.effort) = (None, None);
            return None;
        };
        let full = *self.full.get_or_insert(now);
        let rests = self.rest.is_some_and(|(until, _)| now < until);
        if rests || now.duration_since(full) < LONG_ENOUGH {
            return None;
        }
        let begun = Effort { since: now, streams, shed };
        if self.effort.is_none() {
            tracing::info!(
                streams,
                share,
                servers = all.servers,
                "other servers have less to do: some streams are ended, to come back there"
            );
        }
        let effort = *self.effort.get_or_insert(begun);
        if now.duration_since(effort.since) < WINDOW {
            return Some(share);
        }
        // Of those that are ended, one in so many at least should be gone, if each server gets as many as the others.
        let ended = shed.saturating_sub(effort.shed);
        let gone = effort.streams.saturating_sub(streams);
        if ended < 4 * all.servers {
            return Some(share);
        }
        if gone * 4 * all.servers >= ended {
            (self.effort, self.rest) = (Some(begun), None);
            return Some(share);
        }
        let length = self.rest.map_or(REST.0, |(_, length)| REST.1.min(2 * length));
        tracing::warn!(
            streams,
            share,
            ended,
            pause_s = length.as_secs(),
            "clients that should go to other servers come back: have them reach these, too, or set \
             --fair-share false"
        );
        (self.effort, self.rest) = (None, Some((now + length, length)));
        None
    }
}

impl Store {
    /// Says that this server is there and has so many streams, and returns what all have. Who has been silent for
    /// long is forgotten.
    async fn tell(&self, streams: u64) -> Result<Replicas, StoreError> {
        let sql = format!(
            "WITH told AS (\
                 INSERT INTO replicas (server, streams) VALUES ($1, $2) ON CONFLICT (server) \
                 DO UPDATE SET streams = EXCLUDED.streams, seen = clock_timestamp()), \
             forgotten AS (\
                 DELETE FROM replicas WHERE server IN (SELECT server FROM replicas \
                 WHERE server <> $1 AND seen < clock_timestamp() - INTERVAL '1 minute' \
                 FOR UPDATE SKIP LOCKED)) \
             SELECT count(*) AS servers, coalesce(sum(streams), 0)::BIGINT AS streams \
             FROM replicas WHERE server <> $1 AND {IS_THERE}"
        );
        let here = i64::try_from(streams).unwrap_or(i64::MAX);
        let query = sqlx::query_as(AssertSqlSafe(sql));
        let query = query.bind(self.server.to_string()).bind(here);
        let (servers, others): (i64, i64) =
            within(PATIENCE, async { query.fetch_one(&self.pool).await }).await?;
        Ok(Replicas {
            servers: servers.unsigned_abs() + 1,
            streams: others.unsigned_abs().saturating_add(streams),
            share: None,
        })
    }

    /// This server is not there any more.
    async fn leave(&self) -> Result<(), StoreError> {
        let query =
            sqlx::query("DELETE FROM replicas WHERE server = $1").bind(self.server.to_string());
        within(PATIENCE, async { query.execute(&self.pool).await }).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many seconds, in each of which so many streams are ended and so many come.
    struct Scene {
        balance: Balance,
        now: Instant,
        servers: u64,
        streams: u64,
        others: u64,
        shed: u64,
    }

    impl Scene {
        fn of(servers: u64, streams: u64, others: u64) -> Scene {
            let (balance, now) = (Balance::default(), Instant::now());
            Scene { balance, now, servers, streams, others, shed: 0 }
        }

        /// A second later.
        fn look(&mut self) -> Option<u64> {
            self.now += INTERVAL;
            let Scene { servers, streams, others, .. } = *self;
            let all = Replicas { servers, streams: streams + others, share: None };
            self.balance.share(self.now, all, streams, self.shed)
        }

        /// For how many seconds nothing is ended.
        fn waits(&mut self) -> u64 {
            (0..10_000).find(|_| self.look().is_some()).unwrap_or(u64::MAX)
        }

        /// Four a second are told to go, of whom so many go; for how many seconds.
        fn sheds(&mut self, gone: u64) -> u64 {
            let mut seconds = 0;
            while self.look().is_some() {
                self.shed += 4;
                self.streams -= gone;
                self.others += gone;
                seconds += 1;
                assert!(seconds < 10_000, "it has no end");
            }
            seconds
        }
    }

    #[test]
    fn streams_even_out_within_a_tenth() {
        let mut scene = Scene::of(3, 600, 600);
        assert_eq!(scene.waits(), 5, "who falls silent is counted for 3 s more");
        scene.sheds(4);
        assert_eq!(scene.streams, 440);
        assert_eq!(scene.waits(), u64::MAX);
    }

    #[test]
    fn few_streams_more_or_less_are_left() {
        for (streams, others) in [(0, 0), (1, 0), (3, 0), (5, 0), (6, 2), (11, 9)] {
            assert_eq!(Scene::of(2, streams, others).waits(), u64::MAX, "{streams} {others}");
        }
        assert_eq!(Scene::of(2, 6, 0).waits(), 5);
    }

    #[test]
    fn alone_nothing_is_ended() {
        assert_eq!(Scene::of(1, 1000, 0).waits(), u64::MAX);
    }

    #[test]
    fn what_is_too_much_for_a_moment_stays() {
        let mut scene = Scene::of(2, 200, 100);
        for _ in 0..4 {
            assert_eq!(scene.look(), None);
        }
        // The other one, whose clients came here, is not counted any more.
        (scene.servers, scene.others) = (1, 0);
        assert_eq!(scene.waits(), u64::MAX);
    }

    #[test]
    fn where_clients_do_not_reach_others_it_is_left() {
        let mut scene = Scene::of(2, 100, 0);
        assert_eq!(scene.waits(), 5);
        assert!(scene.sheds(0) < 12);
        let rest = scene.waits();
        assert!((58..=60).contains(&rest), "{rest}");
        scene.sheds(0);
        let rest = scene.waits();
        assert!((118..=120).contains(&rest), "it is tried again, but less and less: {rest}");
        scene.sheds(0);
        // Who comes new may be reached.
        scene.servers = 3;
        assert_eq!(scene.waits(), 5);
    }

    #[test]
    fn of_many_servers_each_gets_a_few() {
        let mut scene = Scene::of(10, 1000, 8000);
        assert_eq!(scene.waits(), 5);
        // Nine of ten that are ended come to who has too many as well, and come back.
        let mut seconds = 0;
        while scene.look().is_some() {
            scene.shed += 10;
            scene.streams -= 1;
            scene.others += 1;
            seconds += 1;
        }
        assert_eq!((seconds, scene.streams), (10, 990));
    }
}
