//! Tells the Kubernetes API which authority signed our certificate: `spec.caBundle` of our APIServices.
//!
//! The bundle is added to, not replaced, so that replicas (each with an authority of its own) and a rolling update do
//! not shut each other out. The APIServices themselves come from the installation's manifests.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};

/// Authorities kept in a bundle, newest last.
const BUNDLE_CERTIFICATES_MAX: usize = 6;
/// Pause between checks when all is well.
const CHECK: Duration = Duration::from_secs(30);
/// Pause after a failure, or while an APIService does not exist yet.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps our authority in the bundles; never ends by itself.
pub async fn keep_registered(client: Client, names: Arc<[String]>, ca_pem: String) {
    let api: Api<APIService> = Api::all(client);
    let mut quiet = false;
    loop {
        let mut pause = CHECK;
        for name in names.iter() {
            if let Err(reason) = register(&api, name, &ca_pem).await {
                if !quiet {
                    tracing::warn!("APIService {name}: {reason}");
                }
                pause = RETRY;
            }
        }
        // Say it once, not every second.
        quiet = pause == RETRY;
        tokio::time::sleep(pause).await;
    }
}

async fn register(api: &Api<APIService>, name: &str, ca_pem: &str) -> Result<(), String> {
    let service = api
        .get_opt(name)
        .await
        .map_err(|e| e.to_string())?
        .ok_or("does not exist (yet)")?;
    let spec = service.spec.unwrap_or_default();
    let bundle = spec
        .ca_bundle
        .map(|b| String::from_utf8_lossy(&b.0).into_owned())
        .unwrap_or_default();
    let Some(bundle) = with_certificate(&bundle, ca_pem) else {
        return Ok(());
    };
    let patch = serde_json::json!({
        // Together with the bundle: a bundle that changed since makes the API server refuse, and we look again.
        "metadata": {"resourceVersion": service.metadata.resource_version},
        "spec": {"caBundle": k8s_openapi::ByteString(bundle.into_bytes()), "insecureSkipTLSVerify": null},
    });
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map_err(|e| e.to_string())?;
    tracing::info!("APIService {name} trusts our certificate");
    Ok(())
}

/// The bundle with a certificate added; `None` when it is in there already.
fn with_certificate(bundle: &str, ca_pem: &str) -> Option<String> {
    const END: &str = "-----END CERTIFICATE-----";
    let split = |pem: &str| -> Vec<String> {
        pem.replace('\r', "")
            .split_inclusive(END)
            .map(|c| c.trim().to_owned())
            .filter(|c| c.ends_with(END))
            .collect()
    };
    let mut all = split(bundle);
    let ours = split(ca_pem);
    if ours.iter().all(|c| all.contains(c)) {
        return None;
    }
    all.extend(ours);
    let surplus = all.len().saturating_sub(BUNDLE_CERTIFICATES_MAX);
    Some(all[surplus..].join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adds_once_and_keeps_the_newest() {
        let pem = |n: usize| format!("-----BEGIN CERTIFICATE-----\n{n}\n-----END CERTIFICATE-----\n");
        let mut bundle = String::new();
        for n in 0..10 {
            bundle = with_certificate(&bundle, &pem(n)).unwrap();
            assert_eq!(with_certificate(&bundle, &pem(n)), None);
        }
        assert_eq!(bundle, (4..10).map(pem).collect::<String>());
    }
}
