//! Every metric name and every label name of a series, once. Nothing else in Weir spells them.

/// Requests that entered the proxy, once per client request.
pub const REQUEST_TOTAL: &str = "request_total";
/// Responses that ended, once per client request.
pub const RESPONSE_TOTAL: &str = "response_total";
/// Time from the request's head to the end of the response's stream, in milliseconds.
pub const RESPONSE_LATENCY_MS: &str = "response_latency_ms";
/// Cumulative buckets of [`RESPONSE_LATENCY_MS`].
pub const RESPONSE_LATENCY_MS_BUCKET: &str = "response_latency_ms_bucket";
/// Sum of [`RESPONSE_LATENCY_MS`].
pub const RESPONSE_LATENCY_MS_SUM: &str = "response_latency_ms_sum";
/// Number of observations of [`RESPONSE_LATENCY_MS`].
pub const RESPONSE_LATENCY_MS_COUNT: &str = "response_latency_ms_count";
/// Tries of requests, first tries and retries alike.
pub const ATTEMPT_TOTAL: &str = "attempt_total";
/// Tries after the first.
pub const RETRY_TOTAL: &str = "retry_total";
/// Injected faults, by [`KIND`].
pub const FAULT_TOTAL: &str = "fault_total";
/// Requests refused because a limit was reached, by [`REASON`].
pub const OVERFLOW_TOTAL: &str = "overflow_total";
/// Times that an endpoint was left out because of its errors, by [`REASON`].
pub const EJECTION_TOTAL: &str = "ejection_total";
/// Endpoints that are left out now.
pub const EJECTED_ENDPOINTS: &str = "ejected_endpoints";
/// Connections opened.
pub const TCP_OPEN_TOTAL: &str = "tcp_open_total";
/// Connections open now.
pub const TCP_OPEN_CONNECTIONS: &str = "tcp_open_connections";
/// Connections closed, by [`CLASSIFICATION`].
pub const TCP_CLOSE_TOTAL: &str = "tcp_close_total";
/// Bytes read from the peer.
pub const TCP_READ_BYTES_TOTAL: &str = "tcp_read_bytes_total";
/// Bytes written to the peer.
pub const TCP_WRITE_BYTES_TOTAL: &str = "tcp_write_bytes_total";
/// When the process started, in seconds since 1970.
pub const PROCESS_START_TIME_SECONDS: &str = "process_start_time_seconds";

/// 1 when the last scrape of a target succeeded, else 0.
pub const UP: &str = "up";
/// How long the last scrape of a target took.
pub const SCRAPE_DURATION_SECONDS: &str = "scrape_duration_seconds";
/// How many samples the last scrape of a target exposed.
pub const SCRAPE_SAMPLES_SCRAPED: &str = "scrape_samples_scraped";

/// How many samples of the last scrape relabelling left.
pub const SCRAPE_SAMPLES_POST_METRIC_RELABELING: &str = "scrape_samples_post_metric_relabeling";
/// How many series the last scrape of a target showed that the one before did not.
pub const SCRAPE_SERIES_ADDED: &str = "scrape_series_added";
/// How long a scrape of a target may take.
pub const SCRAPE_TIMEOUT_SECONDS: &str = "scrape_timeout_seconds";
/// How many samples a page of a target may have; 0 for any number.
pub const SCRAPE_SAMPLE_LIMIT: &str = "scrape_sample_limit";
/// Bytes of the last page of a target.
pub const SCRAPE_BODY_SIZE_BYTES: &str = "scrape_body_size_bytes";

/// Queries that the store's API answered, instant and range.
pub const QUERY_TOTAL: &str = "weir_query_total";
/// Queries that the store's API answered with an error.
pub const QUERY_FAILURES_TOTAL: &str = "weir_query_failures_total";
/// The series of active alerts.
pub const ALERTS: &str = "ALERTS";
/// Since when alerts are active, in seconds since 1970.
pub const ALERTS_FOR_STATE: &str = "ALERTS_FOR_STATE";
/// The label with an alert's name.
pub const ALERT_NAME: &str = "alertname";
/// The label of [`ALERTS`] that says `pending` or `firing`.
pub const ALERT_STATE: &str = "alertstate";
/// Rules evaluated.
pub const RULE_EVALUATIONS_TOTAL: &str = "prometheus_rule_evaluations_total";
/// Rules whose evaluation failed.
pub const RULE_FAILURES_TOTAL: &str = "prometheus_rule_evaluation_failures_total";
/// Evaluations of groups that were left out.
pub const RULE_MISSED_TOTAL: &str = "prometheus_rule_group_iterations_missed_total";
/// Alerts that an Alertmanager took.
pub const NOTIFICATIONS_SENT_TOTAL: &str = "prometheus_notifications_sent_total";
/// Alerts that an Alertmanager did not take.
pub const NOTIFICATIONS_ERRORS_TOTAL: &str = "prometheus_notifications_errors_total";
/// Alerts that nobody heard of.
pub const NOTIFICATIONS_DROPPED_TOTAL: &str = "prometheus_notifications_dropped_total";
/// Alerts that wait to be sent.
pub const NOTIFICATIONS_QUEUE_LENGTH: &str = "prometheus_notifications_queue_length";
/// Samples sent by remote write and taken.
pub const REMOTE_SAMPLES_TOTAL: &str = "prometheus_remote_storage_samples_total";
/// Native histograms sent by remote write and taken.
pub const REMOTE_HISTOGRAMS_TOTAL: &str = "prometheus_remote_storage_histograms_total";
/// Families whose metadata was sent by remote write.
pub const REMOTE_METADATA_TOTAL: &str = "prometheus_remote_storage_metadata_total";
/// Samples that the receiver of remote write refused for good.
pub const REMOTE_FAILED_TOTAL: &str = "prometheus_remote_storage_samples_failed_total";
/// Samples that were sent again by remote write.
pub const REMOTE_RETRIED_TOTAL: &str = "prometheus_remote_storage_samples_retried_total";
/// Samples that were not sent by remote write, by [`REASON`].
pub const REMOTE_DROPPED_TOTAL: &str = "prometheus_remote_storage_samples_dropped_total";
/// Samples that wait to be sent by remote write.
pub const REMOTE_PENDING: &str = "prometheus_remote_storage_samples_pending";
/// Queues of remote write that are worked off beside one another.
pub const REMOTE_SHARDS: &str = "prometheus_remote_storage_shards";
/// Bytes sent by remote write, compressed.
pub const REMOTE_BYTES_TOTAL: &str = "prometheus_remote_storage_bytes_total";
/// Time of the newest sample that came for remote write, in seconds since 1970.
pub const REMOTE_HIGHEST_SECONDS: &str = "prometheus_remote_storage_highest_timestamp_in_seconds";
/// Time of the newest sample that was sent by remote write, in seconds since 1970.
pub const REMOTE_SENT_SECONDS: &str = "prometheus_remote_storage_queue_highest_sent_timestamp_seconds";
/// The label with the name of an upstream of remote write.
pub const REMOTE_NAME: &str = "remote_name";
/// The label with the address of an upstream of remote write.
pub const URL: &str = "url";
/// Samples that came by remote write and were stored.
pub const RECEIVED_SAMPLES_TOTAL: &str = "weir_remote_write_received_samples_total";
/// Samples that came by remote write and were refused.
pub const RECEIVED_REFUSED_TOTAL: &str = "weir_remote_write_refused_samples_total";
/// Lines of access logs that a proxy could not write.
pub const ACCESS_LOG_DROPPED_TOTAL: &str = "weir_access_log_dropped_total";
/// Series in the store.
pub const STORE_SERIES: &str = "weir_store_series";
/// Bytes of the store's series and samples.
pub const STORE_BYTES: &str = "weir_store_bytes";
/// Samples appended to the store.
pub const STORE_SAMPLES_APPENDED_TOTAL: &str = "weir_store_samples_appended_total";
/// Samples that the store refused, by [`REASON`].
pub const STORE_SAMPLES_REFUSED_TOTAL: &str = "weir_store_samples_refused_total";
/// New series that the store refused at its limit.
pub const STORE_SERIES_REFUSED_TOTAL: &str = "weir_store_series_refused_total";

/// 1 while the store's log is written, 0 while the disk fails.
pub const STORE_LOG_UP: &str = "weir_store_log_up";
/// Times that the disk of the store failed.
pub const STORE_LOG_FAILURES_TOTAL: &str = "weir_store_log_failures_total";
/// Bytes written to the store's log.
pub const STORE_LOG_BYTES_TOTAL: &str = "weir_store_log_bytes_total";
/// Snapshots that the store took.
pub const STORE_SNAPSHOTS_TOTAL: &str = "weir_store_snapshots_total";
/// Bytes of the store's files that the last start could not read.
pub const STORE_DAMAGED_BYTES: &str = "weir_store_damaged_bytes";

/// The metric whose labels describe a target.
pub const TARGET_INFO: &str = "target_info";
/// The label that holds the metric's name.
pub const METRIC_NAME: &str = "__name__";
/// The upper bound of a histogram's bucket.
pub const LE: &str = "le";
/// The quantile of a summary's series.
pub const QUANTILE: &str = "quantile";
/// `inbound` or `outbound`, seen from the proxy's own pod.
pub const DIRECTION: &str = "direction";
/// The configured host that was asked for; [`AUTHORITY_OTHER`] for any other.
pub const AUTHORITY: &str = "authority";
/// Value of [`AUTHORITY`] for hosts that nobody configured (clients must not be able to make series).
pub const AUTHORITY_OTHER: &str = "other";
/// HTTP status code; [`STATUS_OTHER`] beyond the limit of distinct codes.
pub const STATUS_CODE: &str = "status_code";
/// Value of [`STATUS_CODE`] once a destination showed too many distinct ones.
pub const STATUS_OTHER: &str = "other";
/// `success`, `failure` or `aborted`.
pub const CLASSIFICATION: &str = "classification";
/// gRPC status number, where the response was gRPC.
pub const GRPC_STATUS: &str = "grpc_status";
/// `proxy` where the proxy itself made the response; absent else.
pub const ORIGIN: &str = "origin";
/// Value of [`ORIGIN`] for replies made by the proxy.
pub const ORIGIN_PROXY: &str = "proxy";
/// Which fault was injected.
pub const KIND: &str = "kind";
/// Which limit was reached.
pub const REASON: &str = "reason";

/// Prefix of labels that name the destination (outbound).
pub const DST_PREFIX: &str = "dst_";
/// Prefix of labels that name the source (inbound).
pub const SRC_PREFIX: &str = "src_";
/// Namespace of the destination.
pub const DST_NAMESPACE: &str = "dst_namespace";
/// Pod of the destination.
pub const DST_POD: &str = "dst_pod";
/// Service through which the destination was chosen.
pub const DST_SERVICE: &str = "dst_service";
/// Namespace of the source.
pub const SRC_NAMESPACE: &str = "src_namespace";
/// Pod of the source.
pub const SRC_POD: &str = "src_pod";

/// Namespace of the proxy's own pod; added by the scraper.
pub const NAMESPACE: &str = "namespace";
/// The proxy's own pod; added by the scraper.
pub const POD: &str = "pod";
/// Node of the proxy's own pod; added by the scraper.
pub const NODE: &str = "node";
/// Address that was scraped; added by the scraper.
pub const INSTANCE: &str = "instance";
/// Name of the group of targets; added by the scraper.
pub const JOB: &str = "job";
/// What [`JOB`] says for proxies.
pub const JOB_PROXIES: &str = "weir-proxies";
/// A scraped label that collides with one of the target keeps its value under this prefix.
pub const EXPORTED_PREFIX: &str = "exported_";

/// The Job that owns the proxy's own pod: [`JOB`] itself is taken by the group of targets.
pub const OWNER_JOB: &str = "k8s_job";
/// Owner kinds as label names: of the proxy's own pod as they stand, of the peer behind [`DST_PREFIX`] or [`SRC_PREFIX`].
pub const OWNER_KINDS: [&str; 7] = [
    "deployment",
    "statefulset",
    "daemonset",
    "job",
    "cronjob",
    "replicaset",
    "replicationcontroller",
];
