//! `metrics.weir.dev`: the pages that are scraped and how each is doing.
//!
//! The state comes through a closure, so that this crate knows nothing of the scraper.

use std::sync::Arc;

use serde_json::Value;
use weir_api::mesh_status::{List, SCRAPE_GROUP, ScrapeTarget, VERSION};
use weir_api::status::Status;
use weir_api::table::{Column, Row, Table};

use crate::aggregated::{Answer, BoxFuture, Group, Handler, Resource, ResourceRequest, Version};

/// All targets; names, `kind` and `apiVersion` are filled in here. Must be quick: it runs on the server's threads.
pub type Targets = Arc<dyn Fn() -> Vec<ScrapeTarget> + Send + Sync>;

/// The group with its resource.
pub fn group(targets: Targets) -> Group {
    let resource = Resource {
        name: "targets",
        singular: "target",
        kind: "Target",
        response_kind: "Target",
        namespaced: true,
        verbs: &["list"],
        short_names: &[],
        subresources: &[],
    };
    let versions = vec![Version {
        name: VERSION,
        resources: vec![resource],
    }];
    Group {
        name: SCRAPE_GROUP,
        versions,
        handler: Arc::new(ScrapeStatus(targets)),
    }
}

struct ScrapeStatus(Targets);

impl ScrapeStatus {
    fn answer(&self, request: &ResourceRequest) -> Result<Answer, Status> {
        let mut items = (self.0)();
        items.retain(|t| {
            let (namespace, name) = (t.metadata.namespace.as_deref(), t.metadata.name.as_deref());
            request.namespace.as_deref().is_none_or(|n| namespace == Some(n))
                && request
                    .fields
                    .matches(namespace.unwrap_or_default(), name.unwrap_or_default())
        });
        for target in &mut items {
            target.kind = "Target".into();
            target.api_version = format!("{SCRAPE_GROUP}/{VERSION}");
        }
        items.sort_by(|a, b| {
            let key = |t: &ScrapeTarget| (t.metadata.namespace.clone(), t.metadata.name.clone(), t.url.clone());
            key(a).cmp(&key(b))
        });
        let table = table(&items);
        let list = List {
            kind: "TargetList".into(),
            api_version: format!("{SCRAPE_GROUP}/{VERSION}"),
            metadata: Value::Object(Default::default()),
            items,
        };
        let object = serde_json::to_value(&list).map_err(Status::internal)?;
        Ok(Answer {
            object,
            table: Some(table),
        })
    }
}

impl Handler for ScrapeStatus {
    fn handle(&self, request: ResourceRequest) -> BoxFuture<'_, Result<Answer, Status>> {
        let answer = self.answer(&request);
        Box::pin(async move { answer })
    }
}

fn table(targets: &[ScrapeTarget]) -> Table {
    let columns = vec![
        Column::name(),
        Column::new("Health", "up, down, or unknown before the first scrape."),
        Column::new("URL", "The page."),
        Column::new("Error", "Why the last scrape failed, or what it left out."),
    ];
    let row = |t: &ScrapeTarget| {
        let reason = if t.error.is_empty() { &t.warning } else { &t.error };
        let name = t.metadata.name.as_deref().unwrap_or_default();
        let cells = [name, &t.health, &t.url, reason];
        Row::new(cells.into_iter().map(Value::from).collect(), &t.metadata)
    };
    Table::new(columns, targets.iter().map(row).collect())
}
