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

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::SubstitutionFormatString;
    use envoy_types::pb::envoy::extensions::access_loggers::file::v3::file_access_log;
    use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::HttpGrpcAccessLogConfig;
    use envoy_types::pb::envoy::extensions::access_loggers::stream::v3::stdout_access_log;
    use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
    use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp;
    use envoy_types::pb::google::protobuf::Any;
    use prost::{Message, Name};

    use super::*;

    fn log(config: &impl Name) -> pb::AccessLog {
        pb::AccessLog {
            name: "any name".into(),
            config_type: Some(pb::access_log::ConfigType::TypedConfig(any(config))),
            ..Default::default()
        }
    }

    fn any<M: Name>(message: &M) -> Any {
        Any {
            type_url: M::type_url(),
            value: message.encode_to_vec(),
        }
    }

    fn to(path: &str) -> FileAccessLog {
        FileAccessLog {
            path: path.into(),
            access_log_format: None,
        }
    }

    #[test]
    fn lines_on_standard_output_are_all_there_is() {
        assert_eq!(asked(Vec::new()), Ok(false));
        assert_eq!(asked(vec![log(&StdoutAccessLog::default())]), Ok(true));
        assert_eq!(asked(vec![log(&to("/dev/stdout"))]), Ok(true));
        let own = StdoutAccessLog {
            access_log_format: Some(stdout_access_log::AccessLogFormat::LogFormat(
                SubstitutionFormatString::default(),
            )),
        };
        let mut formatted = to("/dev/stdout");
        formatted.access_log_format = Some(file_access_log::AccessLogFormat::LogFormat(Default::default()));
        let mut filtered = log(&StdoutAccessLog::default());
        filtered.filter = Some(pb::AccessLogFilter::default());
        for (logs, field, message) in [
            (
                vec![log(&own)],
                "access_log[0].typed_config.access_log_format",
                "leave it unset",
            ),
            (
                vec![log(&formatted)],
                "access_log[0].typed_config.access_log_format",
                "leave it unset",
            ),
            (vec![filtered], "access_log[0].filter", "leave it unset"),
            (
                vec![log(&to("/tmp/log"))],
                "access_log[0].typed_config.path",
                "/dev/stdout",
            ),
            (
                vec![log(&HttpGrpcAccessLogConfig::default())],
                "access_log[0].typed_config",
                "StdoutAccessLog and FileAccessLog",
            ),
            (
                vec![pb::AccessLog::default()],
                "access_log[0].typed_config",
                "is missing",
            ),
            (
                vec![log(&to("/dev/stdout")), log(&to("/dev/stdout"))],
                "access_log[1]",
                "only one",
            ),
        ] {
            let rejection = asked(logs).unwrap_err();
            assert_eq!(rejection.field, field, "{rejection}");
            assert!(rejection.message.contains(message), "{rejection}");
        }
    }

    #[test]
    fn both_kinds_of_chains_have_them() {
        use crate::config::Filter;
        use envoy_types::pb::envoy::config::core::v3 as core;
        use envoy_types::pb::envoy::config::listener::v3 as listener;
        let routes = hcm::http_connection_manager::RouteSpecifier::Rds(hcm::Rds {
            route_config_name: "r".into(),
            ..Default::default()
        });
        let http = |access_log| {
            any(&hcm::HttpConnectionManager {
                route_specifier: Some(routes.clone()),
                access_log,
                ..Default::default()
            })
        };
        let tcp = |access_log| {
            any(&tcp::TcpProxy {
                cluster_specifier: Some(tcp::tcp_proxy::ClusterSpecifier::Cluster("c".into())),
                access_log,
                ..Default::default()
            })
        };
        let decode = |config| {
            let socket = core::SocketAddress {
                address: "127.0.0.1".into(),
                port_specifier: Some(core::socket_address::PortSpecifier::PortValue(1)),
                ..Default::default()
            };
            let filter = listener::Filter {
                name: "f".into(),
                config_type: Some(listener::filter::ConfigType::TypedConfig(config)),
            };
            let chain = listener::FilterChain {
                filters: vec![filter],
                ..Default::default()
            };
            let message = listener::Listener {
                name: "l".into(),
                address: Some(core::Address {
                    address: Some(core::address::Address::SocketAddress(socket)),
                }),
                filter_chains: vec![chain],
                ..Default::default()
            };
            crate::config::decode::listener(&message.encode_to_vec()).map(|l| match &l.chains[0].filter {
                Filter::Http(http) => http.access_log,
                Filter::Tcp(tcp) => tcp.access_log,
            })
        };
        let good = || vec![log(&StdoutAccessLog::default())];
        let bad = || vec![log(&to("x"))];
        assert_eq!((decode(http(good())), decode(http(Vec::new()))), (Ok(true), Ok(false)));
        assert_eq!((decode(tcp(good())), decode(tcp(Vec::new()))), (Ok(true), Ok(false)));
        for refused in [decode(http(bad())), decode(tcp(bad()))] {
            assert_eq!(
                refused.unwrap_err().field,
                "filter_chains[0].filters[0].typed_config.access_log[0].typed_config.path"
            );
        }
    }
}
