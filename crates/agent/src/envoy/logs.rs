//! The access log service that Envoy streams to.

use std::net::IpAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::data::accesslog::v3::AccessLogCommon;
use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_server::AccessLogService;
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::LogEntries;
use envoy_types::pb::envoy::service::accesslog::v3::{StreamAccessLogsMessage, StreamAccessLogsResponse};
use tonic::{Request, Response, Status, Streaming};
use weir_series::canonical::Direction;

use super::entries::{Entries, client};
use super::sources::Sources;

/// Takes Envoy's streams.
pub struct Logs {
    /// Where entries go.
    pub entries: Arc<Entries>,
    /// Who inbound connections come from.
    pub sources: Arc<Sources>,
}

#[tonic::async_trait]
impl AccessLogService for Logs {
    async fn stream_access_logs(
        &self,
        request: Request<Streaming<StreamAccessLogsMessage>>,
    ) -> Result<Response<StreamAccessLogsResponse>, Status> {
        let mut stream = request.into_inner();
        let mut direction = None;
        while let Some(message) = stream.message().await? {
            // Only the first message of a stream says whose it is.
            if let Some(identifier) = message.identifier {
                direction = match identifier.log_name.as_str() {
                    "inbound" => Some(Direction::Inbound),
                    "outbound" => Some(Direction::Outbound),
                    _ => None,
                };
            }
            let (Some(direction), Some(entries)) = (direction, message.log_entries) else {
                continue;
            };
            self.record(direction, entries).await;
        }
        Ok(Response::new(StreamAccessLogsResponse {}))
    }
}

impl Logs {
    async fn record(&self, direction: Direction, entries: LogEntries) {
        let of = |common: &Option<AccessLogCommon>| common.as_ref().and_then(client);
        if direction == Direction::Inbound {
            let addresses: Vec<IpAddr> = match &entries {
                LogEntries::HttpLogs(logs) => logs.log_entry.iter().filter_map(|e| of(&e.common_properties)).collect(),
                LogEntries::TcpLogs(logs) => logs.log_entry.iter().filter_map(|e| of(&e.common_properties)).collect(),
            };
            self.sources.ask(addresses).await;
        }
        // Only inbound entries ask for it.
        let source = |common| move || of(common).map(|address| self.sources.of(address)).unwrap_or_default();
        match &entries {
            LogEntries::HttpLogs(logs) => {
                for entry in &logs.log_entry {
                    self.entries.http(direction, entry, source(&entry.common_properties));
                }
            }
            LogEntries::TcpLogs(logs) => {
                for entry in &logs.log_entry {
                    self.entries.tcp(direction, entry, source(&entry.common_properties));
                }
            }
        }
    }
}
