//! The control plane at scale: simulated objects on one side, simulated delta clients on the other.
//!
//! Enters: how many (`--services 1000 --endpoints 10000 --clients 1000 --changes 200`). Leaves: `FIGURE` lines. The control
//! plane runs in a process of its own, which this program starts (`plane`), so that its memory is its own; the clients
//! (`fleet`) count what comes on their sockets. No Kubernetes API takes part: objects go where a watch would put them.

mod cluster;
mod fleet;
mod phases;
mod plane;
mod wire;

use std::error::Error;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How large a mesh is simulated.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    services: usize,
    endpoints: usize,
    clients: usize,
    changes: usize,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1).peekable();
    let role = words.next_if(|word| word == "plane");
    let mut size = Size {
        services: 1_000,
        endpoints: 10_000,
        clients: 1_000,
        changes: 200,
    };
    let (mut folder, mut narrow, mut listen) = (None, false, "127.0.0.1:0".to_owned());
    while let Some(flag) = words.next() {
        if flag == "--narrow" {
            narrow = true;
            continue;
        }
        let value = words.next().ok_or(format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--services" => size.services = value.parse()?,
            "--endpoints" => size.endpoints = value.parse()?,
            "--clients" => size.clients = value.parse()?,
            "--changes" => size.changes = value.parse()?,
            "--certificate" => folder = Some(value),
            "--listen" => listen = value,
            other => return Err(format!("{other} is not known").into()),
        }
    }
    let runtime = tokio::runtime::Runtime::new()?;
    match (role, folder) {
        (Some(_), Some(folder)) => runtime.block_on(plane::run(size, narrow, &folder, &listen)),
        _ => runtime.block_on(phases::run(size)),
    }
}
