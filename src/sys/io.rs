//! Descriptors and sockets: pairs, pipes, datagrams with and without descriptors, reading with a deadline.
//!
//! Everything here is close-on-exec, and nothing here blocks but what waits by its name and [`read_until`].

use std::io::{self, IoSlice, IoSliceMut, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::socket::{
    accept4, recvmsg, sendmsg, socketpair, AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag,
    SockType, UnixAddr,
};

/// A connected pair of sockets that keep the boundaries and the order of datagrams (`SOCK_SEQPACKET`).
///
/// # Errors
/// Those of socketpair(2): no descriptors or no memory left.
pub fn seqpacket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Has the kernel refuse descriptors that the peer attaches to what it sends (`EPERM` for it), where the kernel can
/// (Linux 6.16). Without this they are dropped when the datagram is received; but then the last close of a file that a
/// hostile peer chose, with all that may have to be freed for it, runs on the receiver's time.
pub fn refuse_descriptors(socket: impl AsFd) {
    /// Of `asm-generic/socket.h`.
    const SO_PASSRIGHTS: libc::c_int = 83;
    let (fd, no) = (socket.as_fd().as_raw_fd(), 0 as libc::c_int);
    let length = std::mem::size_of_val(&no) as libc::socklen_t;
    // SAFETY: the address and the length are those of one int, which the kernel only reads.
    let _ = unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, SO_PASSRIGHTS, (&raw const no).cast(), length) };
}

/// The address of the Unix socket with this name in an open directory. By the directory's descriptor, since the path to it
/// may be longer than the 108 bytes of an address; it has to be open for as long as the address is used.
///
/// # Errors
/// `ENAMETOOLONG` for a name that is too long by itself.
pub fn address_in(directory: &impl AsFd, name: &str) -> io::Result<UnixAddr> {
    Ok(UnixAddr::new(format!("/proc/self/fd/{}/{name}", directory.as_fd().as_raw_fd()).as_str())?)
}

/// A pipe: the read end, which does not block, and the write end, which does.
///
/// # Errors
/// Those of pipe2(2) and fcntl(2).
pub fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    nix::fcntl::fcntl(&read, nix::fcntl::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((read, write))
}

/// A nameless file in memory with this content, positioned at its start.
///
/// # Errors
/// Those of memfd_create(2) and write(2).
pub fn memory_file(name: &str, content: &[u8]) -> io::Result<OwnedFd> {
    use std::io::{Seek, Write};
    let mut file = std::fs::File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC)?);
    file.write_all(content)?;
    file.rewind()?;
    Ok(file.into())
}

/// Sends one datagram made of `pieces`, without waiting.
///
/// # Errors
/// `WouldBlock` when the peer's queue is full, `BrokenPipe` or `ConnectionReset` when the peer is gone (never a
/// signal).
pub fn send(socket: impl AsFd, pieces: &[IoSlice<'_>]) -> io::Result<()> {
    send_with_descriptors(socket, pieces, &[])
}

/// The same, with descriptors that the peer gets duplicates of.
///
/// # Errors
/// As [`send`].
pub fn send_with_descriptors(
    socket: impl AsFd,
    pieces: &[IoSlice<'_>],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let raw: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &rights[..0] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    // A datagram goes whole or not at all, so the count that is returned says nothing new.
    sendmsg::<()>(socket.as_fd().as_raw_fd(), pieces, control, flags, None)?;
    Ok(())
}

/// Receives one datagram without waiting: its length, and whether it was longer than `buffer`. A length of 0 means
/// that the peer is gone.
///
/// # Errors
/// `WouldBlock` when there is none; `ConnectionReset` when the peer went with unread datagrams.
pub fn recv(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, bool)> {
    let mut pieces = [IoSliceMut::new(buffer)];
    // Without a control buffer the kernel drops any descriptors that a hostile peer attached.
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut pieces, None, flags)?;
    Ok((received.bytes, received.flags.contains(MsgFlags::MSG_TRUNC)))
}

/// Waits until `source` has something to read or its writers are gone, or the deadline has passed.
///
/// # Errors
/// `TimedOut`, and those of poll(2).
pub fn wait_readable(source: impl AsFd, deadline: Instant) -> io::Result<()> {
    wait_any(&mut [readable(source.as_fd())], deadline)
}

/// Which of two descriptors has become readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Woken {
    /// The first, and perhaps the second too.
    First,
    /// Only the second.
    Second,
}

/// As [`wait_readable`], for two descriptors at once.
///
/// # Errors
/// `TimedOut`, and those of poll(2).
pub fn wait_either(first: impl AsFd, second: impl AsFd, deadline: Instant) -> io::Result<Woken> {
    let mut entries = [readable(first.as_fd()), readable(second.as_fd())];
    wait_any(&mut entries, deadline)?;
    Ok(if entries[0].revents != 0 { Woken::First } else { Woken::Second })
}

fn readable(source: BorrowedFd<'_>) -> libc::pollfd {
    libc::pollfd { fd: source.as_raw_fd(), events: libc::POLLIN, revents: 0 }
}

fn wait_any(entries: &mut [libc::pollfd], deadline: Instant) -> io::Result<()> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up, so that the wait is not over a moment before the deadline and then spins.
        let left_ms = left.saturating_add(Duration::from_nanos(999_999)).as_millis();
        let timeout_ms = libc::c_int::try_from(left_ms).unwrap_or(libc::c_int::MAX);
        // SAFETY: the pointer and the length are those of one live slice of pollfd.
        match unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, timeout_ms) } {
            0 if left.is_zero() => return Err(io::ErrorKind::TimedOut.into()),
            0 => {}
            result if result > 0 => return Ok(()),
            _ => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// What is waited for on a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// Something to read.
    Input,
    /// That the other side is gone for good.
    End,
    /// Room to write; of a socket that connects, that this is over.
    Output,
}

/// What came of waiting on a descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Readiness {
    /// What was waited for is there, or an error is.
    pub ready: bool,
    /// The other side is gone for good, and nothing of it is left.
    pub over: bool,
}

/// Waits until something happens on one of these descriptors, or the time is over; says of each what it is like then.
///
/// # Errors
/// Those of poll(2).
pub fn wait_all(watched: &[(BorrowedFd<'_>, Awaited)], timeout: Option<Duration>) -> io::Result<Vec<Readiness>> {
    let events = |awaited| match awaited {
        Awaited::Input => libc::POLLIN,
        Awaited::Output => libc::POLLOUT,
        // Which needs not be asked for.
        Awaited::End => 0,
    };
    let entry =
        |(fd, awaited): &(BorrowedFd<'_>, _)| libc::pollfd { fd: fd.as_raw_fd(), events: events(*awaited), revents: 0 };
    let mut entries: Vec<libc::pollfd> = watched.iter().map(entry).collect();
    // Rounded up, so that the time is over when the wait is.
    let timeout_ms = timeout.map_or(-1, |time| {
        libc::c_int::try_from(time.saturating_add(Duration::from_nanos(999_999)).as_millis())
            .unwrap_or(libc::c_int::MAX)
    });
    // SAFETY: the pointer and the length are those of one live vector of pollfd.
    if unsafe { libc::poll(entries.as_mut_ptr(), entries.len() as libc::nfds_t, timeout_ms) } < 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
    let readiness = |entry: &libc::pollfd| Readiness {
        ready: entry.revents & (entry.events | libc::POLLERR | libc::POLLHUP) != 0,
        over: entry.revents & libc::POLLHUP != 0 && entry.revents & libc::POLLIN == 0,
    };
    Ok(entries.iter().map(readiness).collect())
}

/// Receives one datagram without waiting, and the descriptor that came with it, if exactly one did. A length of 0 means
/// that the peer is gone.
///
/// # Errors
/// As [`recv`].
pub fn recv_descriptor(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let (length, mut descriptors) = receive_with::<1>(socket, buffer)?;
    let only = descriptors.pop().filter(|_| descriptors.is_empty());
    Ok((length, only))
}

/// The same, with the descriptors that came, of which there may be several.
///
/// # Errors
/// As [`recv`].
pub fn recv_descriptors(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    receive_with::<4>(socket, buffer)
}

fn receive_with<const MAX: usize>(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut pieces = [IoSliceMut::new(buffer)];
    let mut space = nix::cmsg_space!([RawFd; MAX]);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(socket.as_fd().as_raw_fd(), &mut pieces, Some(&mut space), flags)?;
    let mut descriptors = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(numbers) = message {
            // SAFETY: the kernel has just made these descriptors for this message, and nothing else knows of them.
            descriptors.extend(numbers.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((received.bytes, descriptors))
}

/// The next connection of a listener that does not block, itself such; `None` when none waits.
///
/// # Errors
/// Those of accept4(2).
pub fn accept(listener: impl AsFd) -> io::Result<Option<OwnedFd>> {
    match accept4(listener.as_fd().as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) {
        Err(nix::errno::Errno::EAGAIN) => Ok(None),
        // SAFETY: the kernel has just made this descriptor and nobody else knows of it.
        accepted => Ok(Some(unsafe { OwnedFd::from_raw_fd(accepted?) })),
    }
}

/// Reads to the end of a pipe, `limit_bytes` at most, by a deadline.
///
/// # Errors
/// `TimedOut`; `FileTooLarge` beyond the limit; those of read(2).
pub fn read_until(pipe: impl AsFd, limit_bytes: usize, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut source = std::fs::File::from(pipe.as_fd().try_clone_to_owned()?);
    let mut content = Vec::new();
    let mut piece = [0u8; 4096];
    loop {
        wait_readable(&source, deadline)?;
        match source.read(&mut piece) {
            Ok(0) => return Ok(content),
            Ok(length) if content.len() + length > limit_bytes => return Err(io::ErrorKind::FileTooLarge.into()),
            Ok(length) => content.extend(piece.iter().take(length)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_arrives_whole_or_says_that_it_was_cut() {
        let (here, there) = seqpacket_pair().unwrap();
        let mut buffer = [0u8; 8];
        assert_eq!(recv(&there, &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        send(&here, &[IoSlice::new(b"abc"), IoSlice::new(b"de")]).unwrap();
        send(&here, &[IoSlice::new(b"0123456789")]).unwrap();
        assert_eq!(recv(&there, &mut buffer).unwrap(), (5, false));
        assert_eq!(&buffer[..5], b"abcde");
        assert_eq!(recv(&there, &mut buffer).unwrap(), (8, true));
        drop(here);
        assert_eq!(recv(&there, &mut buffer).unwrap(), (0, false));
        assert_eq!(send(&there, &[IoSlice::new(b"x")]).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn a_descriptor_comes_with_its_datagram_and_two_are_none() {
        let (here, there) = seqpacket_pair().unwrap();
        let (read, write) = output_pipe().unwrap();
        send_with_descriptors(&here, &[IoSlice::new(b"x")], &[write.as_fd()]).unwrap();
        send_with_descriptors(&here, &[IoSlice::new(b"xy")], &[write.as_fd(), read.as_fd()]).unwrap();
        drop(write);
        let (length, descriptor) = recv_descriptor(&there, &mut [0; 8]).unwrap();
        nix::unistd::write(descriptor.unwrap(), b"!").unwrap();
        let (longer, none) = recv_descriptor(&there, &mut [0; 8]).unwrap();
        assert_eq!((length, longer, none.is_none()), (1, 2, true));
        assert_eq!(
            read_until(&read, 9, Instant::now() + Duration::from_secs(9)).unwrap(),
            b"!",
            "all writers are closed"
        );
        drop(here);
        assert_eq!(recv_descriptor(&there, &mut [0; 8]).unwrap().0, 0);
    }

    #[test]
    fn waiting_on_several_tells_each_from_the_others() {
        let (read, write) = output_pipe().unwrap();
        let (other, _silent) = output_pipe().unwrap();
        let look = |timeout| {
            let watched = [(read.as_fd(), Awaited::Input), (other.as_fd(), Awaited::Input)];
            wait_all(&watched, timeout).unwrap().iter().map(|found| (found.ready, found.over)).collect::<Vec<_>>()
        };
        assert_eq!(look(Some(Duration::from_millis(5))), [(false, false), (false, false)]);
        nix::unistd::write(&write, b"x").unwrap();
        assert_eq!(look(None), [(true, false), (false, false)]);
        drop(write);
        assert_eq!(look(None), [(true, false), (false, false)], "there is something to read still");
        nix::unistd::read(&read, &mut [0; 8]).unwrap();
        assert_eq!(look(None), [(true, true), (false, false)]);
    }

    #[test]
    fn a_full_queue_is_told_and_not_waited_for() {
        let (here, _there) = seqpacket_pair().unwrap();
        let refused = (0..100_000).find_map(|_| send(&here, &[IoSlice::new(&[0; 4096])]).err());
        assert_eq!(refused.unwrap().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn reading_ends_at_the_end_at_the_limit_or_at_the_deadline() {
        let soon = || Instant::now() + Duration::from_millis(50);
        let (read, write) = output_pipe().unwrap();
        nix::unistd::write(&write, b"hello").unwrap();
        assert_eq!(read_until(&read, 100, soon()).unwrap_err().kind(), io::ErrorKind::TimedOut);
        nix::unistd::write(&write, b"hello").unwrap();
        assert_eq!(read_until(&read, 4, soon()).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        nix::unistd::write(&write, b"hello").unwrap();
        drop(write);
        assert_eq!(read_until(&read, 100, soon()).unwrap(), b"hello");
    }
}
