//! A listening socket: what the connections that come through it inherit, [`watch_for_the_lost`], and how it is closed
//! without cutting off anybody, [`take_no_more`].

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::socket::{setsockopt, sockopt};

use crate::limits::{TCP_KEEPALIVE_IDLE, TCP_KEEPALIVE_INTERVAL, TCP_KEEPALIVE_PROBES_MAX};

/// Has the kernel find out about clients that went without a word: whose machine or network is gone, or whom nobody
/// else asks, since HTTP/1.0 has no way to. Connections are told of such an end as of a reset.
///
/// # Errors
/// Those of setsockopt(2).
pub fn watch_for_the_lost(listener: impl AsFd) -> io::Result<()> {
    setsockopt(&listener, sockopt::KeepAlive, &true)?;
    setsockopt(&listener, sockopt::TcpKeepIdle, &(TCP_KEEPALIVE_IDLE.as_secs() as u32))?;
    setsockopt(&listener, sockopt::TcpKeepInterval, &(TCP_KEEPALIVE_INTERVAL.as_secs() as u32))?;
    setsockopt(&listener, sockopt::TcpKeepCount, &TCP_KEEPALIVE_PROBES_MAX)?;
    Ok(())
}

/// Where the flags are in a TCP header, and the one that asks for a connection.
const FLAGS_AT: u32 = 13;
const SYN: u32 = 0x02;

/// From now on the kernel begins no new connection on this listening TCP socket: who asks for one hears nothing and
/// asks again, after a second at first. Connections that are being made are made, and wait to be accepted.
///
/// Closing a listener resets what waits in its queue, and what comes between the last `accept` and the close. With
/// this, the queue runs empty first. It is a property of the socket and not of this descriptor: not for one that
/// another process shares.
///
/// # Errors
/// Those of setsockopt(2).
pub fn take_no_more(listener: impl AsFd) -> io::Result<()> {
    // What a filter of a TCP socket sees begins with the TCP header, over IPv4 and IPv6 alike. A segment with SYN is
    // dropped, every other one passes whole: those that complete a connection, and those of the connections, which
    // inherit the filter. A segment that repeats its SYN means nothing to them.
    let mut program = [
        statement(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, FLAGS_AT),
        libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16, jt: 0, jf: 1, k: SYN },
        statement(libc::BPF_RET | libc::BPF_K, 0),
        statement(libc::BPF_RET | libc::BPF_K, u32::MAX),
    ];
    let program = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let length = size_of::<libc::sock_fprog>() as libc::socklen_t;
    let fd = listener.as_fd().as_raw_fd();
    // SAFETY: the address and the length are those of one live `sock_fprog`, whose pointer and length are those of an
    // array that lives to the end of this function. The kernel copies both and keeps no pointer.
    let result =
        unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, (&raw const program).cast(), length) };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    /// Long enough for anything on this machine, and less than the second after which a client asks again.
    const MOMENT: Duration = Duration::from_millis(300);

    #[test]
    fn a_lost_client_is_found_within_a_minute() {
        use nix::sys::socket::getsockopt;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        watch_for_the_lost(&listener).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (stream, _) = listener.accept().unwrap();
        assert!(getsockopt(&stream, sockopt::KeepAlive).unwrap());
        let idle = getsockopt(&stream, sockopt::TcpKeepIdle).unwrap();
        let interval = getsockopt(&stream, sockopt::TcpKeepInterval).unwrap();
        let probes = getsockopt(&stream, sockopt::TcpKeepCount).unwrap();
        assert_eq!((idle, interval, probes, idle + interval * probes), (30, 10, 3, 60));
    }

    #[test]
    fn who_comes_later_is_not_let_in_and_who_is_in_loses_nothing() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = match TcpListener::bind(address.parse::<SocketAddr>().unwrap()) {
                Ok(listener) => listener,
                Err(error) => {
                    eprintln!("SKIP {address}: {error}");
                    continue;
                }
            };
            let address = listener.local_addr().unwrap();
            let mut accepted = TcpStream::connect(address).unwrap();
            let (mut server_side, _) = listener.accept().unwrap();
            let mut waiting = TcpStream::connect(address).unwrap();
            take_no_more(&listener).unwrap();
            let error = TcpStream::connect_timeout(&address, MOMENT).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);

            waiting.write_all(b"sent later").unwrap();
            let (mut last, _) = listener.accept().unwrap();
            listener.set_nonblocking(true).unwrap();
            assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
            drop(listener);
            let mut heard = [0; 10];
            last.read_exact(&mut heard).unwrap();
            last.write_all(&heard).unwrap();
            waiting.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"sent later");
            accepted.write_all(b"x").unwrap();
            server_side.read_exact(&mut heard[..1]).unwrap();
            assert_eq!(TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        }
    }
}
