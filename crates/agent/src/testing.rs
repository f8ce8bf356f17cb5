//! Network namespaces and stand-in servers for tests. Everything is removed when it is dropped, also by a failing test.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Two network namespaces joined by a cable: the pod has 10.199.0.1, its peer 10.199.0.2.
pub struct Net {
    names: [String; 2],
}

impl Net {
    pub fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "needs root, or a user namespace (`unshare -rm`), to make network namespaces"
        );
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let tag = format!("weir-agent-{}-{number}", std::process::id());
        let net = Self {
            names: [format!("{tag}-pod"), format!("{tag}-peer")],
        };
        for (name, address) in net.names.iter().zip(["10.199.0.1/24", "10.199.0.2/24"]) {
            ip(&["netns", "add", name]);
            ip(&["-n", name, "link", "set", "lo", "up"]);
            let [first, second] = &net.names;
            if name == first {
                continue;
            }
            ip(&[
                "-n", first, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", second,
            ]);
            ip(&["-n", second, "addr", "add", address, "dev", "eth0"]);
            ip(&["-n", first, "addr", "add", "10.199.0.1/24", "dev", "eth0"]);
            for side in &net.names {
                ip(&["-n", side, "link", "set", "eth0", "up"]);
            }
        }
        net
    }

    pub fn pod(&self) -> PathBuf {
        PathBuf::from("/var/run/netns").join(&self.names[0])
    }

    pub fn peer(&self) -> PathBuf {
        PathBuf::from("/var/run/netns").join(&self.names[1])
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "delete", name]).status();
        }
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .expect("ip not found: run `make tools`");
    assert!(
        output.status.success(),
        "ip {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs something in a network namespace.
pub fn within<T: Send + 'static>(netns: PathBuf, work: impl FnOnce() -> T + Send + 'static) -> T {
    let run = move || {
        setns(File::open(netns).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        work()
    };
    std::thread::spawn(run).join().unwrap()
}

/// A server that answers each chunk with its name and the chunk.
pub fn echo(netns: PathBuf, address: &'static str, name: &'static str) {
    let listener = within(netns, move || TcpListener::bind(address).unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 64];
                while let Ok(length @ 1..) = stream.read(&mut buffer) {
                    let answer = format!("{name}:{}", String::from_utf8_lossy(&buffer[..length]));
                    let _ = stream.write_all(answer.as_bytes());
                }
            });
        }
    });
}

/// A connection from within a network namespace, optionally with a marked socket.
pub fn connect(netns: PathBuf, to: &'static str, mark: Option<u32>) -> std::io::Result<TcpStream> {
    within(netns, move || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        if let Some(mark) = mark {
            socket.set_mark(mark)?;
        }
        let to: SocketAddr = to.parse().unwrap();
        socket.connect_timeout(&to.into(), Duration::from_secs(3))?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
        Ok(stream)
    })
}

/// Sends a word, returns the answer.
pub fn say(stream: &mut TcpStream, word: &str) -> String {
    stream.write_all(word.as_bytes()).unwrap();
    let mut buffer = [0; 64];
    let length = stream.read(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}
