//! Text forms that JSON needs.

use litefs_types::Timestamp;

/// RFC 3339 in UTC with milliseconds: `2026-11-23T00:58:18.960Z`. Times outside the years 0 to 9999
/// become the nearest that the format can hold.
pub fn rfc3339(t: Timestamp) -> String {
    const DAY: i64 = 86_400_000;
    let ms = t.millis().clamp(-62_167_219_200_000, 253_402_300_799_999);
    let (mut days, in_day) = (ms.div_euclid(DAY), ms.rem_euclid(DAY));
    // Whole cycles of 400 Gregorian years first, then year by year: simple, and at most 400 steps.
    let cycles = days.div_euclid(146_097);
    days = days.rem_euclid(146_097);
    let mut year = 1970 + cycles * 400;
    let leap = |y: i64| y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
    while days >= 365 + i64::from(leap(year)) {
        days -= 365 + i64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + i64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 0;
    while days >= lengths[month] {
        days -= lengths[month];
        month += 1;
    }
    let (h, m, s, frac) = (in_day / 3_600_000, in_day / 60_000 % 60, in_day / 1000 % 60, in_day % 1000);
    format!("{year:04}-{:02}-{:02}T{h:02}:{m:02}:{s:02}.{frac:03}Z", month + 1, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_instants() {
        let f = |ms| rfc3339(Timestamp::from_millis(ms));
        assert_eq!(f(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(f(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(f(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(f(1_795_395_498_960), "2026-11-23T00:58:18.960Z");
        assert_eq!(f(i64::MIN), "0000-01-01T00:00:00.000Z");
        assert_eq!(f(i64::MAX), "9999-12-31T23:59:59.999Z");
    }
}
