//! The address that a caller of `connect` gave, from the bytes that were copied of it.
//!
//! Pure. What comes out is what is judged and what is connected to: nobody looks at the caller's memory again.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::sys::tcp::SocketKind;

/// Bytes of the longest address that is looked at: `struct sockaddr_in6`.
pub(super) const BYTES_MAX: usize = 28;
const V4_BYTES: usize = 16;
/// Without the scope, which old programs leave out.
const V6_BYTES_MIN: usize = 24;

/// Reads an address for a socket of this kind as the kernel would.
///
/// # Errors
/// The error number for the caller.
pub(super) fn parse(bytes: &[u8], kind: SocketKind) -> Result<SocketAddr, i32> {
    let family: [u8; 2] = field(bytes, 0).ok_or(libc::EINVAL)?;
    let (family, least) = (i32::from(u16::from_ne_bytes(family)), [V4_BYTES, V6_BYTES_MIN]);
    match (kind, family) {
        // To disconnect: then the socket could be connected again, and only a broker may do that.
        (_, libc::AF_UNSPEC) => Err(libc::EACCES),
        (SocketKind::Other, _) => Err(libc::EACCES),
        (SocketKind::TcpV4, _) if bytes.len() < least[0] => Err(libc::EINVAL),
        (SocketKind::TcpV6, _) if bytes.len() < least[1] => Err(libc::EINVAL),
        (SocketKind::TcpV4, libc::AF_INET) => {
            let octets: [u8; 4] = field(bytes, 4).ok_or(libc::EINVAL)?;
            Ok(SocketAddr::new(Ipv4Addr::from(octets).into(), port(bytes)?))
        }
        (SocketKind::TcpV6, libc::AF_INET6) => {
            let octets: [u8; 16] = field(bytes, 8).ok_or(libc::EINVAL)?;
            // Neither flow label nor scope is passed on: a scope only matters on a link, where nobody is connected to.
            Ok(SocketAddr::new(Ipv6Addr::from(octets).into(), port(bytes)?))
        }
        _ => Err(libc::EAFNOSUPPORT),
    }
}

fn port(bytes: &[u8]) -> Result<u16, i32> {
    field(bytes, 2).map(u16::from_be_bytes).ok_or(libc::EINVAL)
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4() -> Vec<u8> {
        [&[2, 0, 1, 0xbb, 8, 8, 4, 4][..], &[0; 8]].concat()
    }

    fn v6() -> Vec<u8> {
        let mut bytes = vec![10, 0, 0, 80, 9, 9, 9, 9];
        bytes.extend("2001:4860::1".parse::<Ipv6Addr>().unwrap().octets());
        bytes.extend([7, 0, 0, 0]);
        bytes
    }

    #[test]
    fn addresses_are_read_as_the_kernel_reads_them() {
        assert_eq!(parse(&v4(), SocketKind::TcpV4), Ok("8.8.4.4:443".parse().unwrap()));
        assert_eq!(parse(&[v4(), vec![1; 100]].concat(), SocketKind::TcpV4), Ok("8.8.4.4:443".parse().unwrap()));
        let expected: SocketAddr = "[2001:4860::1]:80".parse().unwrap();
        assert_eq!(parse(&v6(), SocketKind::TcpV6), Ok(expected), "without flow label and scope");
        assert_eq!(parse(&v6()[..24], SocketKind::TcpV6), Ok(expected));
    }

    #[test]
    fn what_is_no_address_of_the_sockets_family_is_refused() {
        assert_eq!(parse(&v6(), SocketKind::TcpV4), Err(libc::EAFNOSUPPORT));
        assert_eq!(parse(&[v4(), vec![0; 16]].concat(), SocketKind::TcpV6), Err(libc::EAFNOSUPPORT));
        assert_eq!(parse(&v4()[..15], SocketKind::TcpV4), Err(libc::EINVAL));
        assert_eq!(parse(&v6()[..23], SocketKind::TcpV6), Err(libc::EINVAL));
        assert_eq!(parse(&[2], SocketKind::TcpV4), Err(libc::EINVAL));
        assert_eq!(parse(&[0, 0], SocketKind::TcpV4), Err(libc::EACCES), "disconnecting");
        assert_eq!(parse(&v4(), SocketKind::Other), Err(libc::EACCES));
        assert_eq!(parse(b"\x01\0/tmp/socket", SocketKind::Other), Err(libc::EACCES), "a Unix socket");
    }
}
