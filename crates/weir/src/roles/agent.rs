//! `weir agent`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use weir_agent::{CniConfig, Config, ControlNames, Health};

use super::{client, until_signal};
use crate::{admin, args};

pub async fn run(arguments: args::Agent) -> Result<()> {
    let client = client(&arguments.kubernetes).await?;
    let exe = std::env::current_exe().context("own program")?;
    let health = Health::default();
    let (ready, of_metrics) = (health.clone(), health.clone());
    let config = Config {
        run_dir: arguments.run_dir,
        cri_socket: arguments.cri_socket,
        cni: Some(CniConfig {
            conf_dir: arguments.cni_config_dir,
            bin_dir: arguments.cni_bin_dir,
            standalone: arguments.cni_standalone,
        }),
        envoy: arguments.envoy.into(),
        drain: std::time::Duration::from_secs(arguments.drain_seconds),
        control: ControlNames {
            namespace: arguments.namespace,
            ..ControlNames::default()
        },
        ..Config::new(arguments.node_name, exe)
    };
    let admin = admin::Health {
        ready: Box::new(move || match ready.is_ready() {
            true => Ok(()),
            false => Err("the first list of this node's pods".to_owned()),
        }),
        metrics: Box::new(move || {
            format!(
                "# HELP weir_agent_ready Whether the node's pods are known.\n# TYPE weir_agent_ready gauge\nweir_agent_ready {}\n",
                u8::from(of_metrics.is_ready())
            )
        }),
    };
    until_signal(|shutdown| async move {
        tokio::try_join!(
            async {
                weir_agent::run(config, client, health, shutdown.clone())
                    .await
                    .context("agent")
            },
            admin::serve(arguments.admin_address, admin, shutdown.clone()),
        )?;
        Ok(())
    })
    .await
}

pub async fn visit(arguments: args::Visit) -> Result<ExitCode> {
    let run_dir = &arguments.run_dir;
    match arguments.action {
        args::VisitAction::Log { id, tail, follow } => {
            weir_agent::visit::log(run_dir, &id, tail, follow).await?;
            Ok(ExitCode::SUCCESS)
        }
        args::VisitAction::Exec { id, program } => Ok(weir_agent::visit::exec(run_dir, &id, &program).await?),
    }
}
