//! Authentication and authorization reviews: objects that are answered, never stored.

use serde_json::{Value, json};

use super::Api;
use super::auth::User;
use super::error::{ApiError, Result};
use super::object::{items, str_at};
use super::rbac::Attributes;
use super::registry::Resource;
use super::tokens::ISSUER;

/// Fills in the status of a review that `user` has posted.
pub fn answer(api: &Api, resource: &Resource, user: &User, namespace: &str, mut review: Value) -> Result<Value> {
    review["apiVersion"] = resource.api_version().into();
    review["kind"] = resource.kind.clone().into();
    super::validate::decode(resource, &mut review, super::validate::FieldValidation::Warn)?;
    super::object::meta(&mut review);
    let status = match resource.kind.as_str() {
        "TokenReview" => token_review(api, &review),
        "SelfSubjectReview" => json!({"userInfo": user.info()}),
        "SubjectAccessReview" => access(api, &subject(&review), &review)?,
        "LocalSubjectAccessReview" => {
            if str_at(&review, "/spec/resourceAttributes/namespace") != namespace {
                return Err(ApiError::bad_request(format!(
                    "spec.resourceAttributes.namespace must match namespace: {namespace}"
                )));
            }
            access(api, &subject(&review), &review)?
        }
        "SelfSubjectAccessReview" => access(api, user, &review)?,
        "SelfSubjectRulesReview" => {
            let (resources, paths) = api.rbac.rules(user, str_at(&review, "/spec/namespace"));
            json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
        }
        other => return Err(ApiError::internal(format!("{other} is no review"))),
    };
    review["status"] = status;
    Ok(review)
}

fn token_review(api: &Api, review: &Value) -> Value {
    let mut wanted: Vec<String> = items(review, "/spec/audiences")
        .iter()
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    if wanted.is_empty() {
        wanted.push(ISSUER.to_owned());
    }
    let refuse = |why: String| json!({"authenticated": false, "user": {}, "error": why});
    match api.tokens.check(str_at(review, "/spec/token")) {
        Err(e) => refuse(e.to_string()),
        Ok(claims) => {
            let common: Vec<&String> = wanted.iter().filter(|a| claims.audiences.contains(a)).collect();
            if common.is_empty() {
                return refuse(format!(
                    "token audiences {:?} is invalid for the target audiences {wanted:?}",
                    claims.audiences
                ));
            }
            json!({"authenticated": true, "user": User::from_claims(&claims).info(), "audiences": common})
        }
    }
}

/// The user whom a SubjectAccessReview asks about.
fn subject(review: &Value) -> User {
    let spec = &review["spec"];
    let extra = spec["extra"].as_object().into_iter().flatten().map(|(k, v)| {
        let values = items(v, "")
            .iter()
            .filter_map(|x| x.as_str().map(str::to_owned))
            .collect();
        (k.clone(), values)
    });
    User {
        name: str_at(spec, "/user").to_owned(),
        uid: str_at(spec, "/uid").to_owned(),
        groups: items(spec, "/groups")
            .iter()
            .filter_map(|g| g.as_str().map(str::to_owned))
            .collect(),
        extra: extra.collect(),
    }
}

fn access(api: &Api, user: &User, review: &Value) -> Result<Value> {
    let spec = &review["spec"];
    let text = |p: &str| str_at(spec, p).to_owned();
    let (resource, path) = (
        spec.get("resourceAttributes").is_some(),
        spec.get("nonResourceAttributes").is_some(),
    );
    if resource == path {
        return Err(ApiError::bad_request(
            "spec: exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ));
    }
    let attributes = if path {
        Attributes {
            verb: text("/nonResourceAttributes/verb"),
            path: Some(text("/nonResourceAttributes/path")),
            ..Attributes::default()
        }
    } else {
        Attributes {
            verb: text("/resourceAttributes/verb"),
            group: text("/resourceAttributes/group"),
            resource: text("/resourceAttributes/resource"),
            subresource: text("/resourceAttributes/subresource"),
            namespace: text("/resourceAttributes/namespace"),
            name: text("/resourceAttributes/name"),
            path: None,
        }
    };
    let allowed = api.rbac.allows(user, &attributes);
    Ok(if allowed {
        json!({"allowed": true})
    } else {
        json!({"allowed": false, "reason": attributes.refusal(user)})
    })
}
