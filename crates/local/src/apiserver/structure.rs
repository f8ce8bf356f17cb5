//! The fields of built-in kinds as OpenAPI tells them, without words about them: what `kubectl explain` shows.
//!
//! Enters: the messages that `protobuf` knows. Leaves: schemas. Does not know which of them are required.

use serde_json::{Map, Value, json};

use super::protobuf::schema::{self, Type};

/// The schema of a kind; those that it refers to are added. `None`: the kind is not known.
pub fn of(api_version: &str, kind: &str, schemas: &mut Map<String, Value>) -> Option<Value> {
    let message = schema::root(api_version, kind)?;
    let mut properties = Map::new();
    for own in ["apiVersion", "kind"] {
        properties.insert(own.to_owned(), json!({"type": "string"}));
    }
    add(message, &mut properties, schemas);
    Some(json!({"type": "object", "properties": properties}))
}

/// Adds the fields of a message.
fn add(message: &str, properties: &mut Map<String, Value>, schemas: &mut Map<String, Value>) {
    for schema::Field(_, name, kind) in schema::fields(message) {
        if let Type::Inline(inner) = kind {
            add(inner, properties, schemas);
        } else {
            properties.insert((*name).to_owned(), field(*kind, schemas));
        }
    }
}

fn field(kind: Type, schemas: &mut Map<String, Value>) -> Value {
    match kind {
        Type::Text | Type::KeptText | Type::Quantity => json!({"type": "string"}),
        Type::Texts | Type::ExtraValue => json!({"type": "array", "items": {"type": "string"}}),
        Type::Int | Type::IntOrNone => json!({"type": "integer"}),
        Type::Ints => json!({"type": "array", "items": {"type": "integer"}}),
        Type::Bool | Type::BoolOrNone => json!({"type": "boolean"}),
        Type::Bytes => json!({"type": "string", "format": "byte"}),
        Type::Time { .. } => json!({"type": "string", "format": "date-time"}),
        Type::IntOrString => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
        Type::Message(inner) | Type::Inline(inner) => reference(inner, schemas),
        Type::Messages(inner) => json!({"type": "array", "items": reference(inner, schemas)}),
        Type::Map(inner) => json!({"type": "object", "additionalProperties": field(*inner, schemas)}),
        Type::Skip => json!({}),
    }
}

/// Refers to a message, whose schema is added unless it is there. (Messages may refer to themselves.)
fn reference(message: &str, schemas: &mut Map<String, Value>) -> Value {
    let name = format!("io.k8s.api.{message}");
    if !schemas.contains_key(&name) {
        schemas.insert(name.clone(), Value::Null);
        let mut properties = Map::new();
        add(message, &mut properties, schemas);
        schemas.insert(name.clone(), json!({"type": "object", "properties": properties}));
    }
    json!({"$ref": format!("#/components/schemas/{name}")})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_brings_all_that_it_refers_to() {
        let mut schemas = Map::new();
        let deployment = of("apps/v1", "Deployment", &mut schemas).unwrap();
        assert_eq!(
            deployment["properties"]["spec"]["$ref"],
            "#/components/schemas/io.k8s.api.DeploymentSpec"
        );
        let pod = &schemas["io.k8s.api.PodSpec"]["properties"];
        assert_eq!(
            pod["volumes"]["items"]["$ref"],
            "#/components/schemas/io.k8s.api.Volume"
        );
        let volume = &schemas["io.k8s.api.Volume"]["properties"];
        assert!(
            volume["name"]["type"] == "string" && volume["secret"].is_object(),
            "{volume}"
        );
        let text = Value::Object(schemas.clone()).to_string();
        for found in text.split("#/components/schemas/").skip(1) {
            let name = found.split('"').next().unwrap();
            assert!(schemas[name].is_object(), "{name}");
        }
        assert_eq!(of("apps/v1", "Nonsense", &mut schemas), None);
    }
}
