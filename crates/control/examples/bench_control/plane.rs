//! The process with the control plane: reads what to do from standard input, one line each, and answers on standard output.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio_util::sync::CancellationToken;
use weir_control::lower::Lowered;
use weir_control::{ControlHandle, watch::Watched};
use weir_mesh::{Mesh, Objects};
use weir_xds::server::{AllowAll, ServerTls};

use crate::{Size, cluster};

/// Serves the simulated cluster until standard input ends.
pub async fn run(size: Size, narrow: bool, folder: &str, listen: &str) -> Result<(), Box<dyn Error>> {
    let read = |name: &str| std::fs::read_to_string(Path::new(folder).join(name));
    let tls = ServerTls {
        cert_pem: read("certificate.pem")?,
        key_pem: read("key.pem")?,
    };
    let objects = cluster::objects(size, narrow)?;
    let listener = weir_xds::server::listen(listen.parse()?)?;
    println!("{}", listener.local_addr()?);
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    // Nothing is built before the fleet says that it starts.
    lines.next_line().await?;
    let watched = Watched::of(objects);
    let shutdown = CancellationToken::new();
    let serving = tokio::spawn(weir_control::control::serve_objects(
        watched.clone(),
        ControlHandle::default(),
        listener,
        Some(tls),
        AllowAll,
        shutdown.clone(),
    ));
    while let Some(line) = lines.next_line().await? {
        let mut words = line.split_whitespace().map(str::parse::<usize>);
        if let (Some(Ok(service)), Some(Ok(endpoint))) = (words.next(), words.next()) {
            watched.edit(|objects| cluster::flip(objects, service, endpoint));
        }
    }
    // Standard input has ended: so does everything, as suddenly as a crash.
    serving.abort();
    Ok(())
}

/// Tells how long each stage takes by itself: the whole from nothing, then again after one endpoint's change.
pub fn stages(objects: &Objects) {
    let mut started = Instant::now();
    let mut lap = |stage: &str| {
        eprintln!("  {stage}: {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
        started = Instant::now();
    };
    let mut builder = weir_mesh::Builder::default();
    let (before, _) = builder.build(objects, &Mesh::default());
    lap("mesh from nothing");
    let lowered = Lowered::new(&before, &Lowered::default());
    lap("resources from nothing");
    let mut changed = objects.clone();
    lap("copy of the objects");
    cluster::flip(&mut changed, 0, 0);
    let (mesh, _) = builder.build(&changed, &before);
    lap("mesh after a change");
    let next = Lowered::renew(&mesh, &lowered, &before);
    lap("resources after a change");
    let consistent = next.check_since(&lowered).is_ok();
    lap(if consistent {
        "check after a change"
    } else {
        "check after a change (inconsistent)"
    });
    drop((before, lowered));
    lap("end of what was before");
}
