//! Durations as protobuf's messages carry them.

use std::time::Duration;

use envoy_types::pb::google::protobuf::Duration as Message;
use weir_xds::json::duration::SECONDS_MAX;

/// The duration of a message; negative ones are refused.
pub fn from_message(message: &Message) -> Result<Duration, String> {
    let wrong = || format!("{}s {}ns is no duration of a proxy", message.seconds, message.nanos);
    let seconds = u64::try_from(message.seconds).map_err(|_| wrong())?;
    let nanos = u32::try_from(message.nanos).map_err(|_| wrong())?;
    if nanos > 999_999_999 || message.seconds > SECONDS_MAX {
        return Err(wrong());
    }
    Ok(Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use weir_xds::json::duration::parse;

    #[test]
    fn examples() {
        assert_eq!(parse("15s").unwrap(), Message { seconds: 15, nanos: 0 });
        assert_eq!(
            parse("0.25s").unwrap(),
            Message {
                seconds: 0,
                nanos: 250_000_000
            }
        );
        for bad in [
            "",
            "s",
            "1",
            "-1s",
            "1.2.3s",
            ".5s",
            "1m",
            "1.0000000001s",
            "99999999999999999999s",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(from_message(&Message { seconds: -1, nanos: 0 }).is_err());
        assert!(from_message(&Message { seconds: 0, nanos: -1 }).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn round_trips(seconds in 0i64..SECONDS_MAX, nanos in 0i32..1_000_000_000) {
            let message = parse(&format!("{seconds}.{nanos:09}s")).unwrap();
            prop_assert_eq!(message, Message { seconds, nanos });
            let duration = from_message(&message).unwrap();
            prop_assert_eq!(duration, Duration::new(seconds as u64, nanos as u32));
        }
    }
}
