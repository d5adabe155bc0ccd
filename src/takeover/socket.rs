//! The Unix socket in the state directory on which a server can be asked for its place.
//!
//! Owns its name, who may use it, and sending and receiving of messages with descriptors.
//!
//! Invariants: the socket is 0600 in a directory of mode 0700, and the kernel is asked besides who is at the other end;
//! it appears under its name when it listens, and takes the place of one that was there.

use std::fs::{self, File, Permissions};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::sys::socket::{
    bind, connect as connect_to, getsockopt, listen, setsockopt, socket, sockopt, AddressFamily, Backlog, SockFlag,
    SockType,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::message::Message;
use crate::limits::{TAKEOVER_GREETING_TIMEOUT, TAKEOVER_MESSAGE_BYTES_MAX};
use crate::sys::io::{address_in, recv_descriptors, send_with_descriptors, wait_readable};

const NAME: &str = "takeover";

/// Where the socket of a server on this state directory is.
pub fn path(state: &Path) -> PathBuf {
    state.join(NAME)
}

/// Listens; the socket does not block.
///
/// # Errors
/// Those of the file system and of socket(2), bind(2), listen(2).
pub fn listen_in(state: &Path) -> io::Result<OwnedFd> {
    let directory = File::open(state)?;
    // Under a name of its own until it listens: who finds it under the right one can connect.
    let temporary = format!("{NAME}.{}", std::process::id());
    let _ = fs::remove_file(state.join(&temporary));
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind(listener.as_raw_fd(), &address_in(&directory, &temporary)?)?;
    let prepared = fs::set_permissions(state.join(&temporary), Permissions::from_mode(0o600))
        .and_then(|()| Ok(listen(&listener, Backlog::new(4)?)?))
        .and_then(|()| fs::rename(state.join(&temporary), path(state)));
    if let Err(error) = prepared {
        let _ = fs::remove_file(state.join(&temporary));
        return Err(error);
    }
    Ok(listener)
}

/// Removes the socket's name, at the end of a server that nobody took over from.
pub fn remove(state: &Path) {
    let _ = fs::remove_file(path(state));
}

/// Connects to the server that serves; `None` when there is none.
///
/// # Errors
/// Those of the file system, socket(2) and connect(2); `PermissionDenied` when it runs as somebody else.
pub fn connect(state: &Path) -> io::Result<Option<(OwnedFd, u32)>> {
    let directory = match File::open(state) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let stream = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    // The queue of one that is stopped fills up, and who comes then would wait for ever.
    setsockopt(&stream, sockopt::SendTimeout, &TimeVal::seconds(TAKEOVER_GREETING_TIMEOUT.as_secs() as i64))?;
    match connect_to(stream.as_raw_fd(), &address_in(&directory, NAME)?).map_err(io::Error::from) {
        Ok(()) => {}
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it accepts no connection"));
        }
        Err(error) => return Err(error),
    }
    let pid = peer(&stream)?;
    Ok(Some((stream, pid)))
}

/// The next one who knocks, with its process id; `None` when nobody waits.
///
/// # Errors
/// Those of accept(2); `PermissionDenied` for a process of another user, which is hung up on.
pub fn accept(listener: impl AsFd) -> io::Result<Option<(OwnedFd, u32)>> {
    let Some(stream) = crate::sys::io::accept(listener)? else { return Ok(None) };
    let pid = peer(&stream)?;
    Ok(Some((stream, pid)))
}

/// The process at the other end, if it may be there: one of our own user, or root's.
fn peer(stream: &OwnedFd) -> io::Result<u32> {
    let peer = getsockopt(stream, sockopt::PeerCredentials)?;
    if may_take_over(peer.uid(), nix::unistd::geteuid().as_raw()) {
        return Ok(u32::try_from(peer.pid()).unwrap_or_default());
    }
    let text = format!("the process at the other end belongs to uid {}", peer.uid());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, text))
}

fn may_take_over(peer_uid: u32, our_uid: u32) -> bool {
    peer_uid == our_uid || peer_uid == 0
}

/// Sends one message, without waiting.
///
/// # Errors
/// `WouldBlock` when the other has too many to read; `BrokenPipe` or `ConnectionReset` when it is gone.
pub fn send(stream: impl AsFd, message: &Message, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    send_with_descriptors(stream, &[IoSlice::new(&message.encode())], descriptors)
}

/// What was received.
pub type Received = (Result<Message, super::message::MessageError>, Vec<OwnedFd>);

/// Receives one message, without waiting; `None` when the other has hung up.
///
/// # Errors
/// `WouldBlock` when there is none.
pub fn receive(stream: impl AsFd, buffer: &mut [u8]) -> io::Result<Option<Received>> {
    let received = match recv_descriptors(&stream, buffer) {
        // It went before it had read all of ours; the kernel says so once, and what it has said is still there.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => recv_descriptors(&stream, buffer),
        received => received,
    };
    match received {
        // A datagram of no bytes is no message, so that it may stand for the end.
        Ok((0, _)) => Ok(None),
        Ok((length, descriptors)) => Ok(Some((Message::decode(&buffer[..length.min(buffer.len())]), descriptors))),
        Err(error) => Err(error),
    }
}

/// As [`receive`], waiting until `deadline`.
///
/// # Errors
/// `TimedOut`, and those of poll(2) and recvmsg(2).
pub fn receive_by(stream: impl AsFd, buffer: &mut [u8], deadline: Instant) -> io::Result<Option<Received>> {
    loop {
        wait_readable(&stream, deadline)?;
        match receive(&stream, buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            received => return received,
        }
    }
}

/// A buffer that any message fits, and one byte more, by which one that is too long is known.
pub fn buffer() -> Vec<u8> {
    vec![0; TAKEOVER_MESSAGE_BYTES_MAX + 1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_socket_below_a_long_path_is_found_and_replaced_by_the_next() {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join("d".repeat(120)).join("e".repeat(120));
        assert!(connect(&state).unwrap().is_none(), "there is no directory");
        fs::create_dir_all(&state).unwrap();
        assert!(connect(&state).unwrap().is_none(), "there is no socket");
        let first = listen_in(&state).unwrap();
        assert_eq!(fs::metadata(path(&state)).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(accept(&first).unwrap().is_none(), "nobody has knocked");
        let second = listen_in(&state).unwrap();
        let (here, pid) = connect(&state).unwrap().expect("a server");
        assert_eq!(pid, std::process::id());
        assert!(accept(&first).unwrap().is_none(), "its name is the second one's now");
        let (there, pid) = accept(&second).unwrap().expect("somebody knocked");
        assert_eq!(pid, std::process::id());
        send(&here, &Message::Freeze, &[there.as_fd(), here.as_fd()]).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let (message, descriptors) = receive_by(&there, &mut buffer(), deadline).unwrap().unwrap();
        assert_eq!((message, descriptors.len()), (Ok(Message::Freeze), 2));
        // What was said before the end is heard, also when the other had not read everything.
        send(&here, &Message::Freeze, &[]).unwrap();
        send(&there, &Message::Frozen, &[]).unwrap();
        drop((there, descriptors));
        let hear = || receive_by(&here, &mut buffer(), deadline).unwrap().map(|(message, _)| message.unwrap());
        assert_eq!((hear(), hear()), (Some(Message::Frozen), None));
        drop((second, first));
        assert!(connect(&state).unwrap().is_none(), "a name that nobody listens at is no server");
        remove(&state);
        assert_eq!(fs::read_dir(&state).unwrap().count(), 0);
    }

    #[test]
    fn a_server_that_accepts_nobody_holds_nobody_up_for_long() {
        let state = tempfile::tempdir().unwrap();
        let _listener = listen_in(state.path()).unwrap();
        let mut waiting = Vec::new();
        let error = loop {
            match connect(state.path()) {
                Ok(connected) => waiting.push(connected),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        assert!(waiting.len() < 20);
    }

    #[test]
    fn only_the_same_user_and_root_may_take_over() {
        assert!(may_take_over(1000, 1000) && may_take_over(0, 1000) && may_take_over(0, 0));
        assert!(!may_take_over(1000, 0) && !may_take_over(1001, 1000));
    }
}
