//! The access log service that Envoy streams to.

use std::sync::Arc;

use envoy_types::pb::envoy::service::accesslog::v3::access_log_service_server::AccessLogService;
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::LogEntries;
use envoy_types::pb::envoy::service::accesslog::v3::{StreamAccessLogsMessage, StreamAccessLogsResponse};
use tonic::{Request, Response, Status, Streaming};
use weir_series::canonical::{Direction, Peer};

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
        match entries {
            LogEntries::HttpLogs(logs) => {
                for entry in &logs.log_entry {
                    let source = self
                        .source(direction, entry.common_properties.as_ref().and_then(client))
                        .await;
                    self.entries.http(direction, entry, || source);
                }
            }
            LogEntries::TcpLogs(logs) => {
                for entry in &logs.log_entry {
                    let source = self
                        .source(direction, entry.common_properties.as_ref().and_then(client))
                        .await;
                    self.entries.tcp(direction, entry, || source);
                }
            }
        }
    }

    async fn source(&self, direction: Direction, address: Option<std::net::IpAddr>) -> Peer {
        match (direction, address) {
            (Direction::Inbound, Some(address)) => self.sources.of(address).await,
            _ => Peer::default(),
        }
    }
}
