//! Until when a server runs, and how it ends.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::database::store::Store;
use crate::serve::ServeError;

/// How much of the end, at most, is for what is left when clients had their time to leave: to close the database.
const AT_LAST: Duration = Duration::from_secs(1);

/// Tells when the server is to end. Clones tell the same.
#[derive(Clone, Debug)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// It is to end when SIGTERM or SIGINT arrives.
    pub(crate) fn by_signal() -> io::Result<Stop> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let (sender, receiver) = watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping: clients are told to go elsewhere");
            sender.send_replace(true);
        });
        Ok(Stop(receiver))
    }

    /// Done when the server is to end.
    pub(crate) fn told(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stop = self.0.clone();
        async move {
            // An error says that nobody is left who could stop us: then we are stopped.
            let _ = stop.wait_for(|stop| *stop).await;
        }
    }

    /// Done so long after that.
    async fn told_before(&self, time: Duration) {
        self.told().await;
        sleep(time).await;
    }

    /// Does what is not for clients, until the server is to end: from then on clients leave, which says nothing of
    /// changes, and soon there is no database.
    pub(crate) fn beside(&self, work: impl Future<Output = ()> + Send + 'static) {
        let told = self.told();
        tokio::spawn(async move {
            tokio::select! {
                () = work => {}
                () = told => {}
            }
        });
    }

    /// Waits until both faces have ended, and what spreads clients over servers, and closes the database. From when
    /// the server is to end, all of that takes `within` at most.
    pub(crate) async fn end(
        &self,
        faces: impl Future<Output = Result<(), ServeError>>,
        spread: JoinHandle<()>,
        store: &Store,
        within: Duration,
    ) -> Result<(), ServeError> {
        let all = async {
            tokio::select! {
                ended = faces => ended?,
                () = self.told_before(within - at_last(within) / 2) => {
                    tracing::warn!("some connections did not end in time");
                }
            }
            // Long since done, but where nobody was connected.
            let _ = timeout(AT_LAST, spread).await;
            store.close().await;
            Ok(())
        };
        tokio::select! {
            ended = all => ended,
            () = self.told_before(within) => {
                tracing::warn!("the database did not let go in time");
                Ok(())
            }
        }
    }
}

/// How long clients have to leave, of an end that takes `within` at most.
pub(crate) fn to_leave(within: Duration) -> Duration {
    within - at_last(within)
}

fn at_last(within: Duration) -> Duration {
    AT_LAST.min(within / 4)
}
