//! Whose an IP address is, by the kernel's own routing: a question over a netlink socket (rtnetlink(7)), which sends
//! nothing to the network.
//!
//! The route tells more than a list of interfaces does: all of 127.0.0.0/8, and whole networks that somebody has
//! declared local, belong to this machine without being on any interface. The list is asked as well, since an address
//! may be on an interface whose routes are in another table.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{recv, send, socket, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType};

const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const RTA_DST: u16 = 1;
/// `rtm_type` of an ordinary route to somewhere else.
const RTN_UNICAST: u8 = 1;
const HEADER_BYTES: usize = 16;
/// Where `rtm_type` stands in `struct rtmsg`.
const TYPE_OFFSET: usize = HEADER_BYTES + 7;

/// Whether packets to this address would go to one other machine: neither to this one, nor to several. Without any route
/// the answer is yes, and who sends learns of it.
///
/// # Errors
/// When the kernel does not say.
pub fn leads_elsewhere(address: IpAddr) -> io::Result<bool> {
    Ok(is_unicast(address)? && !is_on_an_interface(address)?)
}

fn is_on_an_interface(address: IpAddr) -> io::Result<bool> {
    let mut interfaces = getifaddrs()?.filter_map(|interface| interface.address);
    Ok(interfaces.any(|own| match address {
        IpAddr::V4(address) => own.as_sockaddr_in().is_some_and(|own| own.ip() == address),
        IpAddr::V6(address) => own.as_sockaddr_in6().is_some_and(|own| own.ip() == address),
    }))
}

fn is_unicast(address: IpAddr) -> io::Result<bool> {
    let netlink = netlink()?;
    send(netlink.as_raw_fd(), &question(address), MsgFlags::empty())?;
    let mut answer = [0u8; 2048];
    // The kernel answers within `send`, so there is nothing to wait for.
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
    read_answer(answer.get(..length).unwrap_or_default())
}

fn netlink() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    Ok(socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?)
}

/// `struct nlmsghdr`, `struct rtmsg`, and one attribute: the destination.
fn question(address: IpAddr) -> Vec<u8> {
    let (family, bytes) = match address {
        IpAddr::V4(address) => (libc::AF_INET as u8, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6 as u8, address.octets().to_vec()),
    };
    let attribute_bytes = (4 + bytes.len()) as u16;
    let length = (HEADER_BYTES + 12) as u32 + u32::from(attribute_bytes);
    let mut message = Vec::with_capacity(length as usize);
    message.extend(length.to_ne_bytes());
    message.extend(RTM_GETROUTE.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    // Sequence number and port, which one question on a socket of its own does not need.
    message.extend([0; 8]);
    let bits = (bytes.len() * 8) as u8;
    message.extend([family, bits, 0, 0, 0, 0, 0, 0]);
    message.extend([0; 4]);
    message.extend(attribute_bytes.to_ne_bytes());
    message.extend(RTA_DST.to_ne_bytes());
    message.extend(bytes);
    message
}

fn read_answer(message: &[u8]) -> io::Result<bool> {
    let damaged = || io::Error::from(io::ErrorKind::InvalidData);
    let kind: [u8; 2] = message.get(4..6).and_then(|bytes| bytes.try_into().ok()).ok_or_else(damaged)?;
    match u16::from_ne_bytes(kind) {
        RTM_NEWROUTE => Ok(*message.get(TYPE_OFFSET).ok_or_else(damaged)? == RTN_UNICAST),
        NLMSG_ERROR => {
            let code: [u8; 4] =
                message.get(HEADER_BYTES..HEADER_BYTES + 4).unwrap_or_default().try_into().map_err(|_| damaged())?;
            match -i32::from_ne_bytes(code) {
                libc::ENETUNREACH | libc::EHOSTUNREACH => Ok(true),
                errno => Err(io::Error::from_raw_os_error(errno)),
            }
        }
        _ => Err(damaged()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_this_machine_leads_nowhere_else() {
        for own in ["127.0.0.1", "127.9.8.7", "::1", "0.0.0.0"] {
            assert!(!leads_elsewhere(own.parse().unwrap()).unwrap(), "{own}");
        }
        for several in ["255.255.255.255", "224.0.0.1"] {
            assert!(!is_unicast(several.parse().unwrap()).unwrap_or(false), "{several}");
        }
        let own = getifaddrs().unwrap().filter_map(|interface| interface.address);
        for address in own.filter_map(|own| own.as_sockaddr_in().map(|own| own.ip())) {
            assert!(!is_unicast(address.into()).unwrap(), "{address}");
            assert!(is_on_an_interface(address.into()).unwrap(), "{address}");
        }
    }

    #[test]
    fn an_address_of_others_does_and_so_does_one_without_a_route() {
        for other in ["8.8.8.8", "2001:4860:4860::8888"] {
            assert!(leads_elsewhere(other.parse().unwrap()).unwrap(), "{other}");
        }
    }

    #[test]
    fn an_answer_that_is_cut_is_none() {
        assert!(read_answer(&[]).is_err());
        assert!(read_answer(&[0; 5]).is_err());
        let mut route = vec![0; TYPE_OFFSET];
        route[4..6].copy_from_slice(&RTM_NEWROUTE.to_ne_bytes());
        assert!(read_answer(&route).is_err());
        route.push(RTN_UNICAST);
        assert!(read_answer(&route).unwrap());
        route[TYPE_OFFSET] = 2;
        assert!(!read_answer(&route).unwrap());
    }
}
