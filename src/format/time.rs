//! Times as Cinder writes them into metadata and names: always UTC.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time, in UTC, to the microsecond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(jiff::Timestamp);

impl Timestamp {
    /// The present, to the microsecond.
    pub fn now() -> Self {
        let now = jiff::Timestamp::now();
        Self(jiff::Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now))
    }

    /// The present, or, where clocks differ, the first moment after `before`.
    pub fn now_after(before: Option<Self>) -> Self {
        let next = before.and_then(|before| {
            let micros = before.0.as_microsecond().checked_add(1)?;
            jiff::Timestamp::from_microsecond(micros).ok().map(Self)
        });
        next.map_or_else(Self::now, |next| next.max(Self::now()))
    }

    /// Reads `created_at`: `2026-11-21 00:14:26+00:00`, with a fraction, with another
    /// offset, or, before Liberty, without any zone.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Ok(at) = text.parse::<jiff::Timestamp>() {
            return Some(Self(at));
        }
        Self::from_civil(text.parse::<DateTime>().ok()?)
    }

    /// Reads the stamp in a backup's name: `20261121001426`.
    pub fn parse_stamp(text: &str) -> Option<Self> {
        Self::from_civil(DateTime::strptime("%Y%m%d%H%M%S", text).ok()?)
    }

    /// That many microseconds after the beginning of 1970.
    pub fn from_micros(micros: i64) -> Option<Self> {
        jiff::Timestamp::from_microsecond(micros).ok().map(Self)
    }

    /// Microseconds after the beginning of 1970.
    pub fn to_micros(self) -> i64 {
        self.0.as_microsecond()
    }

    /// The same point as the standard library counts it, to the microsecond.
    pub fn from_system(at: SystemTime) -> Option<Self> {
        Self::from_micros(jiff::Timestamp::try_from(at).ok()?.as_microsecond())
    }

    fn from_civil(civil: DateTime) -> Option<Self> {
        Some(Self(TimeZone::UTC.to_timestamp(civil).ok()?))
    }

    /// As `str(datetime)` of Python gives it: `2026-11-21 00:14:26+00:00`.
    pub fn to_python(self) -> String {
        let civil = TimeZone::UTC.to_datetime(self.0);
        let micros = civil.subsec_nanosecond() / 1000;
        let seconds = civil.strftime("%Y-%m-%d %H:%M:%S");
        if micros == 0 {
            format!("{seconds}+00:00")
        } else {
            format!("{seconds}.{micros:06}+00:00")
        }
    }

    /// As in the records that Cinder exports: `2026-11-21T00:14:26Z`.
    pub fn to_record(self) -> String {
        TimeZone::UTC
            .to_datetime(self.0)
            .strftime("%Y-%m-%dT%H:%M:%SZ")
            .to_string()
    }

    /// As in the names that cinderfs makes: `20261121T001426Z`.
    pub fn to_name(self) -> String {
        TimeZone::UTC
            .to_datetime(self.0)
            .strftime("%Y%m%dT%H%M%SZ")
            .to_string()
    }

    /// The same point as the standard library counts it.
    pub fn to_system(self) -> SystemTime {
        let nanos = self.0.as_nanosecond();
        let distance = Duration::from_nanos(u64::try_from(nanos.unsigned_abs()).unwrap_or(0));
        if nanos >= 0 {
            UNIX_EPOCH + distance
        } else {
            UNIX_EPOCH - distance
        }
    }
}

/// The stamp of a new backup's name: `YYYYmmddHHMMSS`, UTC.
pub fn stamp(at: Timestamp) -> String {
    TimeZone::UTC
        .to_datetime(at.0)
        .strftime("%Y%m%d%H%M%S")
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_spelling() {
        let plain = Timestamp::parse("2026-11-21 00:14:26+00:00").unwrap();
        assert_eq!(Timestamp::parse("2026-11-21 00:14:26"), Some(plain));
        assert_eq!(Timestamp::parse("2026-11-21T00:14:26Z"), Some(plain));
        assert_eq!(Timestamp::parse("2026-11-21 02:14:26+02:00"), Some(plain));
        assert_eq!(Timestamp::parse_stamp("20261121001426"), Some(plain));
        assert_eq!(plain.to_python(), "2026-11-21 00:14:26+00:00");
        assert_eq!(plain.to_name(), "20261121T001426Z");
        assert_eq!(plain.to_record(), "2026-11-21T00:14:26Z");
        assert_eq!(stamp(plain), "20261121001426");
        let micros = Timestamp::parse("2026-11-21 00:14:26.214974+00:00").unwrap();
        assert_eq!(micros.to_python(), "2026-11-21 00:14:26.214974+00:00");
        for bad in ["", "yesterday", "2026-13-01 00:00:00", "9999999999"] {
            assert_eq!(Timestamp::parse(bad), None, "{bad}");
        }
    }
}
