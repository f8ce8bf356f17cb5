//! Parts of a time in UTC: what hour(), day_of_week() and their kin give of seconds since 1970.

use jiff::{Timestamp, Zoned, tz::TimeZone};

/// The function of that name; NaN for what is no time between the years -9999 and 9999.
pub(super) fn part(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "minute" => |v| of(v, |t| f64::from(t.minute())),
        "hour" => |v| of(v, |t| f64::from(t.hour())),
        "day_of_week" => |v| of(v, |t| f64::from(t.weekday().to_sunday_zero_offset())),
        "day_of_month" => |v| of(v, |t| f64::from(t.day())),
        "day_of_year" => |v| of(v, |t| f64::from(t.day_of_year())),
        "days_in_month" => |v| of(v, |t| f64::from(t.days_in_month())),
        "month" => |v| of(v, |t| f64::from(t.month())),
        "year" => |v| of(v, |t| f64::from(t.year())),
        _ => return None,
    })
}

fn of(seconds: f64, part: impl Fn(&Zoned) -> f64) -> f64 {
    // `as` saturates and cuts the fraction off; NaN would become 0.
    if seconds.is_nan() {
        return f64::NAN;
    }
    let time = Timestamp::from_second(seconds as i64);
    time.map_or(f64::NAN, |t| part(&t.to_zoned(TimeZone::UTC)))
}
