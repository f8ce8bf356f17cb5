//! The manifests of `deploy/`, built into the binary: `weir install` prints them, `weir up` applies these very texts.

use anyhow::{Result, bail};
use weir_local::node::Manifest;

use crate::args::{self, Engine};

/// File name and text, in the order in which they are applied.
const MANIFESTS: &[(&str, &str)] = &[
    (
        "00-namespace.yaml",
        include_str!("../../../../deploy/00-namespace.yaml"),
    ),
    ("10-crds.yaml", include_str!("../../../../deploy/10-crds.yaml")),
    (
        "12-gateway-api.yaml",
        include_str!("../../../../deploy/12-gateway-api.yaml"),
    ),
    ("20-rbac.yaml", include_str!("../../../../deploy/20-rbac.yaml")),
    ("30-control.yaml", include_str!("../../../../deploy/30-control.yaml")),
    ("40-metrics.yaml", include_str!("../../../../deploy/40-metrics.yaml")),
    ("50-agent.yaml", include_str!("../../../../deploy/50-agent.yaml")),
    ("60-ingress.yaml", include_str!("../../../../deploy/60-ingress.yaml")),
    ("70-zipkin.yaml", include_str!("../../../../deploy/70-zipkin.yaml")),
];

/// Those of them that a cluster gets only when they are asked for: it may have its own.
const ON_REQUEST: &[&str] = &["70-zipkin.yaml"];

/// `weir install`: everything on standard output.
pub fn print(arguments: &args::Install) -> Result<()> {
    for manifest in manifests(
        arguments.proxy,
        &arguments.image,
        arguments.zipkin,
        arguments.mesh_rules,
    )? {
        println!("# {}\n---\n{}", manifest.name, manifest.text.trim_end());
    }
    Ok(())
}

/// Weir's own manifests, with those on request if `all`. The mesh-wide engine is a label of the system namespace; the gateway is told its own.
/// With `mesh_rules` the metrics server records the aggregates that are shipped.
pub fn manifests(engine: Engine, image: &str, all: bool, mesh_rules: bool) -> Result<Vec<Manifest>> {
    let mut texts = Vec::new();
    for (name, text) in MANIFESTS.iter().filter(|(name, _)| all || !ON_REQUEST.contains(name)) {
        let mut text = text.replace("image: weir\n", &format!("image: {image}\n"));
        if *name == "00-namespace.yaml" && engine == Engine::Envoy {
            let label = format!("    {}: envoy\n", weir_api::labels::ENGINE);
            let Some(at) = text.find("  labels:\n") else {
                bail!("deploy/{name}: the namespace has no labels")
            };
            text.insert_str(at + "  labels:\n".len(), &label);
        }
        if *name == "60-ingress.yaml" && engine == Engine::Envoy {
            let args = "args: [gateway,";
            if !text.contains(args) {
                bail!("deploy/{name}: the gateway has no arguments")
            }
            text = text.replace(args, &format!("{args} --engine=envoy,"));
        }
        if *name == "40-metrics.yaml" && mesh_rules {
            let args = "args: [metrics";
            if !text.contains(args) {
                bail!("deploy/{name}: the metrics server has no arguments")
            }
            text = text.replace(args, &format!("{args}, --rule-file=mesh"));
        }
        texts.push(Manifest {
            name: format!("deploy/{name}"),
            text,
        });
    }
    Ok(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stands_in_the_manifests() {
        let plain = manifests(Engine::Weir, "weir", false, true).unwrap();
        let label = format!("{}:", weir_api::labels::ENGINE);
        assert!(!plain[0].text.contains(&label));
        assert!(!plain.iter().any(|manifest| manifest.name.contains("zipkin")));
        let envoy = manifests(Engine::Envoy, "registry.example/weir:1", true, false).unwrap();
        assert!(envoy[0].text.contains("traffic.proxy.engine: envoy"));
        let gateway = |texts: &[Manifest]| texts.iter().any(|m| m.text.contains("[gateway, --engine=envoy,"));
        assert!(gateway(&envoy) && !gateway(&plain));
        let rules = |texts: &[Manifest]| texts.iter().any(|m| m.text.contains("[metrics, --rule-file=mesh]"));
        assert!(rules(&plain) && !rules(&envoy));
        assert!(envoy.iter().any(|m| m.text.contains("args: [metrics]")));
        assert!(envoy.iter().all(|manifest| !manifest.text.contains("image: weir\n")));
    }
}
