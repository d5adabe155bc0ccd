//! TCP sockets as a broker needs them: what kind another's socket is, and one of our own that is like it.

use std::io;
use std::mem::size_of;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::sys::socket::{connect, socket, AddressFamily, SockFlag, SockType, SockaddrStorage};

/// Where a TCP socket is in its life, as far as `connect` cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpState {
    /// Not connected: new, or over.
    Unconnected,
    /// A connection is being made.
    Connecting,
    /// Connected, or on the way out of it.
    Connected,
}

/// What kind of socket a descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketKind {
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// Any other.
    Other,
}

/// What kind of socket this is.
///
/// # Errors
/// ENOTSOCK.
pub fn kind_of(socket: impl AsFd) -> io::Result<SocketKind> {
    let ask = |name| get_int(&socket, libc::SOL_SOCKET, name);
    let (domain, kind, protocol) = (ask(libc::SO_DOMAIN)?, ask(libc::SO_TYPE)?, ask(libc::SO_PROTOCOL)?);
    Ok(match (domain, kind, protocol) {
        (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP) => SocketKind::TcpV4,
        (libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_TCP) => SocketKind::TcpV6,
        _ => SocketKind::Other,
    })
}

/// Where this TCP socket is in its life.
///
/// # Errors
/// Those of getsockopt(2).
pub fn state_of(socket: impl AsFd) -> io::Result<TcpState> {
    // The first byte of `struct tcp_info` is the state, numbered as in the kernel's `tcp_states.h`.
    const SYN_SENT: u8 = 2;
    const SYN_RECEIVED: u8 = 3;
    const CLOSE: u8 = 7;
    let mut info = [0u8; 4];
    get(&socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
    Ok(match info[0] {
        CLOSE => TcpState::Unconnected,
        SYN_SENT | SYN_RECEIVED => TcpState::Connecting,
        _ => TcpState::Connected,
    })
}

/// The error that waits on a socket, which this takes away.
///
/// # Errors
/// Those of getsockopt(2).
pub fn take_error(socket: impl AsFd) -> io::Result<Option<i32>> {
    Ok(Some(get_int(socket, libc::SOL_SOCKET, libc::SO_ERROR)?).filter(|&errno| errno != 0))
}

/// How long a blocking socket may take to connect, if that is set (`SO_SNDTIMEO`).
pub fn send_timeout(socket: impl AsFd) -> Option<Duration> {
    let mut bytes = [0u8; size_of::<libc::timeval>()];
    get(&socket, libc::SOL_SOCKET, libc::SO_SNDTIMEO, &mut bytes).ok()?;
    let (seconds, microseconds) = bytes.split_at(8);
    let word = |half: &[u8]| half.try_into().map(u64::from_ne_bytes).unwrap_or(0);
    let time = Duration::from_secs(word(seconds)) + Duration::from_micros(word(microseconds));
    Some(time).filter(|time| !time.is_zero())
}

/// Whether the socket's calls return at once.
///
/// # Errors
/// Those of fcntl(2).
pub fn is_nonblocking(socket: impl AsFd) -> io::Result<bool> {
    let flags = nix::fcntl::fcntl(socket.as_fd(), nix::fcntl::F_GETFL)?;
    Ok(flags & libc::O_NONBLOCK != 0)
}

/// A new, non-blocking TCP socket for this kind of address.
///
/// # Errors
/// Those of socket(2).
pub fn open(address: &SocketAddr) -> io::Result<TcpStream> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(family, SockType::Stream, flags, None)?.into())
}

/// Begins to connect: whether that is done already.
///
/// # Errors
/// Those of connect(2), but for EINPROGRESS.
pub fn begin_connect(socket: &TcpStream, address: &SocketAddr) -> io::Result<bool> {
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(*address)) {
        Ok(()) => Ok(true),
        Err(nix::errno::Errno::EINPROGRESS | nix::errno::Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Options that a program sets before it connects, by level, name and size in bytes. Both IPv6 ones only matter between
/// two IPv6 sockets; elsewhere the kernel refuses them, and nothing is lost. Not
/// SO_LINGER: the peer of such a socket can hold up who closes it.
const OPTIONS: &[(i32, i32, usize)] = &[
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 4),
    (libc::SOL_SOCKET, libc::SO_OOBINLINE, 4),
    (libc::SOL_SOCKET, libc::SO_RCVLOWAT, 4),
    (libc::SOL_SOCKET, libc::SO_RCVTIMEO, size_of::<libc::timeval>()),
    (libc::SOL_SOCKET, libc::SO_SNDTIMEO, size_of::<libc::timeval>()),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY, 4),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 4),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 4),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 4),
    (libc::IPPROTO_TCP, libc::TCP_SYNCNT, 4),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, 4),
    (libc::IPPROTO_IP, libc::IP_TOS, 4),
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 4),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS, 4),
];

/// Gives `to` the options of `from`, as far as it takes them: an option is a wish.
pub fn copy_options(from: impl AsFd, to: impl AsFd) {
    for &(level, name, size) in OPTIONS {
        let (mut wanted, mut present) = ([0u8; 16], [0u8; 16]);
        let size = size.min(wanted.len());
        if get(&from, level, name, &mut wanted[..size]).is_err() || get(&to, level, name, &mut present[..size]).is_err()
        {
            continue;
        }
        if wanted != present {
            let _ = set(&to, level, name, &wanted[..size]);
        }
    }
    copy_buffer_sizes(from, to);
}

/// Sizes of buffers, where they were set and so do not grow by themselves. The kernel tells since Linux 5.14, and shows
/// the double of what was set.
fn copy_buffer_sizes(from: impl AsFd, to: impl AsFd) {
    /// Of `asm-generic/socket.h`.
    const SO_BUF_LOCK: i32 = 72;
    const SEND_LOCKED: i32 = 1;
    const RECEIVE_LOCKED: i32 = 2;
    let locked = get_int(&from, libc::SOL_SOCKET, SO_BUF_LOCK).unwrap_or(0);
    for (lock, name) in [(SEND_LOCKED, libc::SO_SNDBUF), (RECEIVE_LOCKED, libc::SO_RCVBUF)] {
        if locked & lock != 0 {
            if let Ok(doubled) = get_int(&from, libc::SOL_SOCKET, name) {
                let _ = set(&to, libc::SOL_SOCKET, name, &(doubled / 2).to_ne_bytes());
            }
        }
    }
}

/// Whether a socket that connects to `target`, or has, comes from that very address, as no other machine's does.
/// Nobody is asked for the peer's address, which a socket does not tell before it is connected.
pub fn leads_home(socket: &TcpStream, target: &SocketAddr) -> bool {
    socket.local_addr().is_ok_and(|here| here.ip().to_canonical() == target.ip().to_canonical())
}

fn get_int(socket: impl AsFd, level: i32, name: i32) -> io::Result<i32> {
    let mut bytes = [0u8; 4];
    get(&socket, level, name, &mut bytes)?;
    Ok(i32::from_ne_bytes(bytes))
}

fn get(socket: &impl AsFd, level: i32, name: i32, value: &mut [u8]) -> io::Result<()> {
    let mut length = value.len() as libc::socklen_t;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the address and the length are those of one live, writable slice.
    match unsafe { libc::getsockopt(fd, level, name, value.as_mut_ptr().cast(), &raw mut length) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn set(socket: &impl AsFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the address and the length are those of one live slice, which the kernel only reads.
    match unsafe { libc::setsockopt(fd, level, name, value.as_ptr().cast(), value.len() as libc::socklen_t) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use std::net::TcpStream;
    use std::os::fd::AsRawFd;
    use std::sync::atomic::{AtomicU16, Ordering};

    /// An IPv4 address in memory, of which one thread changes the port while another connects to it.
    #[repr(C)]
    pub(crate) struct FlippingAddress {
        family: AtomicU16,
        port: AtomicU16,
        ip: [u8; 4],
        zero: [u8; 8],
    }

    impl FlippingAddress {
        /// On this machine; the port in network order.
        pub(crate) fn new(port: u16) -> Self {
            let family = AtomicU16::new(libc::AF_INET as u16);
            FlippingAddress { family, port: AtomicU16::new(port), ip: [127, 0, 0, 1], zero: [0; 8] }
        }

        pub(crate) fn set(&self, port: u16) {
            self.port.store(port, Ordering::Relaxed);
        }

        /// 0 or an error number.
        pub(crate) fn connect(&self, socket: &TcpStream) -> i32 {
            let length = std::mem::size_of::<Self>() as libc::socklen_t;
            // SAFETY: the struct has the layout of a `sockaddr_in`, and what changes meanwhile are atomic numbers.
            match unsafe { libc::connect(socket.as_raw_fd(), std::ptr::from_ref(self).cast(), length) } {
                0 => 0,
                _ => std::io::Error::last_os_error().raw_os_error().unwrap_or(-1),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    fn connected() -> (TcpStream, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        (TcpStream::connect(listener.local_addr().unwrap()).unwrap(), listener)
    }

    #[test]
    fn sockets_are_known_by_their_kind_and_files_are_none() {
        let v4: SocketAddr = "1.2.3.4:5".parse().unwrap();
        let v6: SocketAddr = "[2001:4860::1]:5".parse().unwrap();
        assert_eq!(kind_of(open(&v4).unwrap()).unwrap(), SocketKind::TcpV4);
        assert_eq!(kind_of(open(&v6).unwrap()).unwrap(), SocketKind::TcpV6);
        assert_eq!(kind_of(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap(), SocketKind::Other);
        assert_eq!(kind_of(std::os::unix::net::UnixStream::pair().unwrap().0).unwrap(), SocketKind::Other);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(kind_of(file).unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
    }

    #[test]
    fn the_state_is_that_of_the_connection() {
        let (stream, listener) = connected();
        assert_eq!(state_of(&stream).unwrap(), TcpState::Connected);
        let address = listener.local_addr().unwrap();
        assert!(leads_home(&stream, &address));
        assert!(!leads_home(&stream, &"198.41.0.4:80".parse().unwrap()));
        assert_eq!(state_of(open(&address).unwrap()).unwrap(), TcpState::Unconnected);
        drop(listener);
        let refused = open(&address).unwrap();
        match begin_connect(&refused, &address) {
            Ok(done) => assert!(!done),
            Err(error) => assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED)),
        }
        assert_eq!(state_of(&refused).unwrap(), TcpState::Unconnected);
    }

    #[test]
    fn the_way_home_is_known_before_there_is_a_connection() {
        use nix::sys::socket::{bind, listen, Backlog, SockaddrIn};
        let listener = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(listener.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let address = TcpListener::from(listener.try_clone().unwrap()).local_addr().unwrap();
        // Its queue is full after the first one or two; what asks then goes on asking.
        let sockets: Vec<_> = std::iter::repeat_with(|| open(&address).unwrap()).take(4).collect();
        let _: Vec<_> = sockets.iter().map(|socket| begin_connect(socket, &address)).collect();
        let last = sockets.last().unwrap();
        assert_eq!(state_of(last).unwrap(), TcpState::Connecting);
        assert!(last.peer_addr().is_err());
        assert!(leads_home(last, &address));
    }

    #[test]
    fn options_that_were_set_are_copied_and_the_others_stay() {
        let address: SocketAddr = "[2001:4860::1]:5".parse().unwrap();
        let (from, to) = (open(&address).unwrap(), open(&address).unwrap());
        from.set_nodelay(true).unwrap();
        from.set_write_timeout(Some(Duration::from_millis(1500))).unwrap();
        set(&from, libc::SOL_SOCKET, libc::SO_SNDBUF, &20_000i32.to_ne_bytes()).unwrap();
        set(&from, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, &77i32.to_ne_bytes()).unwrap();
        set(&from, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1i32.to_ne_bytes()).unwrap();
        let receive = get_int(&to, libc::SOL_SOCKET, libc::SO_RCVBUF).unwrap();
        copy_options(&from, &to);
        assert!(to.nodelay().unwrap());
        assert_eq!(send_timeout(&to), Some(Duration::from_millis(1500)));
        assert_eq!(get_int(&to, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE).unwrap(), 77);
        assert_eq!(get_int(&to, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY).unwrap(), 1);
        assert_eq!(get_int(&to, libc::SOL_SOCKET, libc::SO_SNDBUF).unwrap(), 40_000);
        assert_eq!(get_int(&to, libc::SOL_SOCKET, libc::SO_RCVBUF).unwrap(), receive);
        assert!(is_nonblocking(&to).unwrap());
    }
}
