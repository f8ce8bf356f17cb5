//! What the kernel remembers of connections that were redirected to a proxy, and making it forget.
//!
//! Enters: a network namespace, from which the redirection has gone. Leaves: the number of entries that were taken out of its
//! connection tracking. An entry outlives its connection by minutes. Should the application use the same port to the same
//! address again, unredirected, and should redirection come back during that connection, the kernel would take its packets
//! for those of the old one, and give them to a proxy that knows nothing of it.
//!
//! The messages are those of ctnetlink (linux/netfilter/nfnetlink_conntrack.h).

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

/// Longest wait for an answer of the kernel.
const ANSWER_SECONDS: i64 = 2;
/// The kernel sends no longer datagrams.
const DATAGRAM_BYTES_MAX: usize = 64 << 10;

/// Before each message: length, type, flags, number, port.
const HEADER_BYTES: usize = 16;
/// Before the attributes: family, version, resource.
const FAMILY_BYTES: usize = 4;
/// Types of messages.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const ENTRY_GET: u16 = 0x0101;
const ENTRY_DELETE: u16 = 0x0102;
/// Flags of requests.
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const DUMP: u16 = 0x300;
/// Attributes of an entry; their types carry flags in the two highest bits.
const TYPE_MASK: u16 = 0x3fff;
const NESTED: u16 = 0x8000;
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const ID: u16 = 12;
/// Within a direction, and within its protocol.
const PROTOCOL: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const TCP: u8 = 6;
/// The destination is translated.
const TRANSLATED: u32 = 1 << 5;

/// Forgets the TCP connections that were redirected to these ports in a network namespace.
pub(super) async fn forget(netns: &Path, ports: &'static [u16]) -> io::Result<usize> {
    let namespace = File::open(netns)?;
    let (answer, answered) = tokio::sync::oneshot::channel();
    // A thread of its own: one that entered a namespace is of no use for anything else.
    std::thread::Builder::new().spawn(move || {
        let done = setns(&namespace, CloneFlags::CLONE_NEWNET).map_err(io::Error::from);
        // Nobody waits any more where the pod's task was cut off.
        let _ = answer.send(done.and_then(|()| forget_here(ports)));
    })?;
    answered.await.map_err(io::Error::other)?
}

fn forget_here(ports: &[u16]) -> io::Result<usize> {
    let kernel = Kernel::open()?;
    let mut redirected = Vec::new();
    kernel.ask(ENTRY_GET, DUMP, &[0; FAMILY_BYTES], |entry| {
        redirected.extend(deletion(entry, ports));
    })?;
    let mut forgotten = 0;
    for request in redirected {
        match kernel.ask(ENTRY_DELETE, ACKNOWLEDGE, &request, |_| {}) {
            Ok(()) => forgotten += 1,
            // It has gone by itself.
            Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(forgotten)
}

/// The request that deletes an entry, if it is of a connection that was redirected to one of the ports.
fn deletion(entry: &[u8], ports: &[u16]) -> Option<Vec<u8>> {
    let attributes = entry.get(FAMILY_BYTES..)?;
    let status = u32::from_be_bytes(find(attributes, STATUS)?.try_into().ok()?);
    let protocol = find(find(attributes, REPLY)?, PROTOCOL)?;
    let answers_from = u16::from_be_bytes(find(protocol, SOURCE_PORT)?.try_into().ok()?);
    let ours = status & TRANSLATED != 0 && find(protocol, PROTOCOL_NUMBER)? == [TCP] && ports.contains(&answers_from);
    if !ours {
        return None;
    }
    let mut request = vec![*entry.first()?, 0, 0, 0];
    put(&mut request, ORIGINAL | NESTED, find(attributes, ORIGINAL)?)?;
    put(&mut request, ID, find(attributes, ID)?)?;
    Some(request)
}

/// The content of the first attribute of a type.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let (length, rest) = attributes.split_first_chunk::<2>()?;
        let (kind, _) = rest.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_ne_bytes(*length));
        let content = attributes.get(4..length)?;
        if u16::from_ne_bytes(*kind) & TYPE_MASK == wanted {
            return Some(content);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

fn put(into: &mut Vec<u8>, kind: u16, content: &[u8]) -> Option<()> {
    into.extend(u16::try_from(4 + content.len()).ok()?.to_ne_bytes());
    into.extend(kind.to_ne_bytes());
    into.extend(content);
    into.resize(into.len().next_multiple_of(4), 0);
    Some(())
}

/// A conversation with the kernel about the namespace of the thread that opened it.
struct Kernel(OwnedFd);

impl Kernel {
    fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            flags,
            SockProtocol::NetlinkNetFilter,
        )?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(ANSWER_SECONDS, 0))?;
        Ok(Self(socket))
    }

    /// Sends one request and shows what comes, up to its end, without the headers.
    fn ask(&self, kind: u16, flags: u16, content: &[u8], mut show: impl FnMut(&[u8])) -> io::Result<()> {
        let length = u32::try_from(HEADER_BYTES + content.len()).map_err(io::Error::other)?;
        let mut request = Vec::with_capacity(HEADER_BYTES + content.len());
        request.extend(length.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend((REQUEST | flags).to_ne_bytes());
        request.extend([0; 8]);
        request.extend(content);
        send(self.0.as_raw_fd(), &request, MsgFlags::empty())?;
        let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            let length = recv(self.0.as_raw_fd(), &mut datagram, MsgFlags::empty())?;
            let mut messages = datagram.get(..length).unwrap_or_default();
            while let Some((kind, content, rest)) = message(messages) {
                match kind {
                    DONE => return Ok(()),
                    ERROR => return outcome(content),
                    _ => show(content),
                }
                messages = rest;
            }
        }
    }
}

/// The type and content of the first message, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (kind, _) = rest.split_first_chunk::<2>()?;
    let length = usize::try_from(u32::from_ne_bytes(*length)).ok()?;
    let content = bytes.get(HEADER_BYTES..length)?;
    let rest = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((u16::from_ne_bytes(*kind), content, rest))
}

/// What an error message says; 0 is none.
fn outcome(content: &[u8]) -> io::Result<()> {
    let (code, _) = content.split_first_chunk::<4>().ok_or(io::ErrorKind::InvalidData)?;
    match i32::from_ne_bytes(*code) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        put(&mut bytes, kind, content).unwrap();
        bytes
    }

    /// An entry as the kernel tells it: the directions' protocol and port, and the status.
    fn entry(protocol: u8, answers_from: u16, status: u32) -> Vec<u8> {
        let direction = |port: u16| {
            let inner = [
                attribute(PROTOCOL_NUMBER, &[protocol]),
                attribute(SOURCE_PORT, &port.to_be_bytes()),
            ]
            .concat();
            attribute(PROTOCOL | NESTED, &inner)
        };
        [
            vec![2, 0, 0, 0],
            attribute(ORIGINAL | NESTED, &direction(40_000)),
            attribute(REPLY | NESTED, &direction(answers_from)),
            attribute(STATUS, &status.to_be_bytes()),
            attribute(ID, &[1, 2, 3, 4]),
        ]
        .concat()
    }

    #[test]
    fn only_what_was_redirected_to_the_ports_is_deleted() {
        let ports = [15001, 15006];
        let request = deletion(&entry(TCP, 15001, TRANSLATED | 0x8), &ports).unwrap();
        assert_eq!(request[..4], [2, 0, 0, 0]);
        assert_eq!(find(&request[4..], ID), Some(&[1, 2, 3, 4][..]));
        assert_eq!(
            find(&request[4..], ORIGINAL),
            find(&entry(TCP, 15001, TRANSLATED)[4..], ORIGINAL)
        );
        assert!(deletion(&entry(TCP, 15006, TRANSLATED), &ports).is_some());
        assert!(
            deletion(&entry(TCP, 80, TRANSLATED), &ports).is_none(),
            "somebody else's"
        );
        assert!(deletion(&entry(TCP, 15001, 0), &ports).is_none(), "to the port itself");
        assert!(deletion(&entry(17, 15001, TRANSLATED), &ports).is_none(), "UDP");
    }

    #[test]
    fn what_is_cut_off_is_passed_over() {
        let whole = entry(TCP, 15001, TRANSLATED);
        for length in 0..whole.len() {
            assert!(deletion(&whole[..length], &[15001]).is_none());
            assert!(message(&whole[..length.min(15)]).is_none());
        }
        assert!(outcome(&[]).is_err() && outcome(&0_i32.to_ne_bytes()).is_ok());
        let refused = outcome(&(-(Errno::EPERM as i32)).to_ne_bytes()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::EPERM as i32));
    }
}
