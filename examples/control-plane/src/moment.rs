//! Moments, as people and programs read them, by RFC 3339; and by which clock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::AnyConnection;

/// What comes after the year 9999 has no words; whoever means that is shown its end.
const LAST: Duration = Duration::from_secs(253_402_300_799);

/// A moment to the millisecond.
pub(crate) fn of(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    humantime::format_rfc3339_millis(UNIX_EPOCH + since.min(LAST)).to_string()
}

/// One that is so many milliseconds after 1970.
pub(crate) fn of_milliseconds(since: i64) -> String {
    let since = Duration::from_millis(u64::try_from(since).unwrap_or_default());
    of(UNIX_EPOCH + since.min(LAST))
}

/// One that is so many seconds after 1970, to the second.
pub(crate) fn of_seconds(since: i64) -> String {
    let since = Duration::from_secs(u64::try_from(since).unwrap_or_default());
    humantime::format_rfc3339_seconds(UNIX_EPOCH + since.min(LAST)).to_string()
}

/// In SQL, how many milliseconds after 1970 it is by the clock of the database. That is one for all servers on it: what is
/// kept for a time is not dropped by one of them whose own clock is wrong.
pub(crate) fn now_in(database: &AnyConnection) -> &'static str {
    match database.backend_name() {
        "SQLite" => "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
        _ => "(extract(epoch FROM clock_timestamp()) * 1000)::BIGINT",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_somebody_stored_is_shown() {
        assert_eq!(of_milliseconds(1_500), "1970-01-01T00:00:01.500Z");
        assert_eq!(of_seconds(1), "1970-01-01T00:00:01Z");
        for since in [i64::MIN, -1] {
            assert_eq!(of_milliseconds(since), "1970-01-01T00:00:00.000Z");
            assert_eq!(of_seconds(since), "1970-01-01T00:00:00Z");
        }
        assert_eq!(of_milliseconds(i64::MAX), "9999-12-31T23:59:59.000Z");
        assert_eq!(of_seconds(i64::MAX), "9999-12-31T23:59:59Z");
    }
}
