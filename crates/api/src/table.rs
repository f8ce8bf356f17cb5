//! `meta.k8s.io/v1` Table: what `kubectl get` asks for, so that the server decides on columns.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A table of objects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Table {
    /// Always `Table`.
    pub kind: String,
    /// `meta.k8s.io/v1`, or `v1beta1` for old clients.
    pub api_version: String,
    /// List metadata, empty here.
    pub metadata: Value,
    /// Columns in order.
    pub column_definitions: Vec<Column>,
    /// One row an object.
    pub rows: Vec<Row>,
}

/// A column of a [`Table`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Heading; kubectl writes it in capitals.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    #[serde(rename = "type")]
    pub type_: String,
    /// `name` marks the column of the object's name.
    pub format: String,
    /// What the column says.
    pub description: String,
    /// 0 = always shown, above that only with `-o wide`.
    pub priority: i32,
}

impl Column {
    /// A text column that is always shown.
    pub fn new(name: &str, description: &str) -> Self {
        Column {
            name: name.into(),
            type_: "string".into(),
            format: String::new(),
            description: description.into(),
            priority: 0,
        }
    }

    /// The `Name` column.
    pub fn name() -> Self {
        Column {
            format: "name".into(),
            ..Self::new("Name", "Name of the object.")
        }
    }

    /// Shown with `-o wide` only.
    pub fn wide(self) -> Self {
        Column { priority: 1, ..self }
    }
}

/// A row of a [`Table`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// One value a column.
    pub cells: Vec<Value>,
    /// The object the row is about, as much of it as the client asked for.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub object: Value,
}

impl Row {
    /// A row with the metadata of its object (`includeObject=Metadata`, the default).
    pub fn new(cells: Vec<Value>, metadata: &ObjectMeta) -> Self {
        let object = serde_json::json!({
            "kind": "PartialObjectMetadata",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": metadata,
        });
        Row { cells, object }
    }
}

impl Table {
    /// A table in the current version.
    pub fn new(columns: Vec<Column>, rows: Vec<Row>) -> Self {
        Table {
            kind: "Table".into(),
            api_version: "meta.k8s.io/v1".into(),
            metadata: Value::Object(Default::default()),
            column_definitions: columns,
            rows,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shape() {
        let metadata = ObjectMeta {
            name: Some("a".into()),
            namespace: Some("default".into()),
            ..Default::default()
        };
        let table = Table::new(
            vec![Column::name(), Column::new("RPS", "Requests a second.").wide()],
            vec![Row::new(vec!["a".into(), "1.0rps".into()], &metadata)],
        );
        assert_eq!(
            serde_json::to_string(&table).unwrap(),
            concat!(
                r#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":{},"columnDefinitions":["#,
                r#"{"name":"Name","type":"string","format":"name","description":"Name of the object.","priority":0},"#,
                r#"{"name":"RPS","type":"string","format":"","description":"Requests a second.","priority":1}],"#,
                r#""rows":[{"cells":["a","1.0rps"],"object":{"apiVersion":"meta.k8s.io/v1","#,
                r#""kind":"PartialObjectMetadata","metadata":{"name":"a","namespace":"default"}}}]}"#,
            )
        );
    }
}
