//! Points in time as they travel and as files carry them.

use serde::{Deserialize, Serialize};
#[cfg(feature = "schema")]
use utoipa::ToSchema;

/// Nanoseconds since 1970-01-01T00:00:00Z, before it negative. Covers the years 1678 to 2262; others are clamped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(ToSchema))]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// From whole seconds and nanoseconds (0 to 999,999,999) since 1970, clamped to what can be held.
    pub fn from_parts(seconds: i64, nanoseconds: u32) -> Self {
        Self(seconds.saturating_mul(1_000_000_000).saturating_add(i64::from(nanoseconds)))
    }

    /// Whole seconds (rounded down) and nanoseconds since 1970.
    pub fn parts(self) -> (i64, u32) {
        (self.0.div_euclid(1_000_000_000), self.0.rem_euclid(1_000_000_000) as u32)
    }

    /// Whole milliseconds since 1970, 0 for times before it.
    pub fn unix_ms(self) -> u64 {
        u64::try_from(self.0 / 1_000_000).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_round_trip_before_and_after_1970() {
        for (seconds, nanos) in [(0, 0), (1, 999_999_999), (-1, 1), (-2, 999_999_999)] {
            assert_eq!(Timestamp::from_parts(seconds, nanos).parts(), (seconds, nanos));
        }
        assert_eq!(Timestamp::from_parts(i64::MAX, 0).0, i64::MAX);
    }
}
