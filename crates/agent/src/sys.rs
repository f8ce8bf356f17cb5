//! The system calls that have no safe wrapper here: descriptors of processes, what a child does between fork and
//! exec, and memory that a proxy does not need any more. Everything that is `unsafe` in this crate stands in this file.
//!
//! The closures given to `pre_exec` run in a forked child of a threaded process, so they make plain system calls only:
//! no allocation, no lock, no logging.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr::{NonNull, with_exposed_provenance_mut};

use nix::libc;
use nix::sched::{CloneFlags, setns};
use nix::sys::mman::{MmapAdvise, madvise};
use nix::sys::signal::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::process::Command;

/// The child enters the network namespace that `netns` is an open descriptor of.
pub fn enter_netns(command: &mut Command, netns: File) {
    // SAFETY: setns is one system call on a descriptor that the closure owns.
    unsafe {
        command.pre_exec(move || setns(&netns, CloneFlags::CLONE_NEWNET).map_err(io::Error::from));
    }
}

/// The child leads a session of its own: no terminal, no signal of our process group reaches it.
pub fn new_session(command: &mut Command) {
    // SAFETY: setsid is one system call without arguments.
    unsafe {
        command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(io::Error::from));
    }
}

/// The kernel kills the child when the thread that starts it ends. Call it from a thread that lives as long as the
/// process does (the main thread, or a worker of the runtime).
pub fn die_with_parent(command: &mut Command) {
    // SAFETY: prctl(PR_SET_PDEATHSIG) is one system call with a constant argument.
    unsafe {
        command.pre_exec(|| nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from));
    }
}

/// A descriptor of a process; readable once it has ended, never of another process that got the same number later.
pub fn pidfd_open(pid: i32) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the call takes two integers; what it returns is a new descriptor that nobody else owns.
    let pidfd = unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(pid), 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?)
    };
    // SAFETY: the descriptor moves into the AsyncFd, which never hands it out to be closed or replaced.
    Ok(unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?)
}

/// Sends a signal to the very process that the descriptor stands for.
pub fn pidfd_signal(pidfd: &OwnedFd, signal: Signal) -> io::Result<()> {
    // SAFETY: integers and a null siginfo pointer, which the kernel takes as "as kill would".
    let done = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            libc::c_long::from(pidfd.as_raw_fd()),
            libc::c_long::from(signal as i32),
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    if done < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Takes the pages of the program's own code out of this process; each comes back, from the system's cache of files, when
/// it is executed again. What only the start needed does not come back: of a proxy, two thirds. Returns the bytes.
pub fn release_program_text() -> io::Result<usize> {
    let program = fs::read_link("/proc/self/exe")?;
    let mut released = 0;
    for line in fs::read_to_string("/proc/self/maps")?.lines() {
        // begin-end permissions offset device inode path
        let mut words = line.split_ascii_whitespace();
        let (range, permissions, path) = (words.next(), words.next(), words.nth(3));
        let ours = permissions == Some("r-xp") && path.is_some_and(|path| program.as_os_str() == path);
        let bounds = range.filter(|_| ours).and_then(|range| range.split_once('-'));
        let Some((begin, end)) = bounds else { continue };
        let number = |text| usize::from_str_radix(text, 16).map_err(io::Error::other);
        let (begin, end) = (number(begin)?, number(end)?);
        let Some(address) = NonNull::new(with_exposed_provenance_mut(begin)) else {
            continue;
        };
        // SAFETY: the mapping is this program's file, which nothing writes to: not this process (no right to write), and
        // not others (a running program's file is busy). Its pages can be dropped and read again at any time.
        unsafe { madvise(address, end - begin, MmapAdvise::MADV_DONTNEED)? };
        released += end - begin;
    }
    Ok(released)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_goes_on_without_the_pages_of_its_code() {
        assert!(release_program_text().unwrap() > 0);
        assert!(release_program_text().unwrap() > 0, "which it needed to get here");
    }
}
