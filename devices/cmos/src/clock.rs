//! The registers of the real-time clock (MC146818A data sheet, "Address Map").

use std::time::{SystemTime, UNIX_EPOCH};

/// Status A: divider for a 32.768 kHz crystal, rate 1.024 kHz; the update-in-progress bit is never set.
const STATUS_A: u8 = 0x26;
/// Status B: 24-hour form, BCD.
const STATUS_B: u8 = 0x02;
/// Status D: RAM and time are valid.
const STATUS_D: u8 = 0x80;

/// What a register of the clock reads at this time; `None` if it is plain RAM.
pub(crate) fn register(index: u8, now: SystemTime) -> Option<u8> {
    let constant = match index {
        0x0a => Some(STATUS_A),
        0x0b => Some(STATUS_B),
        0x0c => Some(0),
        0x0d => Some(STATUS_D),
        _ => None,
    };
    if constant.is_some() {
        return constant;
    }
    if !matches!(index, 0x00 | 0x02 | 0x04 | 0x06..=0x09 | 0x32) {
        return None;
    }
    // A host whose clock is before 1970 gives its guests 1970.
    let seconds = now
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (year, month, day) = date(seconds / 86_400);
    let value = match index {
        0x00 => seconds % 60,
        0x02 => seconds / 60 % 60,
        0x04 => seconds / 3600 % 24,
        // Day of the week from 1 for Sunday; the epoch was a Thursday.
        0x06 => (seconds / 86_400 + 4) % 7 + 1,
        0x07 => day,
        0x08 => month,
        0x09 => year % 100,
        _ => year / 100 % 100,
    };
    Some(bcd(value))
}

fn bcd(value: u64) -> u8 {
    u8::try_from(((value / 10 % 10) << 4) | (value % 10)).unwrap_or(0)
}

/// Year, month and day of the Gregorian calendar, from days since 1970-01-01.
///
/// Counts in years that begin in March, so that the leap day is the last of its year, and in eras of 400
/// years, which all have the same length.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_TO_EPOCH: u64 = 719_468; // from 0000-03-01
    const ERA: u64 = 146_097;
    let days = days + DAYS_TO_EPOCH;
    let (era, day) = (days / ERA, days % ERA);
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day_of_month)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(59), (1970, 3, 1));
        assert_eq!(date(11_016), (2000, 2, 29));
        assert_eq!(date(20_777), (2026, 11, 20));
        assert_eq!(date(47_540), (2100, 2, 28));
        assert_eq!(date(47_541), (2100, 3, 1));
    }

    #[test]
    fn every_day_of_400_years_follows_the_one_before() {
        let mut last = date(0);
        for day in 1..=146_097 {
            let next = date(day);
            let (year, month, first) = last;
            let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
            let length = match month {
                2 if leap => 29,
                2 => 28,
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            let expected = match (first == length, month) {
                (false, _) => (year, month, first + 1),
                (true, 12) => (year + 1, 1, 1),
                (true, _) => (year, month + 1, 1),
            };
            assert_eq!(next, expected);
            last = next;
        }
    }

    #[test]
    fn registers_are_bcd() {
        // 2026-11-20 11:47:43 UTC, a Friday.
        let now = UNIX_EPOCH + Duration::from_secs(20_777 * 86_400 + 11 * 3600 + 47 * 60 + 43);
        let read = |index| register(index, now);
        assert_eq!(read(0x00), Some(0x43));
        assert_eq!(read(0x02), Some(0x47));
        assert_eq!(read(0x04), Some(0x11));
        assert_eq!(read(0x06), Some(6));
        assert_eq!(read(0x07), Some(0x20));
        assert_eq!(read(0x08), Some(0x11));
        assert_eq!(read(0x09), Some(0x26));
        assert_eq!(read(0x32), Some(0x20));
        assert_eq!(read(0x0a), Some(0x26));
        assert_eq!(read(0x0d), Some(0x80));
        assert_eq!(read(0x01), None);
        assert_eq!(read(0x34), None);
        assert_eq!(
            register(0x09, UNIX_EPOCH - Duration::from_secs(1)),
            Some(0x70)
        );
    }
}
