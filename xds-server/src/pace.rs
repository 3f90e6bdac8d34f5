//! How soon after a commit clients are told of it.

use std::time::Duration;

use deltaplane_cache::CacheView;
use deltaplane_core::{Revision, View};

/// How soon after a commit each client is told of it, for whoever commits more often than a fleet should be
/// told: by default, at once. A client that cannot keep up is owed a difference in any case, and never a
/// backlog.
///
/// What waits is all that a stream would be told of what changed, and a client's own requests are answered
/// meanwhile from what it was told last. [`Delivery`](crate::Delivery) counts as pending who waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Pace {
    /// How long nothing has to change before clients are told what did.
    pub quiet: Duration,
    /// How long the first change waits at most, be there quiet or not.
    pub longest: Duration,
    /// How long after a client was told something it is told the next.
    pub apart: Duration,
}

impl Pace {
    /// Clients are told when nothing has changed for a while, or the first change has waited for too long.
    #[must_use]
    pub fn debounce(self, quiet: Duration, longest: Duration) -> Self {
        Self { quiet, longest, ..self }
    }

    /// Each client is told at most so many times a second; 0 counts as 1.
    #[must_use]
    pub fn throttle(self, per_second: u32) -> Self {
        Self { apart: Duration::from_secs(1) / per_second.max(1), ..self }
    }
}

/// What a stream that has a pace is served from.
#[derive(Debug)]
pub(crate) struct Pacing {
    pacer: Pacer,
    /// What it looked at last.
    view: Option<CacheView>,
}

impl Pacing {
    pub(crate) fn new(pace: Pace) -> Self {
        Self { pacer: Pacer::new(pace), view: None }
    }

    /// Goes on to the newest view, if it is time for that.
    pub(crate) fn go_on(&mut self, now: Duration, has_changed: bool) {
        if has_changed {
            self.pacer.change(now);
        }
        self.pacer.release(now);
    }

    /// What it looked at last, while something that changed since has to wait. Nothing else may keep it from
    /// the newest: what the client only now asks for may have changed long ago.
    fn held_back(&self) -> Option<&CacheView> {
        self.view.as_ref().filter(|_| self.pacer.waiting.is_some())
    }

    /// When it is time for that, if something changed.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.pacer.due()
    }

    /// The view that it is served from.
    pub(crate) fn view(&mut self, newest: impl FnOnce() -> CacheView) -> CacheView {
        let view = self.held_back().cloned().unwrap_or_else(newest);
        self.view = Some(view.clone());
        view
    }

    /// The revision of that, unless it is the newest.
    pub(crate) fn revision(&self) -> Option<Revision> {
        self.held_back().map(View::revision)
    }

    /// Is served from this view now.
    pub(crate) fn show(&mut self, view: CacheView) {
        self.view = Some(view);
    }
}

/// The pace of one stream. Times are since it opened.
#[derive(Debug)]
struct Pacer {
    pace: Pace,
    /// When the first and the last change came that the client was not told of.
    waiting: Option<(Duration, Duration)>,
    /// When it was told last.
    told: Option<Duration>,
}

impl Pacer {
    fn new(pace: Pace) -> Self {
        Self { pace, waiting: None, told: None }
    }

    /// Notes that something changed.
    fn change(&mut self, now: Duration) {
        let (first, _) = self.waiting.unwrap_or((now, now));
        self.waiting = Some((first, now));
    }

    /// When what changed is told, if something did.
    fn due(&self) -> Option<Duration> {
        let (first, last) = self.waiting?;
        let Pace { quiet, longest, apart } = self.pace;
        let settled = last.saturating_add(quiet).min(first.saturating_add(longest.max(quiet)));
        let free = self.told.map_or(Duration::ZERO, |told| told.saturating_add(apart));
        Some(settled.max(free))
    }

    /// Whether what changed is told now.
    fn release(&mut self, now: Duration) -> bool {
        let is_due = self.due().is_some_and(|due| due <= now);
        if is_due {
            (self.waiting, self.told) = (None, Some(now));
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn without_a_pace_a_change_is_told_at_once() {
        let mut pacer = Pacer::new(Pace::default());
        assert!(!pacer.release(ms(5)));
        pacer.change(ms(5));
        assert!(pacer.release(ms(5)));
        assert!(!pacer.release(ms(5)));
    }

    #[test]
    fn a_change_waits_for_quiet_but_not_for_ever() {
        let mut pacer = Pacer::new(Pace::default().debounce(ms(10), ms(25)));
        pacer.change(ms(0));
        assert_eq!(pacer.due(), Some(ms(10)));
        pacer.change(ms(8));
        assert!(!pacer.release(ms(17)));
        assert_eq!(pacer.due(), Some(ms(18)));
        pacer.change(ms(17));
        assert_eq!(pacer.due(), Some(ms(25)));
        assert!(pacer.release(ms(25)));
        assert_eq!(pacer.due(), None);
    }

    #[test]
    fn who_was_told_just_now_is_told_the_next_later() {
        let mut pacer = Pacer::new(Pace::default().throttle(10));
        pacer.change(ms(0));
        assert!(pacer.release(ms(0)));
        pacer.change(ms(1));
        pacer.change(ms(2));
        assert!(!pacer.release(ms(99)));
        assert!(pacer.release(ms(100)));
        pacer.change(ms(900));
        assert_eq!(pacer.due(), Some(ms(900)));
    }
}
