//! `envoy.config.accesslog.v3.AccessLog`, as far as it says: a line on standard output, in the default format.

use std::mem::take;

use envoy_types::pb::envoy::config::accesslog::v3 as pb;
use envoy_types::pb::envoy::extensions::access_loggers::file::v3::FileAccessLog;
use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::StdoutAccessLog;

use super::{Decoded, Within, message_name, nothing_left, reject, unpack};

/// The one file that may be named.
const STDOUT: &str = "/dev/stdout";

/// Whether lines are asked for.
pub(super) fn asked(logs: Vec<pb::AccessLog>) -> Decoded<bool> {
    for (i, log) in logs.iter().enumerate() {
        let at = format!("access_log[{i}]");
        if i > 0 {
            return reject(at, "is a second one; there can be only one, on standard output");
        }
        one(log.clone()).within(at)?;
    }
    Ok(!logs.is_empty())
}

fn one(mut rest: pb::AccessLog) -> Decoded<()> {
    rest.name.clear();
    let Some(pb::access_log::ConfigType::TypedConfig(any)) = rest.config_type.take() else {
        return reject(
            "typed_config",
            "is missing; known are StdoutAccessLog and FileAccessLog",
        );
    };
    nothing_left(&rest)?;
    match message_name(&any.type_url) {
        "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog" => {
            let log: StdoutAccessLog = unpack(&any).within("typed_config")?;
            nothing_left(&log).within("typed_config")
        }
        "envoy.extensions.access_loggers.file.v3.FileAccessLog" => unpack(&any).and_then(file).within("typed_config"),
        other => reject(
            "typed_config",
            format!("{other} is unknown; known are StdoutAccessLog and FileAccessLog"),
        ),
    }
}

fn file(mut rest: FileAccessLog) -> Decoded<()> {
    let path = take(&mut rest.path);
    if path != STDOUT {
        return reject("path", format!("{path:?} must be {STDOUT}"));
    }
    nothing_left(&rest)
}
