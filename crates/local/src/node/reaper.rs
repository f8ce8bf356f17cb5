//! What pid 1 owes its pid namespace: it ends when its parent does, and it reaps orphans.

use std::collections::HashSet;
use std::io::{self, Read};
use std::time::Duration;

use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Our own children are waited for at once by who started them; what is still a zombie after two looks is an orphan.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Starts the thread that ends this process, and with it the whole pid namespace, when `weir up` is gone: its end of the
/// pipe on our standard input closes.
pub(super) fn end_with_parent() -> io::Result<()> {
    std::thread::Builder::new().name("parent".into()).spawn(|| {
        let mut byte = [0u8; 1];
        while matches!(io::stdin().read(&mut byte), Ok(1..)) {}
        std::process::exit(1);
    })?;
    Ok(())
}

/// Reaps orphans (children of agents and of containers in the node's pid namespace that outlived their parents).
pub(super) async fn reap_orphans() {
    let mut seen: HashSet<i32> = HashSet::new();
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let zombies = own_zombies();
        for pid in zombies.intersection(&seen) {
            let _ = waitpid(Pid::from_raw(*pid), Some(WaitPidFlag::WNOHANG));
        }
        seen = zombies;
    }
}

fn own_zombies() -> HashSet<i32> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return HashSet::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| is_own_zombie(*pid)).collect()
}

fn is_own_zombie(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // The name in parentheses may contain anything.
    let Some((_, rest)) = stat.rsplit_once(") ") else {
        return false;
    };
    let mut fields = rest.split(' ');
    let (state, parent) = (fields.next(), fields.next());
    state == Some("Z") && parent.and_then(|parent| parent.parse::<u32>().ok()) == Some(std::process::id())
}
