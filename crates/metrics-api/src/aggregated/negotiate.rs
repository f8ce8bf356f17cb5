//! `Accept` -> the form of an answer. Clauses count in their order; the first that fits wins.

use weir_api::status::Status;

/// How an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// JSON.
    Json,
    /// YAML.
    Yaml,
    /// JSON of a `meta.k8s.io` Table in the given version.
    Table(&'static str),
    /// JSON of aggregated discovery in the given version.
    Discovery(&'static str),
}

/// What a path can offer beside JSON and YAML.
#[derive(Clone, Copy, Debug, Default)]
pub struct Offer {
    /// The answer has a table.
    pub table: bool,
    /// The answer has the form of aggregated discovery.
    pub discovery: bool,
}

/// Chooses a form, or says 406.
pub fn negotiate(accept: Option<&str>, offer: Offer) -> Result<Form, Status> {
    let accept = accept.map(str::trim).filter(|a| !a.is_empty()).unwrap_or("*/*");
    accept
        .split(',')
        .find_map(|clause| form(clause, offer))
        .ok_or_else(|| Status::not_acceptable(&["application/json", "application/yaml"]))
}

fn form(clause: &str, offer: Offer) -> Option<Form> {
    let mut parts = clause.split(';').map(str::trim);
    let media = parts.next()?;
    let parameters: Vec<(&str, &str)> = parts.filter_map(|p| p.split_once('=')).collect();
    let get = |name: &str| parameters.iter().find(|(n, _)| *n == name).map(|(_, v)| *v);
    let base = match media {
        "application/json" | "application/*" | "*/*" => Form::Json,
        "application/yaml" => Form::Yaml,
        _ => return None,
    };
    match get("as") {
        None => Some(base),
        Some("Table") if offer.table && base == Form::Json && get("g") == Some("meta.k8s.io") => match get("v") {
            Some("v1") => Some(Form::Table("v1")),
            Some("v1beta1") => Some(Form::Table("v1beta1")),
            _ => None,
        },
        Some("APIGroupDiscoveryList") if offer.discovery && get("g") == Some("apidiscovery.k8s.io") => match get("v") {
            Some("v2") => Some(Form::Discovery("v2")),
            Some("v2beta1") => Some(Form::Discovery("v2beta1")),
            _ => None,
        },
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KUBECTL: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";

    #[test]
    fn clauses_in_order() {
        let table = Offer {
            table: true,
            discovery: false,
        };
        assert_eq!(negotiate(Some(KUBECTL), table).unwrap(), Form::Table("v1"));
        assert_eq!(negotiate(Some(KUBECTL), Offer::default()).unwrap(), Form::Json);
        assert_eq!(negotiate(None, table).unwrap(), Form::Json);
        assert_eq!(
            negotiate(Some("application/vnd.kubernetes.protobuf, */*"), table).unwrap(),
            Form::Json
        );
        assert_eq!(negotiate(Some("application/yaml"), table).unwrap(), Form::Yaml);
        let refused = negotiate(Some("application/vnd.kubernetes.protobuf"), table).unwrap_err();
        assert_eq!((refused.code, refused.reason.as_str()), (406, "NotAcceptable"));
    }

    #[test]
    fn aggregated_discovery() {
        let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        let offer = Offer {
            discovery: true,
            table: false,
        };
        assert_eq!(negotiate(Some(accept), offer).unwrap(), Form::Discovery("v2"));
        assert_eq!(negotiate(Some(accept), Offer::default()).unwrap(), Form::Json);
    }
}
